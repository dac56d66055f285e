// Buffer: reference-counted bytes from a pool, so that a frame can be built, sent without a copy
// and used again while its pages are still mapped and warm. Handles may be copied and dropped on
// any thread; the bytes belong to whoever is writing them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace fastps {

class BufferPool;

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer& other) : block_(other.block_), size_(other.size_) { AddReference(); }
  Buffer(Buffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(block_, other.block_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() { DropReference(block_); }

  size_t size() const { return size_; }  // bytes
  std::byte* data() { return block_ == nullptr ? nullptr : block_->bytes(); }
  const std::byte* data() const { return block_ == nullptr ? nullptr : block_->bytes(); }

  // The bytes as `n = size() / sizeof(T)` values. Aligned for every T used here.
  template <class T>
  std::span<T> As() {
    return {reinterpret_cast<T*>(data()), size_ / sizeof(T)};
  }
  template <class T>
  std::span<const T> As() const {
    return {reinterpret_cast<const T*>(data()), size_ / sizeof(T)};
  }

  // Shortens the buffer. Requires: bytes <= size().
  void Truncate(size_t bytes) { size_ = bytes; }

  // Gives one reference away as an opaque pointer, for a callback that calls DropOpaque later.
  void* ShareOpaque() const {
    AddReference();
    return block_;
  }
  static void DropOpaque(void* opaque) { DropReference(static_cast<Block*>(opaque)); }

 private:
  friend class BufferPool;

  struct alignas(64) Block {
    std::atomic<uint32_t> references{1};
    uint32_t size_class = 0;
    std::shared_ptr<BufferPool> pool;  // kept alive by the blocks that are out
    std::byte* bytes() { return reinterpret_cast<std::byte*>(this + 1); }
  };

  Buffer(Block* block, size_t size) : block_(block), size_(size) {}
  void AddReference() const {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  static void DropReference(Block* block);

  Block* block_ = nullptr;
  size_t size_ = 0;
};

// Any thread may call any method.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  static std::shared_ptr<BufferPool> Create() {
    return std::shared_ptr<BufferPool>(new BufferPool());
  }
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // `bytes` uninitialized bytes; the empty buffer for 0.
  Buffer Allocate(size_t bytes);

 private:
  friend class Buffer;
  static constexpr uint32_t kSizeClasses = 48;  // class c holds 2^c bytes
  static constexpr size_t kKeptBytesMax = size_t{64} << 20;

  BufferPool() = default;
  void Return(Buffer::Block* block);

  Mutex mutex_;
  size_t kept_bytes_ FASTPS_GUARDED_BY(mutex_) = 0;
  std::vector<Buffer::Block*> free_[kSizeClasses] FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
