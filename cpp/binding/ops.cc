// Process-wide facts and settings: libzmq, kernel sets.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "binding/bind.h"
#include "kernels/kernels.h"
#include "transport/zmq_api.h"

namespace py = pybind11;

namespace fastps {
namespace {

// The module's one libzmq and context. Never destroyed: sockets of other threads may outlive the
// interpreter.
ZmqRuntime* runtime = nullptr;

void LoadLibzmq(const std::string& path) {
  if (runtime != nullptr) return;
  ZmqApi api;
  ThrowUnlessOk(ZmqApi::Load(path, &api));
  runtime = new ZmqRuntime(std::move(api));
}

py::object DescribeLibzmq() {
  if (runtime == nullptr) return py::none();
  const ZmqApi& api = runtime->api();
  return py::make_tuple(api.path, py::make_tuple(api.version[0], api.version[1], api.version[2]));
}

std::vector<std::string> KernelSets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : AvailableKernels()) names.emplace_back(kernels->name);
  return names;
}

void ForceKernelsByName(const std::string& name) {
  if (ForceKernels(name)) return;
  std::string there;
  for (const std::string& known : KernelSets()) there += (there.empty() ? "" : ", ") + known;
  ThrowNamed("ConfigError", "kernel set '" + name + "' is not to be had here. This CPU can run: " +
                                there + ". Set FASTPS_KERNELS to one of them or unset it");
}

py::dict Limits() {
  py::dict limits;
  limits["frame_bytes_max"] = limits::kFrameBytesMax;
  limits["row_width_max"] = limits::kRowWidthMax;
  limits["shards_per_table_max"] = limits::kShardsPerTableMax;
  limits["tables_max"] = limits::kTablesMax;
  limits["servers_max"] = limits::kServersMax;
  limits["data_threads_max"] = limits::kDataThreadsMax;
  limits["scan_rows_max"] = limits::kScanRowsMax;
  return limits;
}

}  // namespace

const ZmqRuntime& LoadedRuntime() {
  if (runtime == nullptr) {
    ThrowNamed("ConfigError", "libzmq is not loaded; fastps._libzmq.load() does it");
  }
  return *runtime;
}

void BindOps(py::module_& m) {
  m.def("load_libzmq", &LoadLibzmq, py::arg("path"));
  m.def("libzmq", &DescribeLibzmq);
  m.def("kernel_sets", &KernelSets);
  m.def("active_kernels", [] { return std::string(ActiveKernels().name); });
  m.def("force_kernels", &ForceKernelsByName, py::arg("name"));
  m.def("limits", &Limits);
}

}  // namespace fastps
