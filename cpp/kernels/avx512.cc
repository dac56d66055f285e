// The loops for CPUs with AVX-512 F, VL, DQ and BW. Only this file is compiled for them (see
// cpp/CMakeLists.txt), and it defines no symbol but the table.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace fastps::avx512 {
namespace {
#include "kernels/vectors-inl.h"

constexpr size_t kLanes = 8;
constexpr size_t kColumnLanes = 8;
constexpr bool kMasks = true;

inline Vector<4> Sqrt(Vector<4> x) { return _mm_sqrt_ps(x); }
inline Vector<8> Sqrt(Vector<8> x) { return _mm256_sqrt_ps(x); }

// The first n floats, 0 in the other lanes, and nothing past them is touched.
inline unsigned MaskOf(size_t n) { return (1u << n) - 1u; }
inline Vector<4> LoadPart(Vector<4>, const float* from, size_t n) {
  return _mm_maskz_loadu_ps(static_cast<__mmask8>(MaskOf(n)), from);
}
inline Vector<8> LoadPart(Vector<8>, const float* from, size_t n) {
  return _mm256_maskz_loadu_ps(static_cast<__mmask8>(MaskOf(n)), from);
}
inline void StorePart(float* to, Vector<4> vector, size_t n) {
  _mm_mask_storeu_ps(to, static_cast<__mmask8>(MaskOf(n)), vector);
}
inline void StorePart(float* to, Vector<8> vector, size_t n) {
  _mm256_mask_storeu_ps(to, static_cast<__mmask8>(MaskOf(n)), vector);
}

#include "kernels/loops-inl.h"
}  // namespace

extern const Kernels kKernels;
constinit const Kernels kKernels = MakeTable("avx512");

}  // namespace fastps::avx512
