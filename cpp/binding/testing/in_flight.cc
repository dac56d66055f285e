// Test-only: the window of one lane, with messages that are only numbers and sizes.
#include "client/in_flight.h"

#include <pybind11/stl.h>

#include <map>
#include <optional>

#include "binding/testing/testing.h"

namespace py = pybind11;

namespace fastps {
namespace {

using MaybeNumber = std::optional<uint64_t>;
using MaybeTime = std::optional<int64_t>;

MaybeTime TimeOf(int64_t at_ms) { return at_ms == kNeverMs ? std::nullopt : std::optional(at_ms); }

class InFlightUnderTest {
 public:
  void Enqueue(uint64_t number, size_t n_keys, size_t n_values, uint32_t n_shard_writes) {
    auto message = std::make_shared<OutMessage>();
    message->number = number;
    message->n_keys = n_keys;
    message->n_values = n_values;
    message->n_shard_writes = n_shard_writes;
    in_flight_.Enqueue(std::move(message));
  }
  MaybeNumber NextToSend(int64_t now_ms) const {
    const OutMessage* const next = in_flight_.NextToSend(now_ms);
    return next == nullptr ? std::nullopt : MaybeNumber(next->number);
  }
  void OnSent(uint64_t id, int64_t now_ms) {
    testing::Require(NextToSend(now_ms).has_value(), "NextToSend gave nothing");
    in_flight_.OnSent(RequestId(id), now_ms);
  }
  // The number of the message that ended, or that goes again.
  MaybeNumber TakeReplied(uint64_t id, int64_t now_ms, bool again) {
    std::shared_ptr<OutMessage> message = in_flight_.TakeReplied(RequestId(id), now_ms);
    if (message == nullptr) return std::nullopt;
    const uint64_t number = message->number;
    if (again) {
      in_flight_.EnqueueAgain(std::move(message), now_ms);
    } else {
      in_flight_.OnEnded();
    }
    return number;
  }
  std::vector<uint64_t> TakeAll() {
    std::vector<uint64_t> numbers;
    for (const auto& message : in_flight_.TakeAll()) numbers.push_back(message->number);
    return numbers;
  }
  std::vector<uint64_t> Queued() const {
    std::vector<uint64_t> numbers;
    in_flight_.ForEachQueued([&](const OutMessage& message) { numbers.push_back(message.number); });
    return numbers;
  }

  InFlight in_flight_;
};

}  // namespace

void BindInFlight(py::module_& m) {
  const auto now_ms = py::arg("now_ms");
  py::class_<InFlightUnderTest>(m, "InFlight")
      .def(py::init<>())
      .def("enqueue", &InFlightUnderTest::Enqueue, py::arg("number"), py::arg("n_keys") = 0,
           py::arg("n_values") = 0, py::arg("n_shard_writes") = 0)
      .def("next_to_send", &InFlightUnderTest::NextToSend, now_ms)
      .def("on_sent", &InFlightUnderTest::OnSent, py::arg("request_id"), now_ms)
      .def("take_replied", &InFlightUnderTest::TakeReplied, py::arg("request_id"), now_ms,
           py::arg("again") = false)
      .def("resend_at_ms",
           [](const InFlightUnderTest& u) { return TimeOf(u.in_flight_.resend_at_ms()); })
      .def(
          "pause_ends_ms",
          [](const InFlightUnderTest& u, int64_t now) {
            return TimeOf(u.in_flight_.pause_ends_ms(now));
          },
          now_ms)
      .def(
          "restart_all", [](InFlightUnderTest& u, int64_t now) { u.in_flight_.RestartAll(now); },
          now_ms)
      .def("take_all", &InFlightUnderTest::TakeAll)
      .def("queued", &InFlightUnderTest::Queued)
      .def_property_readonly("empty",
                             [](const InFlightUnderTest& u) { return u.in_flight_.empty(); })
      .def_property_readonly("has_sent",
                             [](const InFlightUnderTest& u) { return u.in_flight_.has_sent(); });
}

}  // namespace fastps
