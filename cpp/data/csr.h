// CsrMatrix: examples x features in compressed sparse rows, with the two products of a linear model
// and the cut of a minibatch out of a chunk.
//
// Immutable after Make(); any thread may call any method. The products are plain loops in a fixed
// order: the same input gives the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/status.h"

namespace fastps {

struct Minibatch;

class CsrMatrix {
 public:
  // Checks that indptr starts at 0, never falls and ends at the number of entries, and that every
  // column is in [0, n_columns). Returns null, with `status` saying what is wrong, if not.
  static std::unique_ptr<CsrMatrix> Make(std::vector<int64_t> indptr,   // (n_rows + 1,)
                                         std::vector<int32_t> columns,  // (n_entries,)
                                         std::vector<float> values,     // (n_entries,)
                                         int32_t n_columns, Status* status);

  size_t n_rows() const { return indptr_.size() - 1; }
  size_t n_columns() const { return n_columns_; }
  size_t n_entries() const { return columns_.size(); }

  // margins = X weights.
  void Margins(std::span<const float> weights,   // (n_columns,)
               std::span<float> margins) const;  // (n_rows,), written
  // gradient = X^T residuals.
  void Gradient(std::span<const float> residuals,  // (n_rows,)
                std::span<float> gradient) const;  // (n_columns,), written
  // How many entries each column has.
  void ColumnCounts(std::span<float> counts) const;  // (n_columns,), written

  // The given rows, in their order, with only the columns that occur in them.
  // Requires: rows are in [0, n_rows).
  Minibatch Take(std::span<const int64_t> rows) const;

 private:
  CsrMatrix() = default;

  // Constant after construction.
  std::vector<int64_t> indptr_;
  std::vector<int32_t> columns_;
  std::vector<float> values_;
  size_t n_columns_ = 0;

  // Take()'s table column -> column of the minibatch, all -1 between calls. Kept, because filling
  // it anew for each minibatch costs as much as the minibatch itself.
  mutable std::mutex mutex_;
  mutable std::vector<int32_t> renumbered_;  // guarded by mutex_
};

struct Minibatch {
  std::unique_ptr<CsrMatrix> matrix;
  std::vector<int32_t> columns;  // (matrix->n_columns(),): the column each one was, distinct
};

}  // namespace fastps
