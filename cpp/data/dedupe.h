// Distinct keys of an array, in the order of their first occurrence, with the way back.
//
// A pure function: any thread may call it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fastps {

// Positions are int32: half the memory traffic of int64 in the loops that use them as columns.
inline constexpr size_t kUniqueKeysMax = size_t{0x7fffffff};

// Returns the distinct keys; keys[i] == returned[inverse[i]].
// Requires: keys.size() == inverse.size() <= kUniqueKeysMax.
std::vector<uint64_t> UniqueInverse(std::span<const uint64_t> keys,  // (n,)
                                    std::span<int32_t> inverse);     // (n,), written

}  // namespace fastps
