// Cuts: a shard's rows with their state as they are at one moment, read in slices while writes go
// on. What a checkpoint is made of. Values only; Shard begins and reads cuts (Shard::BeginCut), and
// takes back what was saved (Shard::LoadRows).
//
// A cut holds all rows, or those that changed since the cut before: the increment is applied to
// what that cut gave, removals first.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/types.h"
#include "routing/cluster_map.h"
#include "routing/table_spec.h"

namespace fastps {

// 128 random bits, the same for all shards of one save.
struct CutId {
  std::array<uint64_t, 2> bits{};
  friend constexpr auto operator<=>(const CutId&, const CutId&) = default;
};

// What a cut is of.
struct CutBegun {
  ApplyIndex index;
  Round folded;         // rounds below are in it; those pushed to later ones are not
  uint64_t n_rows = 0;  // that the shard holds: as many are in a full cut
  bool is_full = true;  // whether it replaces all cuts before; else it is of what changed
  std::array<float, kRuleConstantsMax> constants{};  // in force
};

// A dense shard's arrays by number: values, slot 0, slot 1, row slot 0, row slot 1.
inline constexpr size_t kDenseArrays = 5;

struct CutSlice {
  // Of a sparse shard.
  std::vector<Key> keys;
  std::vector<float> rows;   // (keys, row_floats): [value | slot 0 | slot 1 | row slots] each
  std::vector<Key> removed;  // since the cut before, sorted; with the last slice, not in a full cut
  // Of a dense shard: all of its block at once, or an empty range when nothing changed. What the
  // rule does not have is empty.
  ElementRange block;
  std::array<std::vector<float>, kDenseArrays> arrays;

  bool finished = false;  // it was the last slice, and the cut is over
};

// A slice is copied under the shard's lock, and has memory of its own.
inline constexpr size_t kCutSliceBytesMax = size_t{64} << 20;

// How many rows a slice has at most when so many are wanted: at least one.
inline size_t CutSliceRows(size_t n_wanted, size_t row_floats) {
  return std::clamp<size_t>(n_wanted, 1,
                            std::max<size_t>(1, kCutSliceBytesMax / sizeof(float) / row_floats));
}

}  // namespace fastps
