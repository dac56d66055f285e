#include "data/dedupe.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/hash.h"
#include "base/prefetch.h"

namespace fastps {
namespace {

// Slots of these keys are fetched before the first of them is looked at.
constexpr size_t kBlock = 32;
constexpr size_t kSlotsMin = 1024;

struct Slot {
  uint64_t key = 0;
  int32_t position = -1;  // into the distinct keys; -1: empty
};

// Open addressing with linear probing, at most half full. It starts small and grows with the number
// of distinct keys, so that a batch of few features stays in the first cache whatever its length.
class PositionTable {
 public:
  PositionTable()
      : slots_(kSlotsMin), shift_(64 - static_cast<int>(std::bit_width(kSlotsMin - 1))) {}

  size_t Home(uint64_t key) const { return MixKey(key) >> shift_; }
  void Prefetch(size_t home) const { fastps::Prefetch(&slots_[home]); }

  // Makes room for kBlock further keys beside the `unique` ones.
  void Reserve(const std::vector<uint64_t>& unique) {
    if ((unique.size() + kBlock) * 2 <= slots_.size()) return;
    const size_t n_slots = slots_.size() * 4;
    slots_.assign(n_slots, Slot{});
    shift_ = 64 - static_cast<int>(std::bit_width(n_slots - 1));
    for (size_t i = 0; i < unique.size(); ++i) {
      size_t slot = Home(unique[i]);
      while (slots_[slot].position >= 0) slot = (slot + 1) & (n_slots - 1);
      slots_[slot] = {unique[i], static_cast<int32_t>(i)};
    }
  }

  int32_t FindOrInsert(uint64_t key, size_t home, std::vector<uint64_t>* unique) {
    for (size_t slot = home;; slot = (slot + 1) & (slots_.size() - 1)) {
      Slot& s = slots_[slot];
      if (s.position < 0) {
        s = {key, static_cast<int32_t>(unique->size())};
        unique->push_back(key);
        return s.position;
      }
      if (s.key == key) return s.position;
    }
  }

 private:
  std::vector<Slot> slots_;  // a power of two
  int shift_;
};

}  // namespace

std::vector<uint64_t> UniqueInverse(std::span<const uint64_t> keys, std::span<int32_t> inverse) {
  FASTPS_CHECK(keys.size() == inverse.size() && keys.size() <= kUniqueKeysMax);
  std::vector<uint64_t> unique;
  PositionTable table;
  size_t homes[kBlock];
  for (size_t start = 0; start < keys.size(); start += kBlock) {
    const size_t n = std::min(kBlock, keys.size() - start);
    table.Reserve(unique);
    for (size_t i = 0; i < n; ++i) {
      homes[i] = table.Home(keys[start + i]);
      table.Prefetch(homes[i]);
    }
    for (size_t i = 0; i < n; ++i) {
      inverse[start + i] = table.FindOrInsert(keys[start + i], homes[i], &unique);
    }
  }
  return unique;
}

}  // namespace fastps
