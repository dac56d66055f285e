// KeySetMemory: where the rows of key lists seen before stand, so that a repeated batch need not
// send nor look up its keys. No locks: one thread at a time.
//
// A list is known by a 128-bit cryptographic signature of all of it, and a part by its number in
// the client's split of that list, so that two lists never pass for one another. What is remembered
// holds for one *mapping version* of the shard, which changes whenever a row moves or goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/types.h"

namespace fastps {

// One part of one client's key set, as split for this shard.
struct KeySetRef {
  SessionId session;
  KeySetSignature signature;
  uint32_t part = 0;  // from 1
  friend constexpr auto operator<=>(const KeySetRef&, const KeySetRef&) = default;
};

class KeySetMemory {
 public:
  using Places = std::vector<uint32_t>;

  // The places of `ref`'s keys in their order, or null when they are not known for `version`.
  // Valid until the next call.
  const Places* Recall(const KeySetRef& ref, uint64_t version);

  // Remembers `places`, and forgets the oldest lists until at most `n_places_max` remain in all,
  // where each list counts for kPlacesPerList more. False when they alone are too many.
  bool Remember(const KeySetRef& ref, uint64_t version, Places places, size_t n_places_max);

  // Forgets the lists of sessions for which `is_live` is false.
  template <class IsLive>
  void ForgetSessions(IsLive is_live) {
    std::erase_if(known_, [&](const auto& entry) {
      const bool ended = !is_live(entry.first.session);
      if (ended) n_places_ -= CountOf(entry.second.places);
      return ended;
    });
    std::erase_if(order_, [&](const KeySetRef& ref) { return !is_live(ref.session); });
  }

  size_t bytes() const { return n_places_ * sizeof(uint32_t); }

 private:
  struct Hash {
    size_t operator()(const KeySetRef& ref) const {
      return ref.signature.bits[0] ^ (ref.session.value * 0x9e3779b97f4a7c15u) ^ ref.part;
    }
  };
  // What a list costs besides its places: entries of the map and of the order. Without it a
  // stranger's empty lists would cost memory without end.
  static constexpr size_t kPlacesPerList = 48;
  static size_t CountOf(const Places& places) { return places.size() + kPlacesPerList; }

  struct Known {
    uint64_t version;
    Places places;
  };

  std::unordered_map<KeySetRef, Known, Hash> known_;
  std::deque<KeySetRef> order_;  // oldest first
  size_t n_places_ = 0;          // CountOf, over all of known_
};

}  // namespace fastps
