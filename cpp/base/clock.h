// Monotonic time as milliseconds. Files called pure never include this: they take `now_ms`.
#pragma once

#include <chrono>
#include <cstdint>

namespace fastps {

inline int64_t NowMs() {
  using std::chrono::steady_clock;
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace fastps
