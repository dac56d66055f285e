#include "stress/caller.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace fastps::stress {
namespace {

constexpr int64_t kPatienceMs = 60'000;

}  // namespace

std::unique_ptr<OpenCall> Caller::Start(Op op, std::shared_ptr<const ShardPlan> plan,
                                        std::shared_ptr<const Batch> batch,
                                        std::shared_ptr<KeySetState> state,
                                        std::vector<float> values, How how, const Terms& terms) {
  field_.n_calls.fetch_add(1, std::memory_order_relaxed);
  auto open = std::make_unique<OpenCall>();
  open->values = std::move(values);
  if (op == Op::kPull) open->values.resize(batch->n_places());
  if (op == Op::kContains) open->flags.resize(batch->n_places() / plan->spec().row_width);
  const CallArrays arrays{open->values.data(), open->values.data(), open->flags.data()};
  open->call =
      std::make_shared<Call>(op, std::move(plan), std::move(batch), arrays, std::move(state));
  open->call->argument = terms.argument;
  open->call->gate = terms.gate;
  const auto mode = how == How::kAsync ? Client::Mode::kAsync : Client::Mode::kBlocking;
  client_.Start(open->call, mode, NowMs() + kPatienceMs);
  return open;
}

std::unique_ptr<OpenCall> Caller::StartKeys(Op op, TableId table, std::span<const Key> keys,
                                            std::vector<float> values, How how,
                                            const Terms& terms) {
  const std::shared_ptr<const ShardPlan> plan = client_.PlanOf(table, UseOf(op));
  if (plan == nullptr) return nullptr;
  Status status;
  std::shared_ptr<const Batch> batch = MakeKeyBatch(*plan, keys, client_.buffers(), &status);
  if (batch == nullptr) {
    STRESS_FAIL(field_, "no batch: %s", status.message().c_str());
    return nullptr;
  }
  return Start(op, plan, std::move(batch), nullptr, std::move(values), how, terms);
}

std::unique_ptr<OpenCall> Caller::StartSet(Op op, TableId table, KeySet& keys,
                                           std::vector<float> values, How how, const Terms& terms) {
  const std::shared_ptr<const ShardPlan> plan = client_.PlanOf(table, UseOf(op));
  if (plan == nullptr) return nullptr;
  Status status;
  std::shared_ptr<KeySetState> state = keys.StateOn(plan, client_.buffers(), &status);
  if (state == nullptr) {
    STRESS_FAIL(field_, "no batch: %s", status.message().c_str());
    return nullptr;
  }
  std::shared_ptr<const Batch> batch = state->batch();
  return Start(op, plan, std::move(batch), std::move(state), std::move(values), how, terms);
}

std::unique_ptr<OpenCall> Caller::StartDense(Op op, TableId table,
                                             std::span<const uint64_t> dense_rows,
                                             std::vector<float> values, How how,
                                             const Terms& terms) {
  const std::shared_ptr<const ShardPlan> plan = client_.PlanOf(table, UseOf(op));
  if (plan == nullptr) return nullptr;
  std::shared_ptr<const Batch> batch = dense_rows.empty()
                                           ? MakeWholeBatch(*plan, client_.buffers())
                                           : MakeRowBatch(*plan, dense_rows, client_.buffers());
  return Start(op, plan, std::move(batch), nullptr, std::move(values), how, terms);
}

Code Caller::Finish(OpenCall& open, std::initializer_list<Code> may_fail) {
  Call& call = *open.call;
  if (!client_.Wait(call, NowMs() + kPatienceMs)) {
    STRESS_FAIL(field_, "%s on %s has not ended", OpName(call.op()),
                call.plan().spec().name.c_str());
    client_.Detach(call);
    return Code::kTimeout;
  }
  call.observed = true;
  const Code code = call.status().code();
  if (code == Code::kOk) {
    for (const size_t row : open.rows) open.book->acknowledged[row].fetch_add(1);
  } else if (std::ranges::find(may_fail, code) == may_fail.end()) {
    STRESS_FAIL(field_, "%s on %s: %s", OpName(call.op()), call.plan().spec().name.c_str(),
                call.status().message().c_str());
  }
  return code;
}

std::vector<float> Caller::PullRows(TableId table, std::span<const Key> keys) {
  const auto open = StartKeys(Op::kPull, table, keys, {}, How::kWait);
  if (open == nullptr) return {};
  Finish(*open);
  return std::move(open->values);
}

std::vector<float> Caller::PullDense(TableId table) {
  const auto open = StartDense(Op::kPull, table, {}, {}, How::kWait);
  Finish(*open);
  return std::move(open->values);
}

void Caller::ScanAll(TableId table, const std::function<void(Key)>& visit) {
  const std::shared_ptr<const ShardPlan> plan = client_.PlanOf(table, Use::kRead);
  for (uint32_t shard = 0; shard < plan->spec().num_shards; ++shard) {
    for (uint64_t cursor = 0; cursor != kScanEnd;) {
      auto call = std::make_shared<Call>(
          Op::kScan, plan, MakeScanBatch(*plan, ShardId(shard), cursor, client_.buffers()),
          CallArrays());
      call->argument = 33;
      client_.Start(call, Client::Mode::kBlocking, NowMs() + kPatienceMs);
      OpenCall open;
      open.call = call;
      if (Finish(open) != Code::kOk) return;
      for (const Key key : call->results().scanned_keys) visit(key);
      cursor = call->results().next_cursor;
    }
  }
}

std::vector<ShardReport> Caller::Stats(TableId table) {
  const std::shared_ptr<const ShardPlan> plan = client_.PlanOf(table, Use::kRead);
  const auto open = Start(Op::kStats, plan, MakeShardBatch(*plan), nullptr, {}, How::kWait, {});
  Finish(*open);
  if (open->call->results().shards.size() != plan->spec().num_shards) {
    STRESS_FAIL(field_, "stats miss a shard");
  }
  return std::move(open->call->results().shards);
}

uint64_t Caller::CountRows(TableId table) {
  uint64_t rows = 0;
  for (const ShardReport& report : Stats(table)) rows += report.stats.rows;
  return rows;
}

}  // namespace fastps::stress
