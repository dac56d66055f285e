#include "client/call.h"

#include <algorithm>

namespace fastps {
namespace {

bool IsRetriable(Code code) {
  return code == Code::kRetry || code == Code::kMoved || code == Code::kGap ||
         code == Code::kWrongCluster;
}

bool IsOk(Code code) { return code == Code::kOk || code == Code::kDuplicate; }

Status StatusOf(Code code, const TableSpec& spec) {
  const std::string table = "table '" + spec.name + "': ";
  switch (code) {
    case Code::kMalformed:
      return Status(code, table + "the answers do not fit the request");
    case Code::kTableNotFound:
      return Status(code, table + "the server has no such table; it was dropped");
    case Code::kShapeMismatch:
      return Status(code, table + "the server refused the request: its shape does not fit");
    case Code::kValueRange:
      return Status(code, table + "the server refused a value: NaN, infinite or out of range");
    case Code::kConfig:
      return Status(code, table + "the server refused the setting: it does not fit the optimizer");
    case Code::kSessionEnded:
      return Status(code,
                    "the scheduler ended this client's session (its rank was given to "
                    "another client, or it was silent too long); connect again");
    default:
      return Status(
          code, table + "the server answered with code " + std::to_string(static_cast<int>(code)));
  }
}

}  // namespace

std::vector<PartHeader> Call::PartsOf(size_t message) const {
  std::vector<PartHeader> parts = batch_->messages()[message].parts;
  if (!CarriesValues(op_)) {
    for (PartHeader& part : parts) part.n_values = 0;
  }
  if (!NamesKeySet()) {
    for (PartHeader& part : parts) part.set_part = 0;
  }
  return parts;
}

Buffer Call::GatherValues(size_t message, BufferPool& buffers) const {
  if (!CarriesValues(op_)) return {};
  Buffer values = buffers.Allocate(batch_->messages()[message].n_values * sizeof(float));
  float* const floats = values.As<float>().data();
  if (op_ == Op::kPush) {
    batch_->GatherSums(message, arrays_.values, floats);
  } else {
    batch_->GatherLast(message, arrays_.values, floats);
  }
  return values;
}

Call::Verdict Call::VerdictOn(const Reply& reply, size_t n_parts) {
  if (IsRetriable(reply.code)) return Verdict::kAgain;
  if (!IsOk(reply.code) || reply.parts.size() != n_parts) return Verdict::kDone;
  // A part that must go again takes the message with it: the server answers the others as repeats.
  Verdict verdict = Verdict::kDone;
  for (const PartResult& part : reply.parts) {
    const Code code = static_cast<Code>(part.code);
    if (code == Code::kNeedKeys) return Verdict::kNeedKeys;
    if (IsRetriable(code)) verdict = Verdict::kAgain;
  }
  return verdict;
}

Call::Verdict Call::OnReply(size_t message, const Reply& reply) {
  const size_t n_parts = batch_->messages()[message].parts.size();
  const Verdict verdict = VerdictOn(reply, n_parts);
  if (verdict == Verdict::kNeedKeys) ForgetKeySet(message);
  if (verdict != Verdict::kDone) return verdict;
  if (!IsOk(reply.code)) {
    FailMessage(message, StatusOf(reply.code, plan_->spec()));
    return Verdict::kDone;
  }
  if (reply.parts.size() != n_parts) {
    FailMessage(message,
                Status(Code::kMalformed, "a reply has " + std::to_string(reply.parts.size()) +
                                             " parts, the request had " + std::to_string(n_parts)));
    return Verdict::kDone;
  }
  for (const PartResult& part : reply.parts) {
    const Code code = static_cast<Code>(part.code);
    if (IsOk(code)) continue;
    FailMessage(message, StatusOf(code, plan_->spec()));
    return Verdict::kDone;
  }
  if (op_ == Op::kPush) CountLate(reply);
  const bool all_remembered =
      std::ranges::all_of(reply.parts, [](const PartResult& part) { return part.remembered != 0; });
  if (key_set_ != nullptr && all_remembered && !reply.parts.empty()) key_set_->SetKnown(message);
  if (!detached_) TakeResults(message, reply);
  --n_open_;
  return Verdict::kDone;
}

void Call::CountLate(const Reply& reply) {
  const bool late =
      std::ranges::any_of(reply.parts, [](const PartResult& part) { return part.detail != 0; });
  if (!late || late_) return;
  late_ = true;  // once for all its messages
  if (n_late_pushes != nullptr) n_late_pushes->fetch_add(1, std::memory_order_relaxed);
}

void Call::TakeResults(size_t message, const Reply& reply) {
  const PlannedMessage& planned = batch_->messages()[message];
  const auto refuse = [&] { Fail(Status(Code::kMalformed, "a reply's counts do not fit")); };
  switch (op_) {
    case Op::kPull: {
      size_t wanted = 0;
      for (const PartHeader& part : planned.parts) wanted += part.n_values;
      if (reply.values.size() != wanted) return refuse();
      batch_->Scatter(message, reply.values.data(), arrays_.rows);
      return;
    }
    case Op::kContains:
      if (reply.flags.size() != planned.n_keys) return refuse();
      batch_->ScatterFlags(message, reply.flags.data(), arrays_.flags);
      return;
    case Op::kRemove:
      for (const PartResult& part : reply.parts) results_.n_removed += part.detail;
      return;
    case Op::kScan:
      if (reply.values.size() != reply.keys.size() * plan_->spec().row_width) return refuse();
      results_.scanned_keys.assign(reply.keys.begin(), reply.keys.end());
      results_.scanned_values.assign(reply.values.begin(), reply.values.end());
      results_.next_cursor = reply.parts[0].detail;
      return;
    case Op::kStats:
      if (reply.keys.size() != reply.parts.size() * kShardStatsFields) return refuse();
      for (size_t i = 0; i < reply.parts.size(); ++i) {
        const auto fields = reply.keys.subspan(i * kShardStatsFields, kShardStatsFields);
        const ShardId shard = planned.parts[i].shard;
        results_.shards.push_back({shard,
                                   plan_->route->views[shard.value].tail(),
                                   {fields[0], fields[1], fields[2], fields[3], fields[4]}});
      }
      return;
    case Op::kPush:
    case Op::kAssign:
    case Op::kSetLr:
      return;
  }
}

void Call::NameLost(ShardId shard, std::span<const ServerId> members) {
  lost_shards_.push_back(shard);
  for (const ServerId server : members) {
    if (std::ranges::find(lost_servers_, server) == lost_servers_.end()) {
      lost_servers_.push_back(server);
    }
  }
}

void Call::FailMessage(size_t /*message*/, const Status& status) {
  if (status.code() == Code::kSessionEnded && session_refused != nullptr) *session_refused = true;
  Fail(status);
  --n_open_;
}

void Call::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

}  // namespace fastps
