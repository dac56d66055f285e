// The loops for every CPU of the architecture (SSE2 on x86-64).
#include "base/prefetch.h"
#include "kernels/kernels.h"

namespace fastps::baseline {
namespace {
#include "kernels/vectors-inl.h"

constexpr size_t kLanes = 4;
constexpr size_t kWideLanes = 4;

inline Vector<4> Sqrt(Vector<4> x) {
  return Vector<4>{Sqrt(x[0]), Sqrt(x[1]), Sqrt(x[2]), Sqrt(x[3])};
}

#include "kernels/loops-inl.h"
}  // namespace

extern const Kernels kKernels;
constinit const Kernels kKernels = MakeTable("baseline");

}  // namespace fastps::baseline
