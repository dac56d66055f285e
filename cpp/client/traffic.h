// Traffic: what a client has under way, on which lane each message goes by the cluster map in
// force, and what a newer map changes. Pure: no sockets, threads or clocks. Guarded by the client's
// mutex.
//
// On a newer map every message whose shards have another view or another lane is planned anew: it
// goes again, the same content under the same sequences, to where its shards are now - in pieces
// when these are several lanes. The shards' order of writes stays, because all messages of a shard
// are on one lane, which sends by number.
//
// A write that was numbered before every copy of its shard was lost fails its call but is *kept*:
// the shard may come back with all it had, and would wait for that number for ever. A map that
// shows it served again sends the same content on, before any later write; later writes meanwhile
// are refused before they are numbered.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "client/call.h"
#include "client/in_flight.h"
#include "client/shard_plan.h"
#include "wire/message.h"

namespace fastps {

// Whom a message to the server with `boot_id` is meant for.
Stamp StampOf(const ClusterMap& map, BootId boot_id);

// The request for some parts of a message of `call`, with all keys of these parts; the arguments
// keep alive what its spans point at. Parts whose keys are left out say so themselves.
Request RequestOf(const Call& call, const Stamp& stamp, SessionId session,
                  std::span<const PartHeader> parts, std::span<const Key> keys,
                  const Buffer& values);

// Leaves the keys of `parts` out.
void OmitKeys(std::vector<PartHeader>* parts);

class Traffic {
 public:
  using Lanes = std::map<LaneAddress, InFlight>;

  // `bytes_kept_max` bounds what is kept of writes to lost shards.
  Traffic(BufferPool& buffers, std::shared_ptr<const ClusterMap> map,
          size_t bytes_kept_max = limits::kLostBytesKeptMax)
      : buffers_(buffers), bytes_kept_max_(bytes_kept_max), map_(std::move(map)) {}

  const ClusterMap& map() const { return *map_; }
  Lanes& lanes() { return lanes_; }
  const Lanes& lanes() const { return lanes_; }

  // Ends a call that has not been numbered yet and cannot succeed: its table is gone, or every copy
  // of one of its shards. False when it can.
  bool FailIfLost(Call& call);

  // Numbers and queues every message of `call`, whatever map it was planned with. `values` are
  // those of each message, or empty: then they are gathered right before each is sent.
  void Enqueue(const std::shared_ptr<Call>& call, std::vector<Buffer> values);

  // Fills the values of a message from the caller's arrays, unless that was done.
  void Gather(OutMessage& message);
  // The same for what `call` has queued, so that its arrays are not needed any more.
  void GatherQueued(const Call& call);

  // Makes `map` the one in force. Lanes without messages to servers that are lost or gone end.
  void Replan(std::shared_ptr<const ClusterMap> map);

  // The calls that the newest maps made of kept writes; nobody waits for them yet. Each is given
  // once.
  std::vector<std::shared_ptr<Call>> TakeResumed() { return std::exchange(resumed_, {}); }

  // Takes what came on a lane in answer to a message.
  void OnReply(LaneAddress lane, const Reply& reply, int64_t now_ms);

  // Ends everything in flight.
  void FailAll(const Status& status);

  // Of all messages that have not ended.
  size_t bytes_in_flight() const;
  // Of writes to lost shards that are kept.
  size_t bytes_kept() const { return bytes_kept_; }

 private:
  // Where the parts of one shard go by the map in force.
  struct Destination {
    LaneAddress lane;
    ViewNumber view;
    bool lost;      // nothing is to be sent there
    bool given_up;  // because this session cannot, whoever serves the shard
  };

  // Writes to one lost shard that have their sequences.
  struct Kept {
    std::vector<std::shared_ptr<OutMessage>> messages;  // in no order
    bool given_up = false;  // they were too many: the session cannot write there any more
  };

  static void SendMissing(InFlight& lane, const OutMessage& refused, const Reply& reply);
  // By shard of the call's table; null when the map has no such table. Valid until the next map.
  const std::vector<Destination>* DestinationsOf(const Call& call);
  bool Stays(const OutMessage& message, LaneAddress lane);
  // Queues a message where its shards are, in pieces if need be; ends those of lost shards.
  void Place(std::shared_ptr<OutMessage> message);
  // A piece of `message` with the parts `chosen`, which rise. Requires: its values are gathered.
  std::shared_ptr<OutMessage> CutOut(const OutMessage& message, std::span<const uint32_t> chosen);
  // Keeps the `lost` parts of a message, which rise: each shard's as a call of its own.
  void Keep(OutMessage& message, std::span<const uint32_t> lost);
  // Sends on what is kept of shards that are served again.
  void SendKept();
  void NameLost(Call& call, ShardId shard) const;
  void Fail(OutMessage& message, const Status& status);
  static void EndJoined(OutMessage& message);

  BufferPool& buffers_;
  const size_t bytes_kept_max_;
  std::shared_ptr<const ClusterMap> map_;
  Lanes lanes_;
  std::map<std::pair<TableId, Use>, std::vector<Destination>> destinations_;
  std::unordered_map<TableId, std::vector<Sequence>> last_sequences_;  // by shard
  uint64_t last_message_number_ = 0;
  std::map<std::pair<TableId, ShardId>, Kept> kept_;
  size_t bytes_kept_ = 0;  // of all messages in kept_; <= bytes_kept_max_
  std::vector<std::shared_ptr<Call>> resumed_;
};

}  // namespace fastps
