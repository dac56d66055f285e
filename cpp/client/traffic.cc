#include "client/traffic.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fastps {
namespace {

Status LostStatus() { return Status(Code::kServerLost, "every copy of the shard is lost"); }

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
    made.push_back(
        {LaneOfShard(*map_, view, ShardId(shard), use), view.number, map_->IsLost(view)});
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
    bool lost = false;
    for (const PartHeader& part : messages[i].parts) {
      if (destinations == nullptr || !(*destinations)[part.shard.value].lost) continue;
      NameLost(call, part.shard);
      lost = true;
    }
    if (destinations == nullptr) {
      call.FailMessage(i, DroppedStatus(call.plan().spec()));
    } else if (lost) {
      call.FailMessage(i, LostStatus());
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
  // What the other parts were numbered for must arrive all the same, or the shards would wait for
  // these numbers for ever.
  if (!lost.empty()) Fail(*CutOut(*message, lost), LostStatus());
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
}

size_t Traffic::bytes_in_flight() const {
  size_t bytes = 0;
  for (const auto& [address, lane] : lanes_) bytes += lane.bytes();
  return bytes;
}

}  // namespace fastps
