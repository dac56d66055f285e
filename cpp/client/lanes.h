// Lanes: the connections of a client, one to each data thread of each server it talks to, and what
// is in flight on them. Guarded by the client's mutex. The methods marked "sockets" are called by
// the thread that leads, or while nobody leads: a socket is never used by two threads at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "client/call.h"
#include "client/in_flight.h"
#include "client/shard_plan.h"
#include "transport/zmq_socket.h"
#include "wire/codec.h"

namespace fastps {

// The request for one message of `call`; `call`, `parts` and `values` keep alive what its spans
// point at. Parts whose keys are left out say so themselves.
Request RequestOf(const Call& call, size_t message, SessionId session, BootId boot_id,
                  std::span<const PartHeader> parts, const Buffer& values);

// Leaves the keys of `parts` out.
void OmitKeys(std::vector<PartHeader>* parts);

class Lanes {
 public:
  Lanes(const ZmqRuntime& runtime, BufferPool& buffers, SessionId session)
      : runtime_(runtime), buffers_(buffers), session_(session) {}

  // Numbers and queues every message of `call`. `values` are those of each message, or empty: then
  // they are gathered right before each is sent.
  void Enqueue(const std::shared_ptr<Call>& call, std::vector<Buffer> values);

  // Gathers the values of what `call` has queued, so that its arrays are not needed any more.
  void GatherQueued(const Call& call);

  // Sockets. Sends what the windows allow.
  void SendQueued(int64_t now_ms);
  // Sockets. The lanes that wait for answers, as items to poll; valid until the lead is given up.
  std::vector<ZmqPollItem> PollItems();
  // Sockets. Takes the answers on the polled lanes. `items` are PollItems', polled.
  void ReceiveReplies(std::span<const ZmqPollItem> items, int64_t now_ms);
  // Sockets. Makes the connections anew that were silent too long.
  void RestartSilent(int64_t now_ms);
  // Sockets. Ends the lanes to servers for which `fate` gives an error, and what is in flight
  // there.
  void EndWhere(const std::function<Status(ServerId)>& fate);
  // Sockets.
  void Clear() { lanes_.clear(); }

  // Ends everything in flight; the sockets stay.
  void FailAll(const Status& status);

  // Of all messages that have not ended.
  size_t bytes_in_flight() const;

  // When something must be sent again, or kNeverMs.
  int64_t NextTimer(int64_t now_ms) const;

 private:
  struct Lane {
    BootId boot_id;
    std::string endpoint;
    std::optional<ZmqSocket> socket;  // connected at the first send
    InFlight in_flight;
  };

  Lane& LaneOf(const ShardPlan& plan, uint32_t lane);
  bool SendOne(Lane& lane, OutMessage& message, RequestId id);
  void Gather(OutMessage& message);

  const ZmqRuntime& runtime_;
  BufferPool& buffers_;
  const SessionId session_;
  std::map<LaneAddress, Lane> lanes_;
  std::vector<Lane*> polled_;  // those of PollItems, in its order
  std::unordered_map<TableId, std::vector<Sequence>> last_sequences_;  // by shard
  uint64_t last_message_number_ = 0;
  uint64_t last_request_id_ = 0;
  Decoder decoder_;
  std::vector<std::byte> head_;
};

}  // namespace fastps
