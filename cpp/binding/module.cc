// The table of contents of fastps._core. Each Bind function lives in the file of its concept.
#include <pybind11/pybind11.h>

#include "binding/bind.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of fastps. Its typed face is _core.pyi.";
  fastps::BindOps(m);
  fastps::BindMaps(m);
  fastps::BindServer(m);
  fastps::BindCuts(m);
  fastps::BindClient(m);
  fastps::BindLibsvm(m);
  fastps::BindHash(m);
}
