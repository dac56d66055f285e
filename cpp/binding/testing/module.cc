// The table of contents of fastps._core_test: C++ units for pytest and hypothesis. Never shipped.
#include <pybind11/pybind11.h>

#include "binding/testing/testing.h"

PYBIND11_MODULE(_core_test, m) {
  fastps::BindKernels(m);
  fastps::BindStore(m);
  fastps::BindShard(m);
  fastps::BindCodec(m);
  fastps::BindMapCodec(m);
  fastps::BindRouting(m);
  fastps::BindBatch(m);
  fastps::BindCall(m);
  fastps::BindChain(m);
  fastps::BindChainMessages(m);
  fastps::BindInFlight(m);
  fastps::BindTraffic(m);
}
