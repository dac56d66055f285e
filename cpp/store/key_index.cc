#include "store/key_index.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace fastps {

uint32_t* KeyIndex::Insert(Key key) {
  FASTPS_CHECK(size_ < size_max_);
  size_t b = HomeOf(key);
  while (buckets_[b].used == kAllUsed) {
    uint16_t& overflow = buckets_[b].overflow;
    if (overflow != kOverflowSticky) ++overflow;
    b = NextOf(b);
  }
  Bucket& bucket = buckets_[b];
  const uint32_t slot = static_cast<uint32_t>(__builtin_ctz(~uint32_t{bucket.used}));
  bucket.used = static_cast<uint8_t>(bucket.used | 1u << slot);
  bucket.keys[slot] = key;
  bucket.payloads[slot] = 0;
  ++size_;
  return &bucket.payloads[slot];
}

bool KeyIndex::Erase(Key key, uint32_t* payload) {
  uint32_t* const found = Find(key);
  if (found == nullptr) return false;
  *payload = *found;
  ++version_;
  const size_t home = HomeOf(key);
  size_t b = home;
  uint32_t match = 0;
  while ((match = buckets_[b].Match(key)) == 0) b = NextOf(b);
  ForgetOverflow(home, b);
  FreeSlot(b, static_cast<uint32_t>(__builtin_ctz(match)));
  --size_;
  return true;
}

void KeyIndex::ForgetOverflow(size_t begin, size_t end) {
  for (size_t b = begin; b != end; b = NextOf(b)) {
    if (buckets_[b].overflow != kOverflowSticky) --buckets_[b].overflow;
  }
}

// Without the moves, keys far from home would keep their way marked as overflowed for ever: under
// steady insertion and removal the marks join to one run around the whole table.
void KeyIndex::FreeSlot(size_t b, uint32_t slot) {
  for (;;) {
    Bucket& hole = buckets_[b];
    hole.used = static_cast<uint8_t>(hole.used & ~(1u << slot));
    if (hole.overflow == 0) return;
    // A key that overflowed the hole stands in the full buckets that follow, or in the first that
    // is not. Only a count that sticks can promise one that is not there.
    size_t from = b;
    uint32_t candidate = kBucketSlots;
    bool searching = true;
    while (searching && candidate == kBucketSlots) {
      from = NextOf(from);
      const Bucket& bucket = buckets_[from];
      for (candidate = 0; candidate < kBucketSlots; ++candidate) {
        if ((bucket.used >> candidate & 1) == 0) continue;
        if (Distance(HomeOf(bucket.keys[candidate]), from) >= Distance(b, from)) break;
      }
      searching = bucket.used == kAllUsed;
    }
    if (candidate == kBucketSlots) return;
    hole.keys[slot] = buckets_[from].keys[candidate];
    hole.payloads[slot] = buckets_[from].payloads[candidate];
    hole.used = static_cast<uint8_t>(hole.used | 1u << slot);
    ForgetOverflow(b, from);
    b = from;
    slot = candidate;
  }
}

void KeyIndex::Grow(size_t size_wanted) {
  ++version_;
  const double slots_wanted =
      std::max(static_cast<double>(size_wanted) / kLoadMax,
               static_cast<double>(n_buckets_ * kBucketSlots) * kGrowthFactor);
  const size_t page_buckets = PagePool::kPageBytes / sizeof(Bucket);
  size_t n_buckets = static_cast<size_t>(slots_wanted / kBucketSlots) + 1;
  n_buckets = (n_buckets + page_buckets - 1) / page_buckets * page_buckets;  // whole pages

  FASTPS_CHECK(n_buckets <= ~uint32_t{0} / kPlacesPerBucket);
  PageArray<Bucket> old = std::exchange(buckets_, PageArray<Bucket>(pool_, n_buckets));
  const size_t n_old = std::exchange(n_buckets_, n_buckets);
  std::memset(static_cast<void*>(buckets_.data()), 0, n_buckets * sizeof(Bucket));
  size_max_ = static_cast<size_t>(static_cast<double>(n_buckets * kBucketSlots) * kLoadMax);
  size_ = 0;
  // Homes keep their order, so the new buckets are written nearly in sequence.
  for (size_t b = 0; b < n_old; ++b) {
    for (uint32_t i = 0; i < kBucketSlots; ++i) {
      if (old[b].used >> i & 1) *Insert(old[b].keys[i]) = old[b].payloads[i];
    }
  }
}

}  // namespace fastps
