// PagePool: memory for shards, in extents of whole pages cut from large regions that are backed by
// huge pages. A shard of 39,000 scalar rows is smaller than one huge page, so pages belong to the
// server and shards share them. Any thread may call any method.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "base/mutex.h"

namespace fastps {

class PagePool {
 public:
  static constexpr size_t kPageBytes = 4096;

  PagePool() = default;
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // An extent of at least `bytes` bytes, page-aligned, its bytes undefined. Ends the process when
  // the system has no memory left, as operator new would.
  void* Allocate(size_t bytes);
  // Requires: `extent` came from Allocate(bytes) of the same size.
  void Free(void* extent, size_t bytes);

  static size_t RoundUp(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

 private:
  // Free extents by address, to join neighbours, and by (size, address), to find the best fit.
  void AddFree(char* begin, size_t bytes) FASTPS_REQUIRES(mutex_);
  void DropFree(std::map<char*, size_t>::iterator extent) FASTPS_REQUIRES(mutex_);
  void AddRegion(size_t bytes) FASTPS_REQUIRES(mutex_);

  Mutex mutex_;
  std::map<char*, size_t> regions_ FASTPS_GUARDED_BY(mutex_);
  std::map<char*, size_t> free_by_address_ FASTPS_GUARDED_BY(mutex_);
  std::set<std::pair<size_t, char*>> free_by_size_ FASTPS_GUARDED_BY(mutex_);
};

// An array of T in an extent of a pool, freed with it. Moves, does not copy. T is plain data.
template <class T>
class PageArray {
 public:
  PageArray() = default;
  PageArray(PagePool* pool, size_t n)
      : pool_(pool), data_(static_cast<T*>(pool->Allocate(n * sizeof(T)))), n_(n) {}
  PageArray(PageArray&& other) noexcept { *this = std::move(other); }
  PageArray& operator=(PageArray&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(data_, other.data_);
    std::swap(n_, other.n_);
    return *this;
  }
  ~PageArray() {
    if (data_ != nullptr) pool_->Free(data_, n_ * sizeof(T));
  }

  T* data() const { return data_; }
  size_t size() const { return n_; }
  size_t bytes() const { return data_ == nullptr ? 0 : PagePool::RoundUp(n_ * sizeof(T)); }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  PagePool* pool_ = nullptr;
  T* data_ = nullptr;
  size_t n_ = 0;
};

}  // namespace fastps
