// The loops for CPUs with AVX2. Only this file is compiled with -mavx2 (see cpp/CMakeLists.txt),
// and it defines no symbol but the table.
#include "kernels/kernels.h"

namespace fastps::avx2 {
namespace {
#include "kernels/loops-inl.h"
}  // namespace

extern const Kernels kKernels;
constinit const Kernels kKernels = {
    .name = "avx2",
    .accumulate = kLoops<AccumulateStep>,
    .sgd = kLoops<SgdStep>,
    .adagrad = kLoops<AdagradStep>,
    .ftrl = kLoops<FtrlStep>,
    .add = &Add,
    .all_within = &AllWithin,
};

}  // namespace fastps::avx2
