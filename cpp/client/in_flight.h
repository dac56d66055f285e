// InFlight: what is queued, sent and un-answered on one lane, and when it must be sent again. Pure:
// no sockets, threads or clocks. Guarded by the client's mutex.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/limits.h"
#include "base/types.h"
#include "client/call.h"
#include "client/joined_reply.h"

namespace fastps {

// One message of a call on its way, or a piece of one whose shards lie on several lanes by now. The
// same content is sent under the same sequences each time.
struct OutMessage {
  std::shared_ptr<Call> call;
  size_t index = 0;               // among the call's planned messages
  uint64_t number = 0;            // its place in the client's order of messages
  std::vector<PartHeader> parts;  // with their sequences
  Buffer keys;                    // those of its parts lie side by side in it
  size_t keys_begin = 0;
  size_t n_keys = 0;
  size_t n_values = 0;     // floats that go, or come with the answer
  bool omit_keys = false;  // the server is thought to know them
  Buffer values;
  bool gathered = false;  // values are filled; from then on the caller's arrays are not needed

  // Of a write: the most parts that one shard has in it, whether it was ever sent, and for how many
  // parts of a shard at most later messages were sent since, which may be answered already.
  uint32_t n_shard_writes = 0;
  bool was_sent = false;
  uint32_t n_passed = 0;

  std::shared_ptr<JoinedReply> joined;  // a piece's; null when this is the whole message
  std::vector<uint32_t> places;         // a piece's: where its parts stood in the message

  size_t bytes() const { return n_keys * sizeof(Key) + n_values * sizeof(float); }
};

class InFlight {
 public:
  // Messages leave in the order of their numbers, whatever comes back: writes must arrive in order.
  // (Pieces of one message share no shard.)
  void Enqueue(std::shared_ptr<OutMessage> message) {
    queued_bytes_ += message->bytes();
    const Turn turn{message->number, message->parts.empty() ? 0 : message->parts[0].shard.value};
    queued_.emplace(turn, std::move(message));
  }

  // The next message to send, or null while the window is full or a pause lasts.
  OutMessage* NextToSend(int64_t now_ms) const;

  // The message NextToSend gave is on its way under `id`.
  void OnSent(RequestId id, int64_t now_ms);

  // The message that was sent under `id`; null when there is none (a late or repeated reply).
  std::shared_ptr<OutMessage> TakeReplied(RequestId id, int64_t now_ms);

  // The server said "again": the message is queued, and the lane rests, the longer the more often
  // this comes. (When it only needs keys, Enqueue will do.)
  void EnqueueAgain(std::shared_ptr<OutMessage> message, int64_t now_ms);
  // A message has ended: the next rest is short again.
  void OnEnded() { next_pause_ms_ = limits::kRetryPauseMs; }

  // When the silence has lasted too long, or kNeverMs while nothing is out.
  int64_t resend_at_ms() const;
  // When the pause that holds queued messages back ends, or kNeverMs while there is none.
  int64_t pause_ends_ms(int64_t now_ms) const;

  // Queues everything that was sent: the connection is made anew. The next silence may last longer.
  void RestartAll(int64_t now_ms);

  // Takes everything out, in order: the client closes or its session has ended.
  std::vector<std::shared_ptr<OutMessage>> TakeAll();

  // Takes out, in no order, every message for which leaves(message); what comes in answer to those
  // that were sent will be dropped.
  template <class Leaves>
  std::vector<std::shared_ptr<OutMessage>> TakeWhere(Leaves leaves) {
    std::vector<std::shared_ptr<OutMessage>> taken;
    const auto take_from = [&](auto& messages, size_t& bytes) {
      std::erase_if(messages, [&](auto& entry) {
        if (!leaves(*entry.second)) return false;
        bytes -= entry.second->bytes();
        taken.push_back(std::move(entry.second));
        return true;
      });
    };
    take_from(queued_, queued_bytes_);
    take_from(sent_, sent_bytes_);
    return taken;
  }

  bool empty() const { return queued_.empty() && sent_.empty(); }
  size_t bytes() const { return queued_bytes_ + sent_bytes_; }
  bool has_sent() const { return !sent_.empty(); }
  // Calls visit(message) for every message not yet sent.
  template <class Visit>
  void ForEachQueued(Visit visit) const {
    for (const auto& [turn, message] : queued_) visit(*message);
  }

 private:
  struct Turn {
    uint64_t number;
    uint32_t first_shard;
    friend auto operator<=>(const Turn&, const Turn&) = default;
  };

  bool HasRoomFor(const OutMessage& next) const;

  std::map<Turn, std::shared_ptr<OutMessage>> queued_;
  std::map<RequestId, std::shared_ptr<OutMessage>> sent_;  // by transmission
  size_t queued_bytes_ = 0;
  size_t sent_bytes_ = 0;
  int64_t last_progress_ms_ = 0;
  int64_t resend_after_ms_ = 0;
  int64_t pause_until_ms_ = 0;
  int64_t next_pause_ms_ = limits::kRetryPauseMs;
};

}  // namespace fastps
