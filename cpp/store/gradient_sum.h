// Sums of pushed gradients, in float32 and in the order given: ((a0 + a1) + a2) + ..., where an
// element that an addend does not have adds nothing, not zero. Pure functions.
#pragma once

#include <span>
#include <vector>

#include "base/types.h"
#include "routing/cluster_map.h"

namespace fastps {

// What was pushed to a shard, with memory of its own: a selection as in ShardData, and the gradient
// of each selected element.
struct Gradients {
  std::vector<Key> selection;
  std::vector<float> values;
  size_t bytes() const { return selection.size() * sizeof(Key) + values.size() * sizeof(float); }
};

// Of a sparse shard with rows of `width` floats. A key that an addend holds twice adds twice.
// Requires: at least one addend.
Gradients SumSparse(std::span<const Gradients* const> addends, size_t width);

// Of a dense shard that holds the elements of `block`. Requires: at least one addend; all ranges
// lie within the block.
Gradients SumDense(std::span<const Gradients* const> addends, ElementRange block);

}  // namespace fastps
