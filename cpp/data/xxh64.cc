#include "data/xxh64.h"

#include <bit>
#include <cstring>

namespace fastps {
namespace {

constexpr uint64_t kPrime1 = 0x9e3779b185ebca87u;
constexpr uint64_t kPrime2 = 0xc2b2ae3d27d4eb4fu;
constexpr uint64_t kPrime3 = 0x165667b19e3779f9u;
constexpr uint64_t kPrime4 = 0x85ebca77c2b2ae63u;
constexpr uint64_t kPrime5 = 0x27d4eb2f165667c5u;

template <class T>
uint64_t Take(const char** at) {
  T value;
  std::memcpy(&value, *at, sizeof(value));
  *at += sizeof(value);
  return value;
}

uint64_t Round(uint64_t accumulator, uint64_t lane) {
  return std::rotl(accumulator + lane * kPrime2, 31) * kPrime1;
}

uint64_t MergeAccumulator(uint64_t hash, uint64_t accumulator) {
  return (hash ^ Round(0, accumulator)) * kPrime1 + kPrime4;
}

}  // namespace

uint64_t Xxh64(std::string_view bytes, uint64_t seed) {
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  uint64_t hash = seed + kPrime5;
  if (bytes.size() >= 32) {
    uint64_t accumulators[4] = {seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1};
    while (end - at >= 32) {
      for (uint64_t& accumulator : accumulators) {
        accumulator = Round(accumulator, Take<uint64_t>(&at));
      }
    }
    hash = std::rotl(accumulators[0], 1) + std::rotl(accumulators[1], 7) +
           std::rotl(accumulators[2], 12) + std::rotl(accumulators[3], 18);
    for (const uint64_t accumulator : accumulators) hash = MergeAccumulator(hash, accumulator);
  }
  hash += bytes.size();
  while (end - at >= 8) {
    hash = std::rotl(hash ^ Round(0, Take<uint64_t>(&at)), 27) * kPrime1 + kPrime4;
  }
  if (end - at >= 4) {
    hash = std::rotl(hash ^ (Take<uint32_t>(&at) * kPrime1), 23) * kPrime2 + kPrime3;
  }
  while (at < end) hash = std::rotl(hash ^ (Take<uint8_t>(&at) * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace fastps
