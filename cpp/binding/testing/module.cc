// The table of contents of fastps._core_test: C++ units for pytest and hypothesis. Never shipped.
#include <pybind11/pybind11.h>

namespace fastps {
void BindCodec(pybind11::module_& m);
void BindKernels(pybind11::module_& m);
void BindStore(pybind11::module_& m);
}  // namespace fastps

PYBIND11_MODULE(_core_test, m) {
  fastps::BindKernels(m);
  fastps::BindStore(m);
  fastps::BindCodec(m);
}
