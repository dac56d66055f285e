#include "store/key_index.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace fastps {

uint32_t* KeyIndex::Insert(Key key) {
  FASTPS_CHECK(size_ < size_max_);
  size_t b = HomeOf(key);
  while (BucketAt(b).used == kAllUsed) {
    uint16_t& overflow = BucketAt(b).overflow;
    if (overflow != kOverflowSticky) ++overflow;
    b = NextOf(b);
  }
  Bucket& bucket = BucketAt(b);
  const uint32_t slot = static_cast<uint32_t>(__builtin_ctz(~uint32_t{bucket.used}));
  bucket.used = static_cast<uint8_t>(bucket.used | 1u << slot);
  bucket.keys[slot] = key;
  bucket.payloads[slot] = 0;
  Unmark(&bucket.payloads[slot]);
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
  while ((match = BucketAt(b).Match(key)) == 0) b = NextOf(b);
  ForgetOverflow(home, b);
  FreeSlot(b, static_cast<uint32_t>(__builtin_ctz(match)));
  --size_;
  return true;
}

void KeyIndex::ForgetOverflow(size_t begin, size_t end) {
  for (size_t b = begin; b != end; b = NextOf(b)) {
    if (BucketAt(b).overflow != kOverflowSticky) --BucketAt(b).overflow;
  }
}

// Without the moves, keys far from home would keep their way marked as overflowed for ever: under
// steady insertion and removal the marks join to one run around the whole table.
void KeyIndex::FreeSlot(size_t b, uint32_t slot) {
  for (;;) {
    Bucket& hole = BucketAt(b);
    hole.used = static_cast<uint8_t>(hole.used & ~(1u << slot));
    if (hole.overflow == 0) return;
    // A key that overflowed the hole stands in the full buckets that follow, or in the first that
    // is not. Only a count that sticks can promise one that is not there.
    size_t from = b;
    uint32_t candidate = kBucketSlots;
    bool searching = true;
    while (searching && candidate == kBucketSlots) {
      from = NextOf(from);
      const Bucket& bucket = BucketAt(from);
      for (candidate = 0; candidate < kBucketSlots; ++candidate) {
        if ((bucket.used >> candidate & 1) == 0) continue;
        if (Distance(HomeOf(bucket.keys[candidate]), from) >= Distance(b, from)) break;
      }
      searching = bucket.used == kAllUsed;
    }
    if (candidate == kBucketSlots) return;
    hole.keys[slot] = BucketAt(from).keys[candidate];
    hole.payloads[slot] = BucketAt(from).payloads[candidate];
    hole.used = static_cast<uint8_t>(hole.used | 1u << slot);
    Unmark(&hole.payloads[slot]);
    if (IsMarked(&BucketAt(from).payloads[candidate])) Mark(&hole.payloads[slot]);
    ForgetOverflow(b, from);
    b = from;
    slot = candidate;
  }
}

uint32_t KeyIndex::PlaceOf(const uint32_t* payload) const {
  const Bucket* const bucket = BucketOf(payload);
  const size_t slot = SlotOf(payload);
  size_t b = HomeOf(bucket->keys[slot]);
  while (&BucketAt(b) != bucket) b = NextOf(b);
  return static_cast<uint32_t>(b * kPlacesPerBucket + slot);
}

double KeyIndex::GrowthFactor() const {
  for (size_t b = 0; b < n_buckets_; ++b) {
    const Bucket& bucket = BucketAt(b);
    if (bucket.used == 0) continue;
    const uint64_t random = MixKey(PositionOf(bucket.keys[__builtin_ctz(bucket.used)]));
    const double share = static_cast<double>(random >> 32) / static_cast<double>(uint64_t{1} << 32);
    return kGrowthFactorMin + share * (kGrowthFactorMax - kGrowthFactorMin);
  }
  return kGrowthFactorMax;
}

void KeyIndex::Grow(size_t size_wanted) {
  ++version_;
  const double slots_wanted =
      std::max(static_cast<double>(size_wanted) / kLoadMax,
               static_cast<double>(n_buckets_ * kBucketSlots) * GrowthFactor());
  size_t n_buckets = static_cast<size_t>(slots_wanted / kBucketSlots) + 1;
  n_buckets = (n_buckets + kPageBuckets - 1) / kPageBuckets * kPageBuckets;

  FASTPS_CHECK(n_buckets <= ~uint32_t{0} / kPlacesPerBucket);
  const std::vector<PageArray<Bucket>> old = std::exchange(chunks_, {});
  chunk_begins_.clear();
  n_buckets_ = n_buckets;
  for (size_t b = 0; b < n_buckets; b += kChunkBuckets) {
    chunks_.emplace_back(pool_, std::min(n_buckets - b, kChunkBuckets));
    chunk_begins_.push_back(chunks_.back().data());
    std::memset(static_cast<void*>(chunk_begins_.back()), 0, chunks_.back().bytes());
  }
  size_max_ = static_cast<size_t>(static_cast<double>(n_buckets * kBucketSlots) * kLoadMax);
  size_ = 0;
  // Homes keep their order, so the new buckets are written nearly in sequence.
  for (const PageArray<Bucket>& chunk : old) {
    for (size_t b = 0; b < chunk.size(); ++b) {
      for (uint32_t i = 0; i < kBucketSlots; ++i) {
        if ((chunk[b].used >> i & 1) == 0) continue;
        uint32_t* const payload = Insert(chunk[b].keys[i]);
        *payload = chunk[b].payloads[i];
        if (IsMarked(&chunk[b].payloads[i])) Mark(payload);
      }
    }
  }
}

}  // namespace fastps
