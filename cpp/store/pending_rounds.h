// PendingRounds: what a shard of a table under BSP was pushed and has not applied yet. No locks:
// Shard holds one around every call.
//
// The pushes of a round wait per session. When the round closes, those of its members are added
// up: each worker's in call order, then the workers in rank order. At most two rounds are open, so
// the memory is bounded by what the workers push in two steps.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/types.h"
#include "store/shard_data.h"
#include "store/shard_image.h"
#include "wire/notices.h"

namespace fastps {

class PendingRounds {
 public:
  explicit PendingRounds(Round first) : folded_(first) {}

  // Rounds below are folded.
  Round folded() const { return folded_; }

  enum class State {
    kFolded,  // a push to it comes too late
    kOpen,
    kAhead,  // the round before the one before it is not folded yet
  };
  State StateOf(Round round) const {
    if (round < folded_) return State::kFolded;
    return round.value - folded_.value < kOpenRoundsMax ? State::kOpen : State::kAhead;
  }

  // Keeps a push. Requires: the round is not folded, and `data` took the selection.
  void Add(SessionId session, Round round, Selection selection, std::span<const float> gradients,
           const ShardData& data);

  // Folds the next round: what its members pushed, added up, or nothing when they pushed nothing.
  // What others pushed to it is dropped.
  std::optional<Gradients> Fold(const std::vector<RoundMember>& members, const ShardData& data);

  // The part of the open rounds in an image; see shard_image.h. Read is false when what it says
  // cannot have been pushed to `data`. Requires for Read: nothing was added.
  void Write(ImageWriter* image) const;
  bool Read(ImageReader* image, const ShardData& data);

  bool empty() const { return pushes_.empty(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr uint64_t kOpenRoundsMax = 2;
  // A worker's pushes are added up when they are so many, so that what it pushes again and again
  // takes the room of its distinct rows.
  static constexpr size_t kPushesKeptMax = 8;

  using Pushes = std::vector<Gradients>;  // of one session, in call order

  static bool ReadPush(ImageReader* image, const ShardData& data, Gradients* push);

  Round folded_;
  std::map<std::pair<Round, SessionId>, Pushes> pushes_;
  size_t bytes_ = 0;
};

}  // namespace fastps
