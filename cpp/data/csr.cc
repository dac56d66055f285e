#include "data/csr.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace fastps {
namespace {

// The loops: plain pointers, one pass each.

void MarginsLoop(const int64_t* indptr, const int32_t* columns, const float* values, size_t n_rows,
                 const float* weights, float* margins) {
  for (size_t row = 0; row < n_rows; ++row) {
    // Two partial sums: one alone waits for the previous addition at every entry.
    float even = 0;
    float odd = 0;
    int64_t i = indptr[row];
    const int64_t end = indptr[row + 1];
    for (; i + 2 <= end; i += 2) {
      even += values[i] * weights[columns[i]];
      odd += values[i + 1] * weights[columns[i + 1]];
    }
    if (i < end) even += values[i] * weights[columns[i]];
    margins[row] = even + odd;
  }
}

void GradientLoop(const int64_t* indptr, const int32_t* columns, const float* values, size_t n_rows,
                  const float* residuals, float* gradient) {
  for (size_t row = 0; row < n_rows; ++row) {
    const float residual = residuals[row];
    const int64_t end = indptr[row + 1];
    for (int64_t i = indptr[row]; i < end; ++i) {
      gradient[columns[i]] += values[i] * residual;
    }
  }
}

}  // namespace

std::unique_ptr<CsrMatrix> CsrMatrix::Make(std::vector<int64_t> indptr,
                                           std::vector<int32_t> columns, std::vector<float> values,
                                           int32_t n_columns, Status* status) {
  const auto refuse = [&](const std::string& message) {
    *status = Status(Code::kShapeMismatch, message);
    return nullptr;
  };
  if (columns.size() != values.size()) {
    return refuse("columns has " + std::to_string(columns.size()) + " entries, values has " +
                  std::to_string(values.size()));
  }
  if (indptr.empty() || indptr.front() != 0 ||
      indptr.back() != static_cast<int64_t>(columns.size()) ||
      !std::is_sorted(indptr.begin(), indptr.end())) {
    return refuse("indptr must start at 0, never fall and end at the number of entries");
  }
  for (int32_t column : columns) {
    if (column < 0 || column >= n_columns) {
      return refuse("column " + std::to_string(column) + " is not in [0, " +
                    std::to_string(n_columns) + ")");
    }
  }
  std::unique_ptr<CsrMatrix> matrix(new CsrMatrix());
  matrix->indptr_ = std::move(indptr);
  matrix->columns_ = std::move(columns);
  matrix->values_ = std::move(values);
  matrix->n_columns_ = static_cast<size_t>(std::max(n_columns, 0));
  return matrix;
}

void CsrMatrix::Margins(std::span<const float> weights, std::span<float> margins) const {
  FASTPS_CHECK(weights.size() == n_columns() && margins.size() == n_rows());
  MarginsLoop(indptr_.data(), columns_.data(), values_.data(), n_rows(), weights.data(),
              margins.data());
}

void CsrMatrix::Gradient(std::span<const float> residuals, std::span<float> gradient) const {
  FASTPS_CHECK(residuals.size() == n_rows() && gradient.size() == n_columns());
  std::fill(gradient.begin(), gradient.end(), 0.0f);
  GradientLoop(indptr_.data(), columns_.data(), values_.data(), n_rows(), residuals.data(),
               gradient.data());
}

void CsrMatrix::ColumnCounts(std::span<float> counts) const {
  FASTPS_CHECK(counts.size() == n_columns());
  std::vector<int64_t> exact(n_columns(), 0);  // a float stops counting at 2^24
  for (int32_t column : columns_) ++exact[static_cast<size_t>(column)];
  std::transform(exact.begin(), exact.end(), counts.begin(),
                 [](int64_t n) { return static_cast<float>(n); });
}

Minibatch CsrMatrix::Take(std::span<const int64_t> rows) const {
  Minibatch batch;
  std::unique_ptr<CsrMatrix> out(new CsrMatrix());
  size_t n_entries = 0;
  for (int64_t row : rows) {
    FASTPS_CHECK(row >= 0 && row < static_cast<int64_t>(n_rows()));
    n_entries += static_cast<size_t>(indptr_[row + 1] - indptr_[row]);
  }
  out->indptr_.reserve(rows.size() + 1);
  out->indptr_.push_back(0);
  out->columns_.reserve(n_entries);
  out->values_.reserve(n_entries);

  std::lock_guard<std::mutex> lock(mutex_);
  if (renumbered_.empty()) renumbered_.assign(n_columns_, -1);
  for (int64_t row : rows) {
    for (int64_t i = indptr_[row]; i < indptr_[row + 1]; ++i) {
      int32_t& number = renumbered_[static_cast<size_t>(columns_[i])];
      if (number < 0) {
        number = static_cast<int32_t>(batch.columns.size());
        batch.columns.push_back(columns_[i]);
      }
      out->columns_.push_back(number);
      out->values_.push_back(values_[i]);
    }
    out->indptr_.push_back(static_cast<int64_t>(out->columns_.size()));
  }
  for (int32_t column : batch.columns) renumbered_[static_cast<size_t>(column)] = -1;

  out->n_columns_ = batch.columns.size();
  batch.matrix = std::move(out);
  return batch;
}

}  // namespace fastps
