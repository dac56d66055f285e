// What the files of the binding share. Each Bind function adds one concept to the module.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string_view>

#include "base/status.h"
#include "base/types.h"
#include "routing/cluster_map.h"
#include "transport/zmq_socket.h"

namespace fastps {

void BindClient(pybind11::module_& m);
void BindCuts(pybind11::module_& m);  // after BindServer
void BindHash(pybind11::module_& m);
void BindLibsvm(pybind11::module_& m);
void BindMaps(pybind11::module_& m);
void BindOps(pybind11::module_& m);
void BindServer(pybind11::module_& m);

// errors.cc: raises the exception of fastps.errors that `status` stands for.
[[noreturn]] void Throw(const Status& status);
inline void ThrowUnlessOk(const Status& status) {
  if (!status.ok()) Throw(status);
}
// Raises ServerLostError with its attributes.
[[noreturn]] void ThrowServerLost(const std::string& message, const pybind11::object& servers,
                                  const std::string& table, const pybind11::object& shards);
// Raises the named class of fastps.errors.
[[noreturn]] void ThrowNamed(const char* name, const std::string& message);

// maps.cc
std::shared_ptr<const ClusterMap> MapOfBlob(const pybind11::bytes& blob);
BootId BootIdOfBytes(const pybind11::bytes& bytes);

// ops.cc: libzmq and its context; ConfigError before load_libzmq was called.
const ZmqRuntime& LoadedRuntime();

}  // namespace fastps
