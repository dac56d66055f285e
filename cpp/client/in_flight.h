// InFlight: what is queued, sent and un-answered on one lane, and when it must be sent again. Pure:
// no sockets, threads or clocks. Guarded by the client's mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/types.h"
#include "client/call.h"

namespace fastps {

// One message of a call on its way. The same content is sent under the same sequences each time.
struct OutMessage {
  std::shared_ptr<Call> call;
  size_t index = 0;               // among the call's planned messages
  uint64_t number = 0;            // its place in the client's order of messages
  std::vector<PartHeader> parts;  // with their sequences
  bool omit_keys = false;         // the server is thought to know them
  Buffer values;
  bool gathered = false;  // values are filled; from then on the caller's arrays are not needed
  size_t bytes() const {
    const PlannedMessage& planned = call->batch().messages()[index];
    return planned.n_keys * sizeof(Key) + planned.n_values * sizeof(float);
  }
};

class InFlight {
 public:
  // Messages leave in the order of their numbers, whatever comes back: writes must arrive in order.
  void Enqueue(std::shared_ptr<OutMessage> message) {
    queued_bytes_ += message->bytes();
    queued_.emplace(message->number, std::move(message));
  }

  // The next message to send, or null while the window is full or a pause lasts.
  OutMessage* NextToSend(int64_t now_ms) const;

  // The message NextToSend gave is on its way under `id`.
  void OnSent(RequestId id, int64_t now_ms);

  // The message that was sent under `id`; null when there is none (a late or repeated reply).
  std::shared_ptr<OutMessage> TakeReplied(RequestId id, int64_t now_ms);

  // The server said "again": the message is queued, and the lane rests for a moment. (When it only
  // needs keys, Enqueue will do.)
  void EnqueueAgain(std::shared_ptr<OutMessage> message, int64_t now_ms);

  // When the silence has lasted too long, or kNeverMs while nothing is out.
  int64_t resend_at_ms() const;
  // When the pause that holds queued messages back ends, or kNeverMs while there is none.
  int64_t pause_ends_ms(int64_t now_ms) const;

  // Queues everything that was sent: the connection is made anew. The next silence may last longer.
  void RestartAll(int64_t now_ms);

  // Takes everything out, in order: the server is lost or the client closes.
  std::vector<std::shared_ptr<OutMessage>> TakeAll();

  bool empty() const { return queued_.empty() && sent_.empty(); }
  size_t bytes() const { return queued_bytes_ + sent_bytes_; }
  bool has_sent() const { return !sent_.empty(); }
  // Calls visit(message) for every message not yet sent.
  template <class Visit>
  void ForEachQueued(Visit visit) const {
    for (const auto& [number, message] : queued_) visit(*message);
  }

 private:
  std::map<uint64_t, std::shared_ptr<OutMessage>> queued_;  // by number
  std::map<RequestId, std::shared_ptr<OutMessage>> sent_;   // by transmission
  size_t queued_bytes_ = 0;
  size_t sent_bytes_ = 0;
  int64_t last_progress_ms_ = 0;
  int64_t resend_after_ms_ = 0;
  int64_t pause_until_ms_ = 0;
};

}  // namespace fastps
