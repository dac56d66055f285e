// The loops for every CPU of the architecture (SSE2 on x86-64).
#include "kernels/kernels.h"

namespace fastps::baseline {
namespace {
#include "kernels/loops-inl.h"
}  // namespace

extern const Kernels kKernels;
constinit const Kernels kKernels = {
    .name = "baseline",
    .accumulate = kLoops<AccumulateStep>,
    .sgd = kLoops<SgdStep>,
    .adagrad = kLoops<AdagradStep>,
    .ftrl = kLoops<FtrlStep>,
    .add = &Add,
    .all_within = &AllWithin,
};

}  // namespace fastps::baseline
