// Mutex and MutexLock with clang's thread-safety annotations, so that `clang -Wthread-safety`
// proves what a class says of its members.
#pragma once

#include <mutex>

#if defined(__clang__)
#define FASTPS_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define FASTPS_THREAD_ANNOTATION(x)
#endif

#define FASTPS_CAPABILITY(x) FASTPS_THREAD_ANNOTATION(capability(x))
#define FASTPS_SCOPED_CAPABILITY FASTPS_THREAD_ANNOTATION(scoped_lockable)
#define FASTPS_GUARDED_BY(x) FASTPS_THREAD_ANNOTATION(guarded_by(x))
#define FASTPS_REQUIRES(...) FASTPS_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define FASTPS_EXCLUDES(...) FASTPS_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define FASTPS_ACQUIRE(...) FASTPS_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define FASTPS_RELEASE(...) FASTPS_THREAD_ANNOTATION(release_capability(__VA_ARGS__))

namespace fastps {

class FASTPS_CAPABILITY("mutex") Mutex {
 public:
  void lock() FASTPS_ACQUIRE() { mutex_.lock(); }
  void unlock() FASTPS_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

// Holds a Mutex for a scope. Unlock() and Lock() open a gap in it.
class FASTPS_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) FASTPS_ACQUIRE(mutex) : lock_(mutex) {}
  ~MutexLock() FASTPS_RELEASE() = default;
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() FASTPS_RELEASE() { lock_.unlock(); }
  void Lock() FASTPS_ACQUIRE() { lock_.lock(); }

  // For std::condition_variable_any.
  std::unique_lock<Mutex>& native() { return lock_; }

 private:
  std::unique_lock<Mutex> lock_;
};

}  // namespace fastps
