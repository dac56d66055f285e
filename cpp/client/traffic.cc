#include "client/traffic.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fastps {
namespace {

Status LostStatus() {
  return Status(Code::kServerLost, "Their rows are gone; start the job again");
}

Status GivenUpStatus() {
  return Status(Code::kServerLost,
                "Should it be back: more of this session's writes to them were under way than are "
                "kept; connect again to write to them");
}

Status DroppedStatus(const TableSpec& spec) {
  return Status(Code::kTableNotFound,
                "table '" + spec.name + "' is not in the cluster map any more; it was dropped");
}

// The most parts that one shard has. Requires: those of one shard follow each other.
uint32_t MostPartsOfOneShard(std::span<const PartHeader> parts) {
  uint32_t most = 0, run = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    run = i > 0 && parts[i].shard == parts[i - 1].shard ? run + 1 : 1;
    most = std::max(most, run);
  }
  return most;
}

// A buffer with slices of `from` side by side: element counts of all slices, and which to take.
template <class T, class CountOf>
Buffer GatherSlices(const T* from, size_t n_slices, CountOf count_of,
                    std::span<const uint32_t> chosen, BufferPool& buffers) {
  size_t n = 0;
  for (const uint32_t i : chosen) n += count_of(i);
  Buffer gathered = buffers.Allocate(n * sizeof(T));
  T* to = gathered.As<T>().data();
  size_t next = 0;
  for (size_t i = 0; i < n_slices && next < chosen.size(); ++i) {
    if (chosen[next] == i) {
      if (count_of(i) > 0) std::memcpy(to, from, count_of(i) * sizeof(T));
      to += count_of(i);
      ++next;
    }
    from += count_of(i);
  }
  return gathered;
}

// The batch of one message that was gathered and goes on without the call that it came from.
class KeptBatch final : public Batch {
 public:
  explicit KeptBatch(const OutMessage& message) {
    messages_.push_back({0, message.parts, 0, message.n_keys, message.n_values});
    keys_ = message.keys;
  }
  // Requires of all: never called. Its values were gathered, and a write brings no rows.
  void GatherSums(size_t, const float*, float*) const override {}
  void GatherLast(size_t, const float*, float*) const override {}
  void Scatter(size_t, const float*, float*) const override {}
  void ScatterFlags(size_t, const uint8_t*, uint8_t*) const override {}
  size_t PlaceOf(size_t, size_t) const override { return kNoPlace; }  // the arrays are gone
};

}  // namespace

Stamp StampOf(const ClusterMap& map, BootId boot_id) {
  return {map.cluster_id, map.epoch, map.incarnation, boot_id, map.version};
}

Request RequestOf(const Call& call, const Stamp& stamp, SessionId session,
                  std::span<const PartHeader> parts, std::span<const Key> keys,
                  const Buffer& values) {
  Request request;
  request.stamp = stamp;
  request.op = call.op();
  request.table = call.plan().spec().id;
  request.session = session;
  request.argument = call.argument;
  request.parts = parts;
  request.key_set = call.key_set_signature();
  const bool omitted = !parts.empty() && parts[0].n_omitted != 0;
  request.keys = omitted ? std::span<const Key>() : keys;
  request.values = values.As<float>();
  return request;
}

void OmitKeys(std::vector<PartHeader>* parts) {
  for (PartHeader& part : *parts) part.n_omitted = std::exchange(part.n_keys, 0);
}

const std::vector<Traffic::Destination>* Traffic::DestinationsOf(const Call& call) {
  const TableSpec& spec = call.plan().spec();
  const Use use = UseOf(call.op());
  const auto known = destinations_.find({spec.id, use});
  if (known != destinations_.end()) return &known->second;
  const TableRoute* const route = map_->FindTable(spec.id);
  if (route == nullptr || route->views.size() != spec.num_shards) return nullptr;
  std::vector<Destination>& made = destinations_[{spec.id, use}];
  for (uint32_t shard = 0; shard < route->views.size(); ++shard) {
    const ShardView& view = route->views[shard];
    const auto kept = kept_.find({spec.id, ShardId(shard)});
    const bool given_up = use == Use::kWrite && kept != kept_.end() && kept->second.given_up;
    made.push_back({LaneOfShard(*map_, view, ShardId(shard), use), view.number,
                    given_up || map_->IsLost(view), given_up});
  }
  return &made;
}

void Traffic::NameLost(Call& call, ShardId shard) const {
  const TableRoute* const route = map_->FindTable(call.plan().spec().id);
  call.NameLost(shard, route->views[shard.value].chain());
}

bool Traffic::FailIfLost(Call& call) {
  const auto messages = call.batch().messages();
  const auto* const destinations = DestinationsOf(call);
  bool any_lost = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    bool lost = false, given_up = false;
    for (const PartHeader& part : messages[i].parts) {
      if (destinations == nullptr || !(*destinations)[part.shard.value].lost) continue;
      NameLost(call, part.shard);
      lost = true;
      given_up = given_up || (*destinations)[part.shard.value].given_up;
    }
    if (destinations == nullptr) {
      call.FailMessage(i, DroppedStatus(call.plan().spec()));
    } else if (lost) {
      call.FailMessage(i, given_up ? GivenUpStatus() : LostStatus());
    }
    any_lost = any_lost || lost || destinations == nullptr;
  }
  if (any_lost) call.FailRest();
  return any_lost;
}

void Traffic::Enqueue(const std::shared_ptr<Call>& call, std::vector<Buffer> values) {
  const ShardPlan& plan = call->plan();
  std::vector<Sequence>& sequences = last_sequences_[plan.spec().id];
  sequences.resize(plan.spec().num_shards);
  const auto messages = call->batch().messages();
  for (size_t i = 0; i < messages.size(); ++i) {
    auto message = std::make_shared<OutMessage>();
    message->call = call;
    message->index = i;
    message->number = ++last_message_number_;
    message->parts = call->PartsOf(i);
    message->keys = call->batch().keys();
    message->keys_begin = messages[i].keys_begin;
    message->n_keys = messages[i].n_keys;
    message->n_values = messages[i].n_values;
    if (IsWrite(call->op())) {
      message->n_shard_writes = MostPartsOfOneShard(message->parts);
      for (PartHeader& part : message->parts) {
        part.sequence = Sequence(++sequences[part.shard.value].value);
      }
    }
    if (!values.empty()) {
      message->values = std::move(values[i]);
      message->gathered = true;
    }
    if (plan.map == map_) {
      message->omit_keys = call->MayOmitKeys(i);
      lanes_[plan.lanes[messages[i].lane]].Enqueue(std::move(message));
    } else {
      Place(std::move(message));
    }
  }
}

void Traffic::Gather(OutMessage& message) {
  if (message.gathered) return;
  message.values = message.call->GatherValues(message.index, buffers_);
  message.gathered = true;
}

void Traffic::GatherQueued(const Call& call) {
  for (auto& [address, lane] : lanes_) {
    lane.ForEachQueued([&](OutMessage& message) {
      if (message.call.get() == &call) Gather(message);
    });
  }
}

bool Traffic::Stays(const OutMessage& message, LaneAddress lane) {
  const Call& call = *message.call;
  const auto* const destinations = DestinationsOf(call);
  if (destinations == nullptr) return false;
  return std::ranges::all_of(message.parts, [&](const PartHeader& part) {
    const Destination& now = (*destinations)[part.shard.value];
    return !now.lost && now.view == part.view && now.lane == lane;
  });
}

void Traffic::Replan(std::shared_ptr<const ClusterMap> map) {
  map_ = std::move(map);
  destinations_.clear();
  std::vector<std::shared_ptr<OutMessage>> leaving;
  for (auto& [address, lane] : lanes_) {
    const auto leaves = [&](const OutMessage& message) { return !Stays(message, address); };
    for (auto& message : lane.TakeWhere(leaves)) leaving.push_back(std::move(message));
  }
  for (auto& message : leaving) {
    message->omit_keys = false;  // where it goes they need not be known
    Place(std::move(message));
  }
  SendKept();
  std::erase_if(lanes_, [this](const auto& entry) {
    const ServerInfo* const server = map_->FindServer(entry.first.server);
    return entry.second.empty() && (server == nullptr || server->lost);
  });
}

void Traffic::Place(std::shared_ptr<OutMessage> message) {
  Call& call = *message->call;
  const auto* const destinations = DestinationsOf(call);
  if (destinations == nullptr) return Fail(*message, DroppedStatus(call.plan().spec()));
  std::map<LaneAddress, std::vector<uint32_t>> parts_of_lane;
  std::vector<uint32_t> lost;
  for (uint32_t i = 0; i < message->parts.size(); ++i) {
    PartHeader& part = message->parts[i];
    const Destination& now = (*destinations)[part.shard.value];
    part.view = now.view;
    if (now.lost) {
      NameLost(call, part.shard);
      lost.push_back(i);
    } else {
      parts_of_lane[now.lane].push_back(i);
    }
  }
  Keep(*message, lost);
  if (parts_of_lane.empty()) return Fail(*message, LostStatus());
  if (lost.empty() && parts_of_lane.size() == 1) {
    lanes_[parts_of_lane.begin()->first].Enqueue(std::move(message));
    return;
  }
  Gather(*message);
  if (message->joined == nullptr) {
    message->joined = std::make_shared<JoinedReply>(call.op(), message->parts);
  }
  for (const auto& [lane, chosen] : parts_of_lane) lanes_[lane].Enqueue(CutOut(*message, chosen));
  // The parts of other shards must arrive all the same, or these would wait for their numbers.
  if (!lost.empty()) Fail(*CutOut(*message, lost), LostStatus());
}

void Traffic::Keep(OutMessage& message, std::span<const uint32_t> lost) {
  const Call& call = *message.call;
  if (lost.empty() || !IsWrite(call.op())) return;
  Gather(message);
  const TableId table = call.plan().spec().id;
  const auto shard_of = [&](uint32_t part) { return message.parts[part].shard; };
  for (size_t begin = 0, end = 0; begin < lost.size(); begin = end) {
    while (end < lost.size() && shard_of(lost[end]) == shard_of(lost[begin])) ++end;
    Kept& kept = kept_[{table, shard_of(lost[begin])}];
    if (kept.given_up) continue;
    std::shared_ptr<OutMessage> piece = CutOut(message, lost.subspan(begin, end - begin));
    // The call that it came from fails now, and its arrays and keys may go.
    piece->call = std::make_shared<Call>(call.op(), call.shared_plan(),
                                         std::make_shared<KeptBatch>(*piece), CallArrays{});
    piece->call->argument = call.argument;
    piece->call->n_late_pushes = call.n_late_pushes;
    piece->call->session_refused = call.session_refused;
    piece->index = 0;
    piece->joined = nullptr;
    piece->places.clear();
    bytes_kept_ += piece->bytes();
    kept.messages.push_back(std::move(piece));
    if (bytes_kept_ <= bytes_kept_max_) continue;
    // Without this one those after it could never be applied.
    for (const auto& each : kept.messages) bytes_kept_ -= each->bytes();
    kept = {.messages = {}, .given_up = true};
  }
}

void Traffic::SendKept() {
  for (auto next = kept_.begin(); next != kept_.end();) {
    const auto here = next++;
    Kept& kept = here->second;
    if (kept.given_up) continue;
    const auto* const destinations = DestinationsOf(*kept.messages[0]->call);
    if (destinations != nullptr && (*destinations)[here->first.second.value].lost) continue;
    for (std::shared_ptr<OutMessage>& message : kept.messages) {
      bytes_kept_ -= message->bytes();
      if (destinations == nullptr) continue;  // the table was dropped
      resumed_.push_back(message->call);
      Place(std::move(message));
    }
    kept_.erase(here);
  }
}

std::shared_ptr<OutMessage> Traffic::CutOut(const OutMessage& message,
                                            std::span<const uint32_t> chosen) {
  auto piece = std::make_shared<OutMessage>();
  piece->call = message.call;
  piece->index = message.index;
  piece->number = message.number;
  piece->n_shard_writes = message.n_shard_writes;
  piece->was_sent = message.was_sent;
  piece->n_passed = message.n_passed;
  piece->joined = message.joined;
  const std::vector<PartHeader>& parts = message.parts;
  const PlannedMessage& planned = message.call->batch().messages()[message.index];
  for (const uint32_t i : chosen) {
    piece->parts.push_back(parts[i]);
    piece->places.push_back(message.places.empty() ? i : message.places[i]);
    piece->n_keys += parts[i].n_keys;
    piece->n_values += planned.parts[piece->places.back()].n_values;
  }
  piece->keys = GatherSlices(
      message.keys.As<Key>().data() + message.keys_begin, parts.size(),
      [&](size_t i) { return parts[i].n_keys; }, chosen, buffers_);
  if (CarriesValues(message.call->op())) {
    piece->values = GatherSlices(
        message.values.As<float>().data(), parts.size(),
        [&](size_t i) { return parts[i].n_values; }, chosen, buffers_);
  }
  piece->gathered = true;
  return piece;
}

// A gap says that an earlier write of the shard never came: what was sent of it goes again, or its
// successors would be refused for ever while their answers look like progress.
void Traffic::SendMissing(InFlight& lane, const OutMessage& refused, const Reply& reply) {
  const TableId table = refused.call->plan().spec().id;
  for (const PartResult& part : reply.parts) {
    if (static_cast<Code>(part.code) != Code::kGap) continue;
    const auto is_missing = [&](const OutMessage& message) {
      if (message.number >= refused.number || message.call->plan().spec().id != table) return false;
      return std::ranges::any_of(message.parts, [&](const PartHeader& sent) {
        return sent.shard == part.shard && sent.sequence.value >= part.detail;
      });
    };
    for (auto& message : lane.TakeWhere(is_missing)) lane.Enqueue(std::move(message));
  }
}

void Traffic::OnReply(LaneAddress address, const Reply& reply, int64_t now_ms) {
  const auto found = lanes_.find(address);
  if (found == lanes_.end()) return;
  InFlight& lane = found->second;
  std::shared_ptr<OutMessage> message = lane.TakeReplied(reply.request_id, now_ms);
  if (message == nullptr) return;
  const bool whole = message->joined == nullptr;
  Call::Verdict verdict = whole ? message->call->OnReply(message->index, reply)
                                : Call::VerdictOn(reply, message->parts.size());
  if (verdict == Call::Verdict::kNeedKeys && !message->omit_keys) verdict = Call::Verdict::kAgain;
  switch (verdict) {
    case Call::Verdict::kAgain:
      SendMissing(lane, *message, reply);
      lane.EnqueueAgain(std::move(message), now_ms);
      break;
    case Call::Verdict::kNeedKeys:
      message->omit_keys = false;
      lane.Enqueue(std::move(message));
      break;
    case Call::Verdict::kDone:
      lane.OnEnded();
      if (whole) break;
      message->joined->Take(message->places, reply);
      EndJoined(*message);
      break;
  }
}

void Traffic::Fail(OutMessage& message, const Status& status) {
  if (message.joined == nullptr) return message.call->FailMessage(message.index, status);
  message.joined->Fail(message.places, status);
  EndJoined(message);
}

void Traffic::EndJoined(OutMessage& message) {
  JoinedReply& joined = *message.joined;
  if (!joined.complete()) return;
  if (joined.failure().ok()) {
    message.call->OnReply(message.index, joined.reply());
  } else {
    message.call->FailMessage(message.index, joined.failure());
  }
}

void Traffic::FailAll(const Status& status) {
  for (auto& [address, lane] : lanes_) {
    for (const auto& message : lane.TakeAll()) Fail(*message, status);
  }
  kept_.clear();
  bytes_kept_ = 0;
}

size_t Traffic::bytes_in_flight() const {
  size_t bytes = 0;
  for (const auto& [address, lane] : lanes_) bytes += lane.bytes();
  return bytes;
}

}  // namespace fastps
