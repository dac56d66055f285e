#include "store/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include "base/check.h"

namespace fastps {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kRegionBytes = size_t{64} << 20;
static_assert(kRegionBytes % kHugePageBytes == 0);

}  // namespace

PagePool::~PagePool() {
  for (const auto& [begin, bytes] : regions_) munmap(begin, bytes);
}

void* PagePool::Allocate(size_t bytes) {
  const size_t rounded = RoundUp(std::max(bytes, size_t{1}));
  MutexLock lock(mutex_);
  auto best = free_by_size_.lower_bound({rounded, nullptr});
  if (best == free_by_size_.end()) {
    AddRegion(rounded);
    best = free_by_size_.lower_bound({rounded, nullptr});
  }
  const auto [size, begin] = *best;
  DropFree(free_by_address_.find(begin));
  if (size > rounded) AddFree(begin + rounded, size - rounded);
  return begin;
}

void PagePool::Free(void* extent, size_t bytes) {
  char* begin = static_cast<char*>(extent);
  size_t size = RoundUp(std::max(bytes, size_t{1}));
  MutexLock lock(mutex_);
  auto region = std::prev(regions_.upper_bound(begin));
  const auto next = free_by_address_.lower_bound(begin);
  // Regions may be neighbours by chance; an extent never spans two, so that each can be unmapped.
  if (next != free_by_address_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == begin && before->first >= region->first) {
      begin = before->first;
      size += before->second;
      DropFree(before);
    }
  }
  if (next != free_by_address_.end() && begin + size == next->first &&
      next->first < region->first + region->second) {
    size += next->second;
    DropFree(next);
  }
  // A region wholly free goes back to the system, unless it is the only ordinary one left.
  const bool whole_region = begin == region->first && size == region->second;
  if (whole_region && (size > kRegionBytes || !free_by_size_.empty())) {
    munmap(region->first, region->second);
    regions_.erase(region);
    return;
  }
  AddFree(begin, size);
}

void PagePool::AddFree(char* begin, size_t bytes) {
  free_by_address_.emplace(begin, bytes);
  free_by_size_.emplace(bytes, begin);
}

void PagePool::DropFree(std::map<char*, size_t>::iterator extent) {
  free_by_size_.erase({extent->second, extent->first});
  free_by_address_.erase(extent);
}

void PagePool::AddRegion(size_t bytes) {
  const size_t region_bytes =
      (std::max(bytes, kRegionBytes) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  // Mapped with room to cut the ends off, so that the region starts on a huge page.
  const size_t mapped_bytes = region_bytes + kHugePageBytes;
  void* mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  FASTPS_CHECK(mapped != MAP_FAILED);
  char* const begin = static_cast<char*>(mapped);
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  const size_t head = (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  const size_t tail = mapped_bytes - head - region_bytes;
  if (head > 0) munmap(begin, head);
  if (tail > 0) munmap(begin + head + region_bytes, tail);
  // Advice only: without it lookups are slower, nothing else changes.
  (void)madvise(begin + head, region_bytes, MADV_HUGEPAGE);
  regions_.emplace(begin + head, region_bytes);
  AddFree(begin + head, region_bytes);
}

}  // namespace fastps
