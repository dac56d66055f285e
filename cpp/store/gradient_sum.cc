#include "store/gradient_sum.h"

#include <algorithm>
#include <cstdint>

#include "data/dedupe.h"
#include "kernels/kernels.h"

namespace fastps {
namespace {

// Workers that push the same elements in the same order, as whole dense pushes are, need no search.
bool HaveOneSelection(std::span<const Gradients* const> addends) {
  return std::ranges::all_of(
      addends, [&](const Gradients* addend) { return addend->selection == addends[0]->selection; });
}

Gradients SumAligned(std::span<const Gradients* const> addends) {
  Gradients sum{addends[0]->selection, std::vector<float>(addends[0]->values.size())};
  std::vector<const float*> values;
  values.reserve(addends.size());
  for (const Gradients* addend : addends) values.push_back(addend->values.data());
  ActiveKernels().sum_blocks(sum.values.data(), values.data(), values.size(), sum.values.size());
  return sum;
}

}  // namespace

Gradients SumSparse(std::span<const Gradients* const> addends, size_t width) {
  std::vector<Key> keys;
  for (const Gradients* addend : addends) {
    keys.insert(keys.end(), addend->selection.begin(), addend->selection.end());
  }
  std::vector<int32_t> row_of(keys.size());
  Gradients sum;
  sum.selection = UniqueInverse(keys, row_of);
  const size_t n_rows = sum.selection.size();
  if (addends.size() == 1 && keys.size() == n_rows) return *addends[0];
  // The addends of each row lie side by side, in the order of the pushes.
  std::vector<size_t> begins(n_rows + 1);
  for (const int32_t row : row_of) ++begins[static_cast<size_t>(row) + 1];
  for (size_t row = 0; row < n_rows; ++row) begins[row + 1] += begins[row];
  std::vector<size_t> next(begins.begin(), begins.end() - 1);
  std::vector<const float*> rows(keys.size());
  size_t place = 0;
  for (const Gradients* addend : addends) {
    for (size_t i = 0; i < addend->selection.size(); ++i, ++place) {
      rows[next[static_cast<size_t>(row_of[place])]++] = addend->values.data() + i * width;
    }
  }
  sum.values.resize(n_rows * width);
  ActiveKernels().sum_rows(sum.values.data(), rows.data(), begins.data(), n_rows, width);
  return sum;
}

Gradients SumDense(std::span<const Gradients* const> addends, ElementRange block) {
  if (HaveOneSelection(addends)) return SumAligned(addends);
  std::vector<float> sums(block.size());
  std::vector<uint8_t> touched(block.size());
  for (const Gradients* addend : addends) {
    const float* values = addend->values.data();
    for (size_t i = 0; i < addend->selection.size(); i += 2) {
      const size_t end = addend->selection[i + 1] - block.begin;
      for (size_t element = addend->selection[i] - block.begin; element < end; ++element) {
        sums[element] = touched[element] ? sums[element] + *values : *values;
        touched[element] = 1;
        ++values;
      }
    }
  }
  Gradients sum;
  for (auto run = std::ranges::find(touched, 1); run != touched.end();) {
    const auto run_end = std::find(run, touched.end(), 0);
    const size_t begin = static_cast<size_t>(run - touched.begin());
    const size_t end = static_cast<size_t>(run_end - touched.begin());
    sum.selection.insert(sum.selection.end(), {block.begin + begin, block.begin + end});
    sum.values.insert(sum.values.end(), sums.begin() + static_cast<ptrdiff_t>(begin),
                      sums.begin() + static_cast<ptrdiff_t>(end));
    run = std::find(run_end, touched.end(), 1);
  }
  return sum;
}

}  // namespace fastps
