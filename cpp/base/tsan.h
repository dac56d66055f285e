// Hand-overs that ThreadSanitizer cannot see because they go through a library compiled without it:
// all that a thread did before HandOver(address) comes before what another does after
// TakeOver(address). Nothing in other builds. Any thread.
#pragma once

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FASTPS_TSAN
#endif
#elif defined(__SANITIZE_THREAD__)
#define FASTPS_TSAN
#endif

#ifdef FASTPS_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace fastps {

inline void HandOver([[maybe_unused]] void* address) {
#ifdef FASTPS_TSAN
  __tsan_release(address);
#endif
}

inline void TakeOver([[maybe_unused]] void* address) {
#ifdef FASTPS_TSAN
  __tsan_acquire(address);
#endif
}

}  // namespace fastps
