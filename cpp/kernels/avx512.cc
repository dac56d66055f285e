// The loops that AVX-512 (F and VL) makes faster than AVX2: see kernels.h. Only this file is
// compiled for it (see cpp/CMakeLists.txt), and it defines no symbols but these loops.
#include <immintrin.h>

#include "base/prefetch.h"
#include "kernels/kernels.h"

namespace fastps {

namespace avx2 {
extern const Kernels kKernels;
}

namespace avx512 {
namespace {
#include "kernels/vectors-inl.h"
//
#include "kernels/vectors-avx-inl.h"

constexpr size_t kLanes = 8;
constexpr size_t kWideLanes = 16;

// All lanes of a masked root: the intrinsic without mask draws a false warning from g++ 12.
inline Vector<16> Sqrt(Vector<16> x) { return _mm512_maskz_sqrt_ps(0xffff, x); }

#include "kernels/loops-inl.h"

// Narrow rows are left to AVX2. `loops` is the rule's field of the tables.
template <class Rule, UpdateLoops Kernels::* loops>
void WideRows(float* const* rows, const float* gradients, size_t n_rows, size_t width,
              const RuleConstants& constants) {
  if (width < kWideMin) {
    (avx2::kKernels.*loops).rows(rows, gradients, n_rows, width, constants);
  } else {
    Rows<Rule>(rows, gradients, n_rows, width, constants);
  }
}

template <class Rule, UpdateLoops Kernels::* loops>
void WideBlock(const RowSpan& block, const float* gradients, size_t n_rows, size_t width,
               const RuleConstants& constants) {
  if (width < kWideMin) {
    (avx2::kKernels.*loops).block(block, gradients, n_rows, width, constants);
  } else {
    Block<Rule>(block, gradients, n_rows, width, constants);
  }
}

}  // namespace

extern const UpdateLoops kAdam, kFtrl;
constinit const UpdateLoops kAdam = {&WideRows<AdamStep, &Kernels::adam>,
                                     &WideBlock<AdamStep, &Kernels::adam>};
constinit const UpdateLoops kFtrl = {&WideRows<FtrlStep, &Kernels::ftrl>,
                                     &WideBlock<FtrlStep, &Kernels::ftrl>};

}  // namespace avx512
}  // namespace fastps
