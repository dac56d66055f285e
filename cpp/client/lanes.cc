#include "client/lanes.h"

#include <algorithm>

#include "base/check.h"

namespace fastps {

ZmqSocket& Lanes::SocketOf(LaneAddress lane) {
  const auto [found, is_new] = sockets_.try_emplace(lane, runtime_, kZmqDealer);
  if (is_new) {
    // A map may name a server without endpoints: the lane stays silent and its calls time out. So
    // it does when the endpoint has a wrong form.
    const ServerInfo* const server = traffic_.map().FindServer(lane.server);
    if (server != nullptr && lane.thread.value < server->endpoints.size()) {
      (void)found->second.Connect(server->endpoints[lane.thread.value]);
    }
  }
  return found->second;
}

void Lanes::CloseUnused() {
  std::erase_if(sockets_,
                [&](const auto& entry) { return !traffic_.lanes().contains(entry.first); });
}

void Lanes::SendQueued(int64_t now_ms) {
  CloseUnused();
  for (auto& [address, lane] : traffic_.lanes()) {
    while (OutMessage* const message = lane.NextToSend(now_ms)) {
      const RequestId id(++last_request_id_);
      if (!SendOne(address, *message, id)) break;
      lane.OnSent(id, now_ms);
    }
  }
}

bool Lanes::SendOne(LaneAddress lane, OutMessage& message, RequestId id) {
  const ServerInfo* const server = traffic_.map().FindServer(lane.server);
  if (server == nullptr) return false;
  traffic_.Gather(message);
  std::vector<PartHeader> parts = message.parts;
  if (message.omit_keys) OmitKeys(&parts);
  const std::span<const Key> keys =
      message.keys.As<Key>().subspan(message.keys_begin, message.n_keys);
  Request request = RequestOf(*message.call, StampOf(traffic_.map(), server->boot_id), session_,
                              parts, keys, message.values);
  request.request_id = id;
  EncodeRequestHead(request, &head_);
  OutFrame frames[3] = {{head_, {}}};
  size_t n_frames = 1;
  if (!request.keys.empty()) frames[n_frames++] = {std::as_bytes(request.keys), message.keys};
  if (!request.values.empty()) frames[n_frames++] = {std::as_bytes(request.values), message.values};
  return SocketOf(lane).Send({frames, n_frames});
}

std::vector<ZmqPollItem> Lanes::PollItems() {
  std::vector<ZmqPollItem> items;
  polled_.clear();
  for (auto& [address, lane] : traffic_.lanes()) {
    const auto socket = sockets_.find(address);
    if (!lane.has_sent() || socket == sockets_.end()) continue;
    items.push_back({socket->second.raw(), 0, kZmqPollIn, 0});
    polled_.push_back(address);
  }
  return items;
}

void Lanes::ReceiveReplies(std::span<const ZmqPollItem> items, int64_t now_ms) {
  FASTPS_CHECK(items.size() == polled_.size());
  InMessage message(runtime_);
  for (size_t i = 0; i < items.size(); ++i) {
    const auto socket = sockets_.find(polled_[i]);
    if (items[i].revents == 0 || socket == sockets_.end()) continue;
    while (socket->second.Receive(&message)) {
      Reply reply;
      if (!decoder_.DecodeReply(message.frames(), &reply).ok()) continue;
      traffic_.OnReply(polled_[i], reply, now_ms);
    }
  }
}

void Lanes::RestartSilent(int64_t now_ms) {
  for (auto& [address, lane] : traffic_.lanes()) {
    if (now_ms < lane.resend_at_ms()) continue;
    sockets_.erase(address);
    lane.RestartAll(now_ms);
  }
}

int64_t Lanes::NextTimer(int64_t now_ms) const {
  int64_t at_ms = kNeverMs;
  for (const auto& [address, lane] : traffic_.lanes()) {
    at_ms = std::min({at_ms, lane.resend_at_ms(), lane.pause_ends_ms(now_ms)});
  }
  return at_ms;
}

}  // namespace fastps
