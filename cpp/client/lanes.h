// Lanes: the connections of a client, one to each data thread of each server it talks to, and the
// traffic on them. Guarded by the client's mutex. The methods marked "sockets" are called by the
// thread that leads, or while nobody leads: a socket is never used by two threads at once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "client/traffic.h"
#include "transport/zmq_socket.h"
#include "wire/codec.h"

namespace fastps {

class Lanes {
 public:
  Lanes(const ZmqRuntime& runtime, BufferPool& buffers, SessionId session,
        std::shared_ptr<const ClusterMap> map)
      : runtime_(runtime), session_(session), traffic_(buffers, std::move(map)) {}

  // What is to be sent and what was. A lane that ends there has its connection closed with the next
  // SendQueued.
  Traffic& traffic() { return traffic_; }

  // Sockets. Sends what the windows allow.
  void SendQueued(int64_t now_ms);
  // Sockets. The lanes that wait for answers, as items to poll; valid until the lead is given up.
  std::vector<ZmqPollItem> PollItems();
  // Sockets. Takes the answers on the polled lanes. `items` are PollItems', polled.
  void ReceiveReplies(std::span<const ZmqPollItem> items, int64_t now_ms);
  // Sockets. Makes the connections anew that were silent too long.
  void RestartSilent(int64_t now_ms);
  // Sockets.
  void Clear() { sockets_.clear(); }

  // When something must be sent again, or kNeverMs.
  int64_t NextTimer(int64_t now_ms) const;

 private:
  // Closes the connections of lanes that have ended.
  void CloseUnused();
  // The socket of a lane, connected at the first use.
  ZmqSocket& SocketOf(LaneAddress lane);
  bool SendOne(LaneAddress lane, OutMessage& message, RequestId id);

  const ZmqRuntime& runtime_;
  const SessionId session_;
  Traffic traffic_;
  std::map<LaneAddress, ZmqSocket> sockets_;
  std::vector<LaneAddress> polled_;  // the lanes of PollItems, in its order
  uint64_t last_request_id_ = 0;
  Decoder decoder_;
  std::vector<std::byte> head_;
};

}  // namespace fastps
