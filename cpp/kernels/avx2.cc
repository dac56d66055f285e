// The loops for CPUs with AVX2. Only this file is compiled with -mavx2 (see cpp/CMakeLists.txt),
// and it defines no symbol but the table.
#include <immintrin.h>

#include "base/prefetch.h"
#include "kernels/kernels.h"

namespace fastps::avx2 {
namespace {
#include "kernels/vectors-inl.h"
//
#include "kernels/vectors-avx-inl.h"

constexpr size_t kLanes = 8;
constexpr size_t kWideLanes = 8;

#include "kernels/loops-inl.h"
}  // namespace

extern const Kernels kKernels;
constinit const Kernels kKernels = MakeTable("avx2");

}  // namespace fastps::avx2
