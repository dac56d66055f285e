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
    b = b + 1 == n_buckets_ ? 0 : b + 1;
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
  // Every bucket the key overflowed on its way forgets it.
  size_t b = HomeOf(key);
  for (;;) {
    Bucket& bucket = buckets_[b];
    const uint32_t match = bucket.Match(key);
    if (match != 0) {
      bucket.used = static_cast<uint8_t>(bucket.used & ~match);
      break;
    }
    if (bucket.overflow != kOverflowSticky) --bucket.overflow;
    b = b + 1 == n_buckets_ ? 0 : b + 1;
  }
  --size_;
  return true;
}

void KeyIndex::Grow(size_t size_wanted) {
  const double slots_wanted =
      std::max(static_cast<double>(size_wanted) / kLoadMax,
               static_cast<double>(n_buckets_ * kBucketSlots) * kGrowthFactor);
  const size_t page_buckets = PagePool::kPageBytes / sizeof(Bucket);
  size_t n_buckets = static_cast<size_t>(slots_wanted / kBucketSlots) + 1;
  n_buckets = (n_buckets + page_buckets - 1) / page_buckets * page_buckets;  // whole pages

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
