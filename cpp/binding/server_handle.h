// Python's handle of a server: stop() lets the threads and sockets go while the object lives on.
// Used with the GIL held.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "binding/bind.h"
#include "server/server.h"

namespace fastps {

struct ServerHandle {
  // A call that reads the server without the GIL holds it as well.
  std::shared_ptr<Server> server;

  Server& open() const { return *shared(); }
  const std::shared_ptr<Server>& shared() const {
    if (server == nullptr) ThrowNamed("ClosedError", "the server was stopped");
    return server;
  }
  void Stop() {
    std::shared_ptr<Server> stopping = std::move(server);
    pybind11::gil_scoped_release release;
    stopping.reset();
  }
};

}  // namespace fastps
