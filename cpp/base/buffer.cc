#include "base/buffer.h"

#include <algorithm>
#include <bit>
#include <new>

namespace fastps {
namespace {

constexpr size_t kSmallestBytes = 256;

void FreeBlock(void* block) { ::operator delete(block, std::align_val_t{64}); }

}  // namespace

void Buffer::DropReference(Block* block) {
  if (block == nullptr) return;
  if (block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  // The local pointer keeps the pool alive while it takes its block back.
  const std::shared_ptr<BufferPool> pool = std::move(block->pool);
  pool->Return(block);
}

Buffer BufferPool::Allocate(size_t bytes) {
  if (bytes == 0) return {};
  const size_t rounded = std::bit_ceil(std::max(bytes, kSmallestBytes));
  const uint32_t size_class = static_cast<uint32_t>(std::countr_zero(rounded));
  Buffer::Block* block = nullptr;
  {
    MutexLock lock(mutex_);
    if (!free_[size_class].empty()) {
      block = free_[size_class].back();
      free_[size_class].pop_back();
      kept_bytes_ -= rounded;
    }
  }
  if (block == nullptr) {
    void* raw = ::operator new(sizeof(Buffer::Block) + rounded, std::align_val_t{64});
    block = new (raw) Buffer::Block();
    block->size_class = size_class;
  }
  block->references.store(1, std::memory_order_relaxed);
  block->pool = shared_from_this();
  return Buffer(block, bytes);
}

void BufferPool::Return(Buffer::Block* block) {
  const size_t bytes = size_t{1} << block->size_class;
  {
    MutexLock lock(mutex_);
    if (kept_bytes_ + bytes <= kKeptBytesMax) {
      free_[block->size_class].push_back(block);
      kept_bytes_ += bytes;
      return;
    }
  }
  block->~Block();
  FreeBlock(block);
}

BufferPool::~BufferPool() {
  for (auto& blocks : free_) {
    for (Buffer::Block* block : blocks) {
      block->~Block();
      FreeBlock(block);
    }
  }
}

}  // namespace fastps
