// Asking for memory that is read or written soon. Any thread.
//
// GCC takes a function that does nothing but __builtin_prefetch for one without effect and removes
// its calls, also when they are inlined early: a volatile asm stays where it was written.
#pragma once

#include <cstddef>

namespace fastps {

// Fetches the cache line of `address`, which need not be valid.
[[gnu::always_inline]] inline void Prefetch(const void* address) {
#ifdef __x86_64__
  asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(address)));
#else
  __builtin_prefetch(address);
#endif
}

// Fetches the first lines of a row of so many floats. Past the first KiB the hardware has seen
// the direction.
[[gnu::always_inline]] inline void PrefetchRow(const float* row, size_t row_floats) {
  constexpr size_t kLineFloats = 16;
  constexpr size_t kFloatsMax = 256;
  const size_t n = row_floats < kFloatsMax ? row_floats : kFloatsMax;
  for (size_t i = 0; i < n; i += kLineFloats) Prefetch(row + i);
}

}  // namespace fastps
