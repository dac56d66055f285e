// Ticket: Python's handle of a started call. It owns the arrays that the call fills and turns what
// the call brought, or its error, into Python. Used with the GIL held; waits give it away.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "client/client.h"

namespace fastps {

// `timeout` seconds from now; infinity never comes.
int64_t DeadlineAfter(double timeout);

// Calls wait(until_ms) without the GIL, for short times, until it is true; false when `deadline_ms`
// came first. Raises what Ctrl-C raises.
template <class Wait>
bool WaitInSlices(int64_t deadline_ms, Wait wait) {
  for (;;) {
    bool done = false;
    {
      pybind11::gil_scoped_release release;
      done = wait(std::min(deadline_ms, NowMs() + limits::kWaitSliceMs));
    }
    if (done) return true;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    if (NowMs() >= deadline_ms) return false;
  }
}

// Raises the error that `call` ended with. Requires: it has ended with one.
[[noreturn]] void RaiseFailure(const Call& call);

// Says what became of calls, those of which the same is to be said counted in one.
std::string DescribeFailures(std::span<const std::shared_ptr<const Call>> calls);

// Raises one error, of the kind that the first call ended with, which tells of all of them.
// Requires: there are some, and each has ended with an error.
[[noreturn]] void RaiseFailures(std::span<const std::shared_ptr<const Call>> calls);

class Ticket {
 public:
  Ticket(std::shared_ptr<Client> client, std::shared_ptr<Call> call, pybind11::object output)
      : client_(std::move(client)), call_(std::move(call)), output_(std::move(output)) {}
  Ticket(Ticket&&) = default;
  ~Ticket();

  bool Done() const;
  // Whether the call has ended with an error. To ask is not to be told of it.
  bool Failed() const;
  // Waits until one of the tickets, all of one client, is done; false when the time was over.
  static bool WaitForAny(const std::vector<const Ticket*>& tickets, double timeout);

  // What the call brought. Raises its error, FastPSTimeoutError, or what Ctrl-C raises.
  pybind11::object Result(double timeout);

 private:
  pybind11::object Take();
  pybind11::object TakeStats();
  pybind11::object TakeScan();
  [[noreturn]] void RaiseTimeout(double timeout) const;

  std::shared_ptr<Client> client_;
  std::shared_ptr<Call> call_;
  pybind11::object output_;
};

}  // namespace fastps
