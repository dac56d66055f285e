#include "stress/round_worker.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/clock.h"

namespace fastps::stress {
namespace {

constexpr int64_t kPatienceMs = 60'000;

using How = Caller::How;

std::vector<Key> KeysOf(std::span<const size_t> rows) {
  std::vector<Key> keys;
  for (const size_t row : rows) keys.push_back(KeyOf(row));
  return keys;
}

// The gates of fastps/consistency.py, now and then with the caller's own clock, as barriers have.
Gate PullGate(uint64_t clock, bool with_clock) { return {0, clock, with_clock ? clock : 0}; }
Gate PushGate(uint64_t clock) { return {0, clock == 0 ? 0 : clock - 1, 0}; }

}  // namespace

void RoundWorker::Act(uint64_t clock, bool in_doubt) {
  switch (Random(in_doubt ? 10 : 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return Push(clock, in_doubt);
    case 4:
    case 5:
    case 6:
      return Pull(clock, in_doubt);
    case 7:
      return GiveUpPull(clock);
    case 8:
      return Foreign();
    case 9:
      return Wild(clock, in_doubt);
    case 10:
      return PushGatedByMinimum(clock);
    case 11:
      return PullAsStranger();
    case 12:
    case 13:
      return PullSet(clock);
    default:
      return Push(clock, in_doubt);
  }
}

void RoundWorker::FinishStep() {
  for (const auto& open : writes_) Finish(*open);
  writes_.clear();
  for (OpenPull& pull : pulls_) FinishPull(pull);
  pulls_.clear();
}

void RoundWorker::FinishAll() {
  has_ended_ = true;
  FinishStep();
}

std::shared_ptr<const RoundTable> RoundWorker::RandomTable() {
  const size_t n_tables = rounds_.tables().size();
  const size_t number = Random(n_tables + 1);
  std::shared_ptr<const RoundTable> passing;
  if (number == n_tables) passing = rounds_.passing();
  return passing != nullptr ? passing : rounds_.tables()[number % n_tables];
}

std::vector<size_t> RoundWorker::RandomRows() {
  std::vector<size_t> rows(1 + Random(20));
  for (size_t& row : rows) row = Random(kRoundRows);
  return rows;
}

bool RoundWorker::WaitForGate(const Gate& gate) {
  Status status;
  if (Random(4) == 0) {
    (void)client_.WaitForGate(gate, NowMs() + static_cast<int64_t>(Random(2)), &status);
  }
  if (!client_.WaitForGate(gate, NowMs() + kPatienceMs, &status)) {
    STRESS_FAIL(field_, "a gate stays closed: rounds %llu, minimum %llu",
                static_cast<unsigned long long>(gate.rounds),
                static_cast<unsigned long long>(gate.minimum));
    return false;
  }
  return status.ok();
}

std::unique_ptr<OpenCall> RoundWorker::Start(Op op, const RoundTable& table,
                                             std::span<const size_t> rows,
                                             std::vector<float> values, Way way, Terms terms) {
  if (way == Way::kWaitFirst && !WaitForGate(terms.gate)) return nullptr;
  if (way != Way::kGated) terms.gate = {};
  const How how = way == Way::kGated || way == Way::kServerAsync ? How::kAsync : How::kWait;
  if (table.is_sparse()) {
    return caller_.StartKeys(op, table.spec.id, KeysOf(rows), std::move(values), how, terms);
  }
  const std::vector<uint64_t> dense_rows(rows.begin(), rows.end());
  return caller_.StartDense(op, table.spec.id, dense_rows, std::move(values), how, terms);
}

Code RoundWorker::Finish(OpenCall& open) {
  if (!has_ended_) return caller_.Finish(open, {Code::kTableNotFound});
  return caller_.Finish(open, {Code::kTableNotFound, Code::kSessionEnded, Code::kClosed});
}

void RoundWorker::FinishPull(OpenPull& pull) {
  if (Finish(*pull.open) != Code::kOk) return;
  rounds_.Check(*pull.table, pull.rows, pull.open->values, pull.from);
}

void RoundWorker::Push(uint64_t clock, bool in_doubt) {
  const std::shared_ptr<const RoundTable> table = RandomTable();
  const std::vector<size_t> rows = RandomRows();
  const Way way = RandomWriteWay(in_doubt);
  const bool too_late = client_.told().rounds > clock;
  const uint64_t n_late = client_.n_late_pushes();
  table->ledger->NoteSent(session_, Round(clock), rows);
  rounds_.n_pushes.fetch_add(1);
  auto open =
      Start(Op::kPush, *table, rows, std::vector<float>(rows.size() * table->spec.row_width, 1.0f),
            way, {clock + 1, PushGate(clock)});
  if (open == nullptr) return;  // the table or the session is gone
  if (!in_doubt && Random(8) == 0) {
    // Given up: it counts all the same.
    client_.Detach(*open->call);
    return;
  }
  if (!in_doubt && (too_late || Random(3) == 0)) {
    const Code code = Finish(*open);
    if (too_late && code == Code::kOk && client_.n_late_pushes() == n_late) {
      STRESS_FAIL(field_, "a push came too late and nobody counted it");
    }
    return;
  }
  writes_.push_back(std::move(open));
}

void RoundWorker::Pull(uint64_t clock, bool in_doubt) {
  OpenPull pull{nullptr, RandomTable(), RandomRows(), Round(clock)};
  pull.open = Start(Op::kPull, *pull.table, pull.rows, {}, RandomPullWay(in_doubt),
                    {clock + 1, PullGate(clock, Random(3) == 0)});
  if (pull.open != nullptr) pulls_.push_back(std::move(pull));
}

void RoundWorker::PullSet(uint64_t clock) {
  OpenPull pull{nullptr, rounds_.tables()[0], {}, Round(clock)};
  for (size_t row = 0; row < kRoundRows; ++row) pull.rows.push_back(row);
  const bool gated = Random(2) == 0;
  pull.open =
      caller_.StartSet(Op::kPull, pull.table->spec.id, set_, {}, gated ? How::kAsync : How::kWait,
                       {clock + 1, gated ? PullGate(clock, false) : Gate()});
  if (pull.open != nullptr) pulls_.push_back(std::move(pull));
}

void RoundWorker::PullAsStranger() {
  OpenPull pull{nullptr, RandomTable(), RandomRows(), rounds_.closer().folded()};
  pull.open = Start(Op::kPull, *pull.table, pull.rows, {}, Way::kServer, {});
  if (pull.open != nullptr) FinishPull(pull);
}

void RoundWorker::GiveUpPull(uint64_t clock) {
  const auto open = Start(Op::kPull, *RandomTable(), RandomRows(), {}, Way::kGated,
                          {clock + 2, PullGate(clock + 1, false)});
  if (open == nullptr) return;
  if (Random(2) == 0) (void)client_.Wait(*open->call, NowMs() + static_cast<int64_t>(Random(3)));
  if (Random(2) == 0) (void)client_.IsDone(*open->call);
  client_.Detach(*open->call);
}

void RoundWorker::Wild(uint64_t clock, bool in_doubt) {
  const std::vector<size_t> rows = RandomRows();
  const std::vector<Key> keys = KeysOf(rows);
  const Way way = RandomWriteWay(in_doubt);
  constexpr Op kOps[] = {Op::kPush, Op::kPush, Op::kAssign, Op::kRemove, Op::kContains, Op::kPull};
  const Op op = kOps[Random(std::size(kOps))];
  Terms terms{clock + 1, op == Op::kPush ? PushGate(clock) : PullGate(clock, false)};
  if (way == Way::kWaitFirst && !WaitForGate(terms.gate)) return;
  if (way != Way::kGated) terms.gate = {};
  auto open = caller_.StartKeys(op, rounds_.wild, keys,
                                std::vector<float>(CarriesValues(op) ? keys.size() * 2 : 0, 0.5f),
                                way == Way::kGated ? How::kAsync : How::kWait, terms);
  if (open == nullptr) return;
  if (in_doubt || IsWrite(op)) {
    writes_.push_back(std::move(open));
    return;
  }
  Finish(*open);
  if (!std::ranges::all_of(open->values, [](float value) { return std::isfinite(value); })) {
    STRESS_FAIL(field_, "a pulled value is not finite");
  }
}

void RoundWorker::Foreign() {
  const Key key = KeyOf(1);
  const auto push = caller_.StartKeys(Op::kPush, rounds_.foreign, {&key, 1}, {1.0f}, How::kWait);
  if (push == nullptr) return;
  if (caller_.Finish(*push, {Code::kConfig, Code::kSessionEnded}) == Code::kOk) {
    STRESS_FAIL(field_, "a push of another group was taken");
  }
}

void RoundWorker::PushGatedByMinimum(uint64_t clock) {
  const std::vector<size_t> rows = RandomRows();
  field_.scalar_book.NoteSent(rows);
  auto open = caller_.StartKeys(Op::kPush, field_.scalars, KeysOf(rows),
                                std::vector<float>(rows.size(), 1.0f), How::kAsync,
                                {0, {clock == 0 ? 0 : clock - 1, 0, 0}});
  if (open == nullptr) return;
  open->rows = rows;
  open->book = &field_.scalar_book;
  Finish(*open);
}

}  // namespace fastps::stress
