// XXH64: the hash of strings to keys, as the xxHash specification (Y. Collet, version 0.1.1)
// defines it. Stable for ever: keys made of it are stored. A pure function.
#pragma once

#include <cstdint>
#include <string_view>

namespace fastps {

uint64_t Xxh64(std::string_view bytes, uint64_t seed);

}  // namespace fastps
