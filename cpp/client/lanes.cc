#include "client/lanes.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace fastps {

Request RequestOf(const Call& call, size_t message, SessionId session, BootId boot_id,
                  std::span<const PartHeader> parts, const Buffer& values) {
  const ClusterMap& map = *call.plan().map;
  const PlannedMessage& planned = call.batch().messages()[message];
  Request request;
  request.stamp = {map.cluster_id, map.epoch, map.incarnation, boot_id, map.version};
  request.op = call.op();
  request.table = call.plan().spec().id;
  request.session = session;
  request.argument = call.argument;
  request.parts = parts;
  request.key_set = call.key_set_signature();
  const bool omitted = !parts.empty() && parts[0].n_omitted != 0;
  request.keys =
      call.batch().keys().As<Key>().subspan(planned.keys_begin, omitted ? 0 : planned.n_keys);
  request.values = values.As<float>();
  return request;
}

void OmitKeys(std::vector<PartHeader>* parts) {
  for (PartHeader& part : *parts) part.n_omitted = std::exchange(part.n_keys, 0);
}

Lanes::Lane& Lanes::LaneOf(const ShardPlan& plan, uint32_t lane) {
  const LaneAddress address = plan.lanes[lane];
  const auto [found, is_new] = lanes_.try_emplace(address);
  if (is_new) {
    const ServerInfo& server = *plan.map->FindServer(address.server);
    found->second.boot_id = server.boot_id;
    // A map may name a server without endpoints: the lane stays silent and its calls time out.
    if (address.thread.value < server.endpoints.size()) {
      found->second.endpoint = server.endpoints[address.thread.value];
    }
  }
  return found->second;
}

void Lanes::Enqueue(const std::shared_ptr<Call>& call, std::vector<Buffer> values) {
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
    message->omit_keys = call->MayOmitKeys(i);
    if (IsWrite(call->op())) {
      for (PartHeader& part : message->parts) {
        part.sequence = Sequence(++sequences[part.shard.value].value);
      }
    }
    if (!values.empty()) {
      message->values = std::move(values[i]);
      message->gathered = true;
    }
    LaneOf(plan, messages[i].lane).in_flight.Enqueue(std::move(message));
  }
}

void Lanes::Gather(OutMessage& message) {
  if (message.gathered) return;
  message.values = message.call->GatherValues(message.index, buffers_);
  message.gathered = true;
}

void Lanes::GatherQueued(const Call& call) {
  for (auto& [address, lane] : lanes_) {
    lane.in_flight.ForEachQueued([&](OutMessage& message) {
      if (message.call.get() == &call) Gather(message);
    });
  }
}

void Lanes::SendQueued(int64_t now_ms) {
  for (auto& [address, lane] : lanes_) {
    while (OutMessage* const message = lane.in_flight.NextToSend(now_ms)) {
      const RequestId id(++last_request_id_);
      if (!SendOne(lane, *message, id)) break;
      lane.in_flight.OnSent(id, now_ms);
    }
  }
}

bool Lanes::SendOne(Lane& lane, OutMessage& message, RequestId id) {
  if (!lane.socket) {
    lane.socket.emplace(runtime_, kZmqDealer);
    // Fails only for an endpoint of wrong form; the silence that follows ends in the deadline.
    (void)lane.socket->Connect(lane.endpoint);
  }
  Gather(message);
  std::vector<PartHeader> parts = message.parts;
  if (message.omit_keys) OmitKeys(&parts);
  Request request =
      RequestOf(*message.call, message.index, session_, lane.boot_id, parts, message.values);
  request.request_id = id;
  EncodeRequestHead(request, &head_);
  OutFrame frames[3] = {{head_, {}}};
  size_t n_frames = 1;
  if (!request.keys.empty()) {
    frames[n_frames++] = {std::as_bytes(request.keys), message.call->batch().keys()};
  }
  if (!request.values.empty()) {
    frames[n_frames++] = {std::as_bytes(request.values), message.values};
  }
  return lane.socket->Send({frames, n_frames});
}

std::vector<ZmqPollItem> Lanes::PollItems() {
  std::vector<ZmqPollItem> items;
  polled_.clear();
  for (auto& [address, lane] : lanes_) {
    if (!lane.in_flight.has_sent()) continue;
    items.push_back({lane.socket->raw(), 0, kZmqPollIn, 0});
    polled_.push_back(&lane);
  }
  return items;
}

void Lanes::ReceiveReplies(std::span<const ZmqPollItem> items, int64_t now_ms) {
  FASTPS_CHECK(items.size() == polled_.size());
  InMessage message(runtime_);
  for (size_t i = 0; i < items.size(); ++i) {
    Lane& lane = *polled_[i];
    if (items[i].revents == 0 || !lane.socket) continue;
    while (lane.socket->Receive(&message)) {
      Reply reply;
      if (!decoder_.DecodeReply(message.frames(), &reply).ok()) continue;
      std::shared_ptr<OutMessage> answered = lane.in_flight.TakeReplied(reply.request_id, now_ms);
      if (answered == nullptr) continue;
      switch (answered->call->OnReply(answered->index, reply)) {
        case Call::Verdict::kDone:
          break;
        case Call::Verdict::kAgain:
          lane.in_flight.EnqueueAgain(std::move(answered), now_ms);
          break;
        case Call::Verdict::kNeedKeys:
          answered->omit_keys = false;
          lane.in_flight.Enqueue(std::move(answered));
          break;
      }
    }
  }
}

void Lanes::RestartSilent(int64_t now_ms) {
  for (auto& [address, lane] : lanes_) {
    if (now_ms < lane.in_flight.resend_at_ms()) continue;
    lane.socket.reset();
    lane.in_flight.RestartAll(now_ms);
  }
}

void Lanes::EndWhere(const std::function<Status(ServerId)>& fate) {
  polled_.clear();
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    const Status status = fate(lane->first.server);
    if (status.ok()) {
      ++lane;
      continue;
    }
    for (const auto& message : lane->second.in_flight.TakeAll()) {
      message->call->FailMessage(message->index, status);
    }
    lane = lanes_.erase(lane);
  }
}

void Lanes::FailAll(const Status& status) {
  for (auto& [address, lane] : lanes_) {
    for (const auto& message : lane.in_flight.TakeAll()) {
      message->call->FailMessage(message->index, status);
    }
  }
}

size_t Lanes::bytes_in_flight() const {
  size_t bytes = 0;
  for (const auto& [address, lane] : lanes_) bytes += lane.in_flight.bytes();
  return bytes;
}

int64_t Lanes::NextTimer(int64_t now_ms) const {
  int64_t at_ms = kNeverMs;
  for (const auto& [address, lane] : lanes_) {
    at_ms = std::min({at_ms, lane.in_flight.resend_at_ms(), lane.in_flight.pause_ends_ms(now_ms)});
  }
  return at_ms;
}

}  // namespace fastps
