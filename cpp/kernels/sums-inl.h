// Sums of gradients, always from left to right, so that they are the same on every CPU. Part of
// loops-inl.h; the same restrictions hold. Plain loops: compilers turn these into SIMD code.

inline void Add(float* __restrict sums, const float* __restrict addends, size_t n) {
  for (size_t i = 0; i < n; ++i) sums[i] = sums[i] + addends[i];
}

// Four addends in one pass over the sums.
inline void AddFour(float* __restrict sums, const float* __restrict a, const float* __restrict b,
                    const float* __restrict c, const float* __restrict d, size_t n) {
  for (size_t i = 0; i < n; ++i) sums[i] = (((sums[i] + a[i]) + b[i]) + c[i]) + d[i];
}

inline void SumOfTwo(float* __restrict sums, const float* __restrict a, const float* __restrict b,
                     size_t n) {
  for (size_t i = 0; i < n; ++i) sums[i] = a[i] + b[i];
}

inline void SumBlocks(float* sums, const float* const* addends, size_t n_addends, size_t n) {
  if (n_addends == 1) {
    __builtin_memcpy(sums, addends[0], n * sizeof(float));
    return;
  }
  constexpr size_t kFloats = 2048;  // the sums stay in the L1 cache from one addend to the next
  for (size_t begin = 0; begin < n; begin += kFloats) {
    const size_t size = n - begin < kFloats ? n - begin : kFloats;
    float* const part = sums + begin;
    SumOfTwo(part, addends[0] + begin, addends[1] + begin, size);
    size_t i = 2;
    for (; i + 4 <= n_addends; i += 4) {
      AddFour(part, addends[i] + begin, addends[i + 1] + begin, addends[i + 2] + begin,
              addends[i + 3] + begin, size);
    }
    for (; i < n_addends; ++i) Add(part, addends[i] + begin, size);
  }
}

// Narrower rows are summed one float after another.
constexpr size_t kVectorWidthMin = 8;

inline void SumRows(float* sums, const float* const* addends, const size_t* begins, size_t n_rows,
                    size_t width) {
  for (size_t row = 0; row < n_rows; ++row) {
    const float* const* const first = addends + begins[row];
    const size_t n_addends = begins[row + 1] - begins[row];
    float* const sum = sums + row * width;
    if (width >= kVectorWidthMin) {
      SumBlocks(sum, first, n_addends, width);
      continue;
    }
    for (size_t column = 0; column < width; ++column) {
      float total = first[0][column];
      for (size_t i = 1; i < n_addends; ++i) total = total + first[i][column];
      sum[column] = total;
    }
  }
}
