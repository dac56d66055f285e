// KeyIndex: the map from key to a 32-bit payload (a row number, or the row itself when it is one
// float). Open addressing over buckets of one cache line each: a lookup that hits costs one line,
// prefetched. Every 64-bit key is legal; removal leaves nothing behind that slows later lookups.
// No locks: one thread at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/prefetch.h"
#include "base/types.h"
#include "store/page_pool.h"

namespace fastps {

class KeyIndex {
 public:
  explicit KeyIndex(PagePool* pool) : pool_(pool) {}

  size_t size() const { return size_; }
  size_t bytes() const { return n_buckets_ * sizeof(Bucket); }

  // Fetches the cache line that Find(key) will read.
  [[gnu::always_inline]] void Prefetch(Key key) const {
    if (n_buckets_ != 0) fastps::Prefetch(&BucketAt(HomeOf(key)));
  }

  // The payload of `key`, or null. Valid until the next ReserveFor or Erase.
  uint32_t* Find(Key key) {
    if (n_buckets_ == 0) return nullptr;
    size_t b = HomeOf(key);
    for (;;) {
      Bucket& bucket = BucketAt(b);
      const uint32_t match = bucket.Match(key);
      if (match != 0) return &bucket.payloads[__builtin_ctz(match)];
      if (!bucket.LeadsOn()) return nullptr;
      b = NextOf(b);
    }
  }

  // Makes room for `n` more keys, so that Insert moves nothing. Grows by a factor when it must.
  void ReserveFor(size_t n) {
    if (size_ + n > size_max_) Grow(size_ + n);
  }

  // Adds `key` and returns its payload, 0. Valid as Find's.
  // Requires: `key` is absent, and ReserveFor left room.
  uint32_t* Insert(Key key);

  // Removes `key`; false when it is absent. `payload` gets what it had.
  bool Erase(Key key, uint32_t* payload);

  // Where a payload stands, as a number that holds while version() stays: it changes whenever a
  // payload moves or goes.
  uint32_t PlaceOf(const uint32_t* payload) const;
  uint32_t* At(uint32_t place) {
    return &BucketAt(place / kPlacesPerBucket).payloads[place % kPlacesPerBucket];
  }
  uint64_t version() const { return version_; }

  // One bit beside a payload, for the owner of the index: it goes along when the payload moves. A
  // new key has none.
  static bool IsMarked(const uint32_t* payload) {
    return (BucketOf(payload)->marked >> SlotOf(payload) & 1) != 0;
  }
  static void Mark(uint32_t* payload) {
    Bucket* const bucket = BucketOf(payload);
    bucket->marked = static_cast<uint8_t>(bucket->marked | 1u << SlotOf(payload));
  }
  static void Unmark(uint32_t* payload) {
    Bucket* const bucket = BucketOf(payload);
    bucket->marked = static_cast<uint8_t>(bucket->marked & ~(1u << SlotOf(payload)));
  }

  // Where `key` stands in the order of a scan. A scan that goes on from a position meets each key
  // that stayed exactly once, whatever was added, removed or grown in between.
  static uint64_t PositionOf(Key key) { return MixKey(key) * kSpread; }

  // Calls visit(key, payload) for the keys at positions >= `position`, in the order of positions,
  // until `n_max` were visited or none is left. Returns the position to go on from; at the end
  // sets *finished.
  template <class Visit>
  uint64_t Scan(uint64_t position, size_t n_max, bool* finished, Visit visit) const;

  // Calls visit(key, payload) for all keys, in no order that means anything.
  template <class Visit>
  void ForEach(Visit visit) const {
    for (const PageArray<Bucket>& chunk : chunks_) {
      for (size_t b = 0; b < chunk.size(); ++b) {
        for (uint32_t used = chunk[b].used; used != 0; used &= used - 1) {
          const int slot = __builtin_ctz(used);
          visit(chunk[b].keys[slot], std::as_const(chunk[b].payloads[slot]));
        }
      }
    }
  }

 private:
  friend struct KeyIndexInspector;  // of the tests

  static constexpr uint32_t kBucketSlots = 5;
  static constexpr double kLoadMax = 0.85;
  // Keys spread evenly over the shards of a table. If all grew by the same factor they would do so
  // at the same moment: one request would wait for many, and all would have much room at a time.
  static constexpr double kGrowthFactorMin = 1.2;
  static constexpr double kGrowthFactorMax = 1.4;
  // Shards are chosen by the upper bits of MixKey(key); within one shard these are equal, so the
  // lower ones are spread upward.
  static constexpr uint64_t kSpread = 0x9e3779b97f4a7c15u;

  static constexpr uint32_t kPlacesPerBucket = 8;  // a power of two, so that At needs no division
  static constexpr uint16_t kOverflowSticky = 0xffff;
  static constexpr uint8_t kAllUsed = (1u << kBucketSlots) - 1;

  struct alignas(64) Bucket {
    Key keys[kBucketSlots];
    uint32_t payloads[kBucketSlots];
    uint16_t overflow;  // keys at home here or before that stand in a later bucket; sticks at max
    uint8_t used;       // bit i: slot i holds a key
    uint8_t marked;     // bit i: so is slot i; of unused slots it means nothing

    // Whether a key that is not here may stand in a later bucket. Every bucket that a key
    // overflowed is full, and some bucket is not, so that every lookup ends.
    bool LeadsOn() const { return overflow != 0 && used == kAllUsed; }
    uint32_t Match(Key key) const {
      uint32_t match = 0;
      for (uint32_t i = 0; i < kBucketSlots; ++i) match |= uint32_t{keys[i] == key} << i;
      return match & used;
    }
  };
  static_assert(sizeof(Bucket) == 64);

  // All chunks but the last are of one size, so that what one index frees fits another: whole
  // arrays, each somewhat larger than those freed before, left a sixth of the pool unused.
  static constexpr size_t kChunkBuckets = 512;
  static constexpr size_t kPageBuckets = PagePool::kPageBytes / sizeof(Bucket);
  static_assert(kChunkBuckets % kPageBuckets == 0);

  static uintptr_t OffsetOf(const uint32_t* payload) {  // within its bucket
    return reinterpret_cast<uintptr_t>(payload) % sizeof(Bucket);
  }
  static const Bucket* BucketOf(const uint32_t* payload) {
    return reinterpret_cast<const Bucket*>(reinterpret_cast<uintptr_t>(payload) -
                                           OffsetOf(payload));
  }
  static Bucket* BucketOf(uint32_t* payload) {
    return const_cast<Bucket*>(BucketOf(static_cast<const uint32_t*>(payload)));
  }
  static uint32_t SlotOf(const uint32_t* payload) {
    return static_cast<uint32_t>((OffsetOf(payload) - offsetof(Bucket, payloads)) /
                                 sizeof(uint32_t));
  }

  Bucket& BucketAt(size_t b) const { return chunk_begins_[b / kChunkBuckets][b % kChunkBuckets]; }
  size_t HomeOf(Key key) const { return ReduceRange(PositionOf(key), n_buckets_); }
  size_t NextOf(size_t b) const { return b + 1 == n_buckets_ ? 0 : b + 1; }
  // Buckets to go from `from` to `to`.
  size_t Distance(size_t from, size_t to) const {
    return to >= from ? to - from : to + n_buckets_ - from;
  }
  // Takes one key off the counts of the buckets [begin, end) that it overflowed.
  void ForgetOverflow(size_t begin, size_t end);
  // Frees a slot and moves keys that overflowed its bucket back.
  void FreeSlot(size_t b, uint32_t slot);
  void Grow(size_t size_wanted);
  // By how much to grow: between the limits, chosen by a key that is here.
  double GrowthFactor() const;

  PagePool* const pool_;
  std::vector<PageArray<Bucket>> chunks_;
  std::vector<Bucket*> chunk_begins_;  // of chunks_, close together for lookups
  size_t n_buckets_ = 0;
  size_t size_ = 0;
  size_t size_max_ = 0;  // size_ <= size_max_ <= kLoadMax * slots
  uint64_t version_ = 0;
};

template <class Visit>
uint64_t KeyIndex::Scan(uint64_t position, size_t n_max, bool* finished, Visit visit) const {
  struct Entry {
    uint64_t position;
    const Bucket* bucket;
    uint32_t slot;
  };
  std::vector<Entry> of_home;  // the keys of one home bucket, wherever they stand
  size_t n_visited = 0;
  *finished = false;
  const size_t first = n_buckets_ == 0 ? 0 : ReduceRange(position, n_buckets_);
  for (size_t home = first; home < n_buckets_; ++home) {
    of_home.clear();
    for (size_t b = home;; b = NextOf(b)) {
      const Bucket& bucket = BucketAt(b);
      for (uint32_t slot = 0; slot < kBucketSlots; ++slot) {
        if ((bucket.used >> slot & 1) == 0) continue;
        const uint64_t at = PositionOf(bucket.keys[slot]);
        if (at >= position && ReduceRange(at, n_buckets_) == home) {
          of_home.push_back({at, &bucket, slot});
        }
      }
      if (!bucket.LeadsOn()) break;
    }
    std::ranges::sort(of_home, {}, &Entry::position);
    for (const Entry& entry : of_home) {
      if (n_visited == n_max) return entry.position;
      visit(entry.bucket->keys[entry.slot], entry.bucket->payloads[entry.slot]);
      ++n_visited;
    }
  }
  *finished = true;
  return ~uint64_t{0};
}

}  // namespace fastps
