// RowArena: rows of a fixed number of floats, numbered, in chunks that never move once they are
// full-sized. A freed row is used again before a new one is cut. No locks: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/page_pool.h"

namespace fastps {

class RowArena {
 public:
  // Requires: row_floats >= 1.
  RowArena(PagePool* pool, size_t row_floats);

  // The number of an unused row, its floats undefined. May move the rows of a small arena: pointers
  // from Row are valid until the next Allocate.
  uint32_t Allocate();
  void Free(uint32_t row);

  float* Row(uint32_t row) const {
    return chunks_[row >> chunk_shift_].data() + (row & chunk_mask_) * row_floats_;
  }

  size_t bytes() const { return bytes_; }

 private:
  static constexpr uint32_t kNoRow = ~uint32_t{0};

  void AddRoom();

  PagePool* const pool_;
  const size_t row_floats_;
  uint32_t chunk_shift_ = 0;  // a chunk holds 2^chunk_shift_ rows
  uint32_t chunk_mask_ = 0;
  std::vector<PageArray<float>> chunks_;
  uint32_t n_cut_ = 0;            // rows ever cut: numbers below it are in use or on the free list
  uint32_t n_room_ = 0;           // rows the chunks can hold; n_cut_ <= n_room_
  uint32_t first_free_ = kNoRow;  // a free row's first float holds the number of the next
  size_t bytes_ = 0;
};

}  // namespace fastps
