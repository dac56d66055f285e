#include <pybind11/pybind11.h>

#include "binding/bind.h"

namespace py = pybind11;

namespace fastps {
namespace {

const char* ExceptionName(Code code) {
  switch (code) {
    case Code::kTableNotFound:
      return "TableNotFoundError";
    case Code::kShapeMismatch:
      return "ShapeError";
    case Code::kValueRange:
      return "ValueRangeError";
    case Code::kSessionEnded:
      return "SessionEndedError";
    case Code::kEpochChanged:
      return "EpochChangedError";
    case Code::kServerLost:
      return "ServerLostError";
    case Code::kTimeout:
      return "FastPSTimeoutError";
    case Code::kClosed:
      return "ClosedError";
    case Code::kConfig:
    case Code::kUnavailable:
      return "ConfigError";
    case Code::kMalformed:
    case Code::kWrongCluster:
      return "WireError";
    default:
      return "FastPSError";
  }
}

[[noreturn]] void Raise(const py::object& exception) {
  PyErr_SetObject(py::type::handle_of(exception).ptr(), exception.ptr());
  throw py::error_already_set();
}

py::object ErrorClass(const char* name) { return py::module_::import("fastps.errors").attr(name); }

}  // namespace

void Throw(const Status& status) { ThrowNamed(ExceptionName(status.code()), status.message()); }

void ThrowNamed(const char* name, const std::string& message) { Raise(ErrorClass(name)(message)); }

void ThrowServerLost(const std::string& message, const py::object& servers,
                     const std::string& table, const py::object& shards) {
  Raise(ErrorClass("ServerLostError")(message, servers, table, shards));
}

}  // namespace fastps
