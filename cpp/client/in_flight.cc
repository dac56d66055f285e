#include "client/in_flight.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace fastps {

OutMessage* InFlight::NextToSend(int64_t now_ms) const {
  if (queued_.empty() || now_ms < pause_until_ms_) return nullptr;
  OutMessage* const next = queued_.begin()->second.get();
  if (sent_.empty()) return next;  // one message may always go, whatever its size
  return HasRoomFor(*next) ? next : nullptr;
}

bool InFlight::HasRoomFor(const OutMessage& next) const {
  if (sent_.size() >= limits::kMessagesInFlightPerLaneMax ||
      sent_bytes_ + next.bytes() > limits::kLaneBytesInFlightMax) {
    return false;
  }
  if (next.was_sent) return true;
  // Answers may overtake each other: a server holds one back until all shards of the message have
  // it safe. The window alone would let any number of later writes pass the one that waits, and its
  // shard remembers only so many answers.
  return std::ranges::none_of(sent_, [&](const auto& entry) {
    const OutMessage& waiting = *entry.second;
    return waiting.number < next.number &&
           waiting.n_shard_writes + waiting.n_passed + next.n_shard_writes >
               limits::kWritesInFlightPerShardMax;
  });
}

void InFlight::OnSent(RequestId id, int64_t now_ms) {
  FASTPS_CHECK(!queued_.empty());
  if (sent_.empty()) {
    last_progress_ms_ = now_ms;
    if (resend_after_ms_ == 0) resend_after_ms_ = limits::kResendAfterMs;
  }
  auto first = queued_.extract(queued_.begin());
  OutMessage& message = *first.mapped();
  queued_bytes_ -= message.bytes();
  sent_bytes_ += message.bytes();
  if (!message.was_sent) {
    message.was_sent = true;
    for (auto& [sent_id, waiting] : sent_) {
      if (waiting->number < message.number) waiting->n_passed += message.n_shard_writes;
    }
  }
  sent_.emplace(id, std::move(first.mapped()));
}

std::shared_ptr<OutMessage> InFlight::TakeReplied(RequestId id, int64_t now_ms) {
  auto found = sent_.extract(id);
  if (found.empty()) return nullptr;
  sent_bytes_ -= found.mapped()->bytes();
  last_progress_ms_ = now_ms;
  resend_after_ms_ = limits::kResendAfterMs;
  return std::move(found.mapped());
}

void InFlight::EnqueueAgain(std::shared_ptr<OutMessage> message, int64_t now_ms) {
  Enqueue(std::move(message));
  if (now_ms < pause_until_ms_) return;  // the lane rests already
  pause_until_ms_ = now_ms + next_pause_ms_;
  next_pause_ms_ = std::min(next_pause_ms_ * 2, limits::kRetryPauseMsMax);
}

int64_t InFlight::resend_at_ms() const {
  return sent_.empty() ? kNeverMs : last_progress_ms_ + resend_after_ms_;
}

int64_t InFlight::pause_ends_ms(int64_t now_ms) const {
  return queued_.empty() || now_ms >= pause_until_ms_ ? kNeverMs : pause_until_ms_;
}

void InFlight::RestartAll(int64_t now_ms) {
  for (auto& [id, message] : sent_) Enqueue(std::move(message));
  sent_.clear();
  sent_bytes_ = 0;
  last_progress_ms_ = now_ms;
  resend_after_ms_ = std::min(resend_after_ms_ * 2, limits::kResendAfterMsMax);
}

std::vector<std::shared_ptr<OutMessage>> InFlight::TakeAll() {
  RestartAll(last_progress_ms_);
  std::vector<std::shared_ptr<OutMessage>> all;
  for (auto& [turn, message] : queued_) all.push_back(std::move(message));
  queued_.clear();
  queued_bytes_ = 0;
  return all;
}

}  // namespace fastps
