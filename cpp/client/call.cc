#include "client/call.h"

#include <algorithm>
#include <array>

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
  for (size_t i = 0; i < n_parts; ++i) {
    if (IsOk(static_cast<Code>(reply.parts[i].code))) continue;
    FailMessage(message, StatusOfPart(message, i, reply.parts[i]));
    return Verdict::kDone;
  }
  if (op_ == Op::kPush) CountLate(reply);
  if (op_ == Op::kPull) CheckFolds(reply);
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

void Call::CheckFolds(const Reply& reply) {
  if (folds_told == nullptr || argument == 0) return;
  for (const PartResult& part : reply.parts) {
    if (part.detail == 0 || !folds_told->IsNews(plan_->spec().id, part.detail - 1)) continue;
    Fail(Status(Code::kValueRange,
                "table '" + plan_->spec().name + "': what the workers pushed in step " +
                    std::to_string(part.detail - 1) +
                    " added up, or led the optimizer, to infinity or NaN for some rows; these were "
                    "left as they were. stats() counts them (left_out) and names one. This is said "
                    "once: pull again to go on. Lower the learning rate or clip the gradients"));
  }
}

Status Call::StatusOfPart(size_t message, size_t part, const PartResult& result) const {
  const Code code = static_cast<Code>(result.code);
  const PlannedMessage& planned = batch_->messages()[message];
  if (code != Code::kValueRange || result.detail == 0 || !CarriesValues(op_) ||
      result.detail > planned.parts[part].n_values) {
    return StatusOf(code, plan_->spec());
  }
  size_t value = result.detail - 1;
  for (size_t i = 0; i < part; ++i) value += planned.parts[i].n_values;
  const TableSpec& spec = plan_->spec();
  const size_t place = batch_->PlaceOf(message, value);
  const std::string index = std::to_string(place / spec.row_width);
  std::string named = place == Batch::kNoPlace ? "a row" : "the row at index " + index;
  const size_t number = planned.keys_begin + value / spec.row_width;
  if (spec.kind == TableKind::kSparse && number < batch_->keys().As<Key>().size()) {
    named = "key " + std::to_string(batch_->keys().As<Key>()[number]) +
            (place == Batch::kNoPlace ? "" : " (index " + index + " of the batch)");
  }
  return Status(code, "table '" + spec.name + "': the " + OpName(op_) + " for " + named +
                          " would leave NaN or infinity in the row or the optimizer's state, and "
                          "was refused with all that it brought for the same shard; other shards "
                          "may have taken their parts. Lower the learning rate, clip the "
                          "gradients, or assign the row anew");
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
    case Op::kStats: {
      const bool is_old = reply.keys.size() == reply.parts.size() * kShardStatsFieldsOld;
      const size_t n_fields = is_old ? kShardStatsFieldsOld : kShardStatsFields;
      if (reply.keys.size() != reply.parts.size() * n_fields) return refuse();
      for (size_t i = 0; i < reply.parts.size(); ++i) {
        std::array<uint64_t, kShardStatsFields> fields{};
        std::ranges::copy(reply.keys.subspan(i * n_fields, n_fields), fields.begin());
        const ShardId shard = planned.parts[i].shard;
        results_.shards.push_back({shard,
                                   plan_->route->views[shard.value].tail(),
                                   {fields[0], fields[1], fields[2], fields[3], fields[4],
                                    fields[5], fields[6], fields[7], fields[8]}});
      }
      return;
    }
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
