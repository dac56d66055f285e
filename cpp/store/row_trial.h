// RowTrial: a sparse push tried on copies of its rows, which are stored only when they may be. For
// pushes that could make a row infinite: the others are applied in place. Used by one thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/types.h"
#include "data/dedupe.h"
#include "kernels/kernels.h"
#include "rules/update_rule.h"

namespace fastps {

class RowTrial {
 public:
  // `keys` name the rows, equal keys the same row.
  RowTrial(std::span<const Key> keys, size_t row_floats)
      : row_floats_(row_floats), row_of_(keys.size()), keys_(UniqueInverse(keys, row_of_)) {
    floats_.resize(keys_.size() * row_floats);
  }

  // The distinct keys, in order of first occurrence, and the copy of the row of each.
  std::span<const Key> keys() const { return keys_; }
  float* row(size_t i) { return floats_.data() + i * row_floats_; }

  // Applies the gradients of all keys in blocks of `block_keys`, as a push in place does.
  // Requires: every copy was filled.
  template <size_t block_keys>
  void Run(const UpdateRule& rule, const float* gradients, size_t width) {
    std::array<float*, block_keys> rows;
    for (size_t begin = 0; begin < row_of_.size(); begin += block_keys) {
      const size_t n = std::min(block_keys, row_of_.size() - begin);
      for (size_t i = 0; i < n; ++i) rows[i] = row(static_cast<size_t>(row_of_[begin + i]));
      rule.ApplyRows(rows.data(), gradients + begin * width, n, width);
    }
  }

  bool Fits(size_t i) { return AllFinite(ActiveKernels(), row(i), row_floats_); }

  // Which of the keys that were given is the first whose row does not fit.
  std::optional<size_t> FirstUnfit() {
    if (AllFinite(ActiveKernels(), floats_.data(), floats_.size())) return {};
    for (size_t i = 0; i < row_of_.size(); ++i) {
      if (!Fits(static_cast<size_t>(row_of_[i]))) return i;
    }
    return {};
  }

 private:
  const size_t row_floats_;
  std::vector<int32_t> row_of_;
  std::vector<Key> keys_;
  std::vector<float> floats_;
};

}  // namespace fastps
