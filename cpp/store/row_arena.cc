#include "store/row_arena.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace fastps {
namespace {

// Large enough that the list of chunks stays in the cache, small enough that the unused end of the
// last chunk is little beside a shard.
constexpr size_t kChunkBytesGoal = size_t{64} << 10;

}  // namespace

RowArena::RowArena(PagePool* pool, size_t row_floats) : pool_(pool), row_floats_(row_floats) {
  const size_t rows = std::max<size_t>(1, kChunkBytesGoal / (row_floats * sizeof(float)));
  chunk_shift_ = static_cast<uint32_t>(std::bit_width(rows) - 1);
  chunk_mask_ = (uint32_t{1} << chunk_shift_) - 1;
}

uint32_t RowArena::Allocate() {
  if (first_free_ != kNoRow) {
    const uint32_t row = first_free_;
    std::memcpy(&first_free_, Row(row), sizeof(first_free_));
    return row;
  }
  if (n_cut_ == n_room_) AddRoom();
  return n_cut_++;
}

void RowArena::Free(uint32_t row) {
  std::memcpy(Row(row), &first_free_, sizeof(first_free_));
  first_free_ = row;
}

void RowArena::AddRoom() {
  const uint32_t chunk_rows = chunk_mask_ + 1;
  const size_t row_bytes = row_floats_ * sizeof(float);
  // The first chunk starts with a page and doubles, so that small tables of many shards stay small.
  if (n_room_ < chunk_rows) {
    const size_t rows = std::max<size_t>(n_room_ * size_t{2}, PagePool::kPageBytes / row_bytes);
    const uint32_t n_room = static_cast<uint32_t>(std::clamp<size_t>(rows, 1, chunk_rows));
    PageArray<float> grown(pool_, n_room * row_floats_);
    if (n_room_ == 0) {
      chunks_.push_back(std::move(grown));
    } else {
      std::memcpy(grown.data(), chunks_[0].data(), n_cut_ * row_bytes);
      chunks_[0] = std::move(grown);
    }
    n_room_ = n_room;
    bytes_ = chunks_[0].bytes();
    return;
  }
  FASTPS_CHECK(n_room_ <= kNoRow - chunk_rows);
  chunks_.emplace_back(pool_, chunk_rows * row_floats_);
  bytes_ += chunks_.back().bytes();
  n_room_ += chunk_rows;
}

}  // namespace fastps
