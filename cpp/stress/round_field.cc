#include "stress/round_field.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"

namespace fastps::stress {
namespace {

constexpr int64_t kPatienceMs = 60'000;

TableSpec RoundSpec(const char* name, TableKind kind, RuleKind rule, uint64_t row_width,
                    uint32_t num_shards, GroupId group = kGroup) {
  const uint64_t n_rows = kind == TableKind::kDense ? kRoundRows : 0;
  TableSpec spec = SpecOf(name, kind, rule, row_width, n_rows, num_shards);
  spec.rounds = RoundsSpec{group, Round(0)};
  return spec;
}

}  // namespace

RoundField::RoundField(Field& field) : field_(field) {
  constexpr RuleKind kSum = RuleKind::kAccumulate;
  tables_ = {Add(RoundSpec("round_rows", TableKind::kSparse, kSum, 3, 6)),
             Add(RoundSpec("round_scalars", TableKind::kSparse, kSum, 1, 4)),
             Add(RoundSpec("round_dense", TableKind::kDense, kSum, 3, 5))};
  const auto add = [&](const TableSpec& spec) { return field.ground->AddTable(spec).id; };
  wild = add(RoundSpec("round_wild", TableKind::kSparse, RuleKind::kAdagrad, 2, 4));
  foreign = add(RoundSpec("round_foreign", TableKind::kSparse, kSum, 1, 2, kOtherGroup));
}

std::shared_ptr<const RoundTable> RoundField::Add(const TableSpec& spec) {
  auto table = std::make_shared<const RoundTable>(field_.ground->AddTable(spec));
  closer().Watch(table->ledger);  // nobody knows the table yet, so no push was missed
  return table;
}

std::shared_ptr<const RoundTable> RoundField::passing() {
  MutexLock lock(mutex_);
  return passing_;
}

void RoundField::ComeAndGo(Client& client, int64_t until_ms) {
  Caller caller(field_, client);
  for (uint32_t round = 0; NowMs() < until_ms; ++round) {
    const TableKind kind = round % 3 == 0 ? TableKind::kDense : TableKind::kSparse;
    const std::shared_ptr<const RoundTable> table =
        Add(RoundSpec("round_passing", kind, RuleKind::kAccumulate, 1 + round % 2, 1 + round % 5));
    {
      MutexLock lock(mutex_);
      passing_ = table;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    CheckFolded(*table, caller);
    if (round % 4 == 0) {
      MutexLock lock(mutex_);
      passing_ = nullptr;
    }
    field_.ground->DropTable(table->spec.id);
    closer().Unwatch(table->ledger.get());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  MutexLock lock(mutex_);
  passing_ = nullptr;
}

void RoundField::Check(const RoundTable& table, std::span<const size_t> rows,
                       std::span<const float> values, Round from) {
  const auto possible = table.ledger->Since(from);
  n_pulls.fetch_add(1);
  if (possible.size() == 1) n_exact.fetch_add(1);
  const size_t width = table.spec.row_width;
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t row = rows[i / width];
    const bool is_right = std::ranges::any_of(possible, [&](const auto& counts) {
      return values[i] == static_cast<float>((*counts)[row]);
    });
    if (is_right) continue;
    STRESS_FAIL(field_, "%s: row %zu: pulled %.0f; with the rounds below %llu it holds %u, now %u",
                table.spec.name.c_str(), row, values[i],
                static_cast<unsigned long long>(from.value), (*possible.front())[row],
                (*possible.back())[row]);
  }
}

void RoundField::CheckFolded(const RoundTable& table, Caller& caller) {
  const Round folded = closer().folded();
  for (const ShardReport& report : caller.Stats(table.spec.id)) {
    if (report.stats.rounds >= folded.value) continue;
    STRESS_FAIL(field_, "%s: shard %u has folded %llu rounds, servers said %llu",
                table.spec.name.c_str(), report.shard.value,
                static_cast<unsigned long long>(report.stats.rounds),
                static_cast<unsigned long long>(folded.value));
  }
}

void RoundField::CheckAll(Client& client) {
  const int64_t until_ms = NowMs() + kPatienceMs;
  while (closer().folded() < closer().closed(kGroup) && NowMs() < until_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const Round closed = closer().closed(kGroup);
  if (closer().folded() < closed) STRESS_FAIL(field_, "a server does not hear of closed rounds");
  Caller caller(field_, client);
  std::vector<size_t> rows;
  std::vector<Key> keys;
  for (size_t row = 0; row < kRoundRows; ++row) {
    rows.push_back(row);
    keys.push_back(KeyOf(row));
  }
  for (const auto& table : tables_) {
    const TableId id = table->spec.id;
    Check(*table, rows, table->is_sparse() ? caller.PullRows(id, keys) : caller.PullDense(id),
          closed);
    CheckFolded(*table, caller);
    for (const ShardReport& report : caller.Stats(id)) n_late.fetch_add(report.stats.late_pushes);
  }
}

}  // namespace fastps::stress
