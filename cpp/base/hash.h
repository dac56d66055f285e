// The hash that places keys. Stable for ever: keys are placed by it on disk and across processes.
#pragma once

#include <cstdint>

namespace fastps {

__extension__ using Uint128 = unsigned __int128;

// The finalizer of MurmurHash3 (Appleby, public domain), with the constants of Stafford's variant
// 13 as in splitmix64: a bijection of 64 bits in which every input bit moves every output bit.
inline uint64_t MixKey(uint64_t key) {
  key += 0x9e3779b97f4a7c15u;
  key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
  key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
  return key ^ (key >> 31);
}

// Maps a uniform 64-bit hash to [0, n) without a division, keeping order (Lemire 2019, "Fast random
// integer generation in an interval", section 4).
inline uint64_t ReduceRange(uint64_t hash, uint64_t n) {
  return static_cast<uint64_t>((static_cast<Uint128>(hash) * n) >> 64);
}

}  // namespace fastps
