// Test-only: how a call takes the replies to its messages.
#include "client/call.h"

#include <pybind11/stl.h>

#include <optional>
#include <tuple>

#include "binding/testing/testing.h"
#include "wire/codec.h"

namespace py = pybind11;

namespace fastps {
namespace {

using testing::ArrayOf;
using testing::FlagArray;
using testing::FloatArray;
using testing::KeyArray;
using testing::SpanOf;

// A call over the keys of one batch, with arrays of its own.
class CallUnderTest {
 public:
  // `of_set`: the keys are those of a key set that the servers know.
  CallUnderTest(int op, std::shared_ptr<ShardPlan> plan, const KeyArray& keys, bool of_set)
      : rows_(keys.size() * static_cast<py::ssize_t>(plan->spec().row_width)), flags_(keys.size()) {
    std::fill_n(rows_.mutable_data(), rows_.size(), -1.0f);
    std::fill_n(flags_.mutable_data(), flags_.size(), uint8_t{255});
    Status status;
    std::shared_ptr<const Batch> batch =
        op == static_cast<int>(Op::kScan)    ? MakeScanBatch(*plan, ShardId(0), 0, *pool_)
        : op == static_cast<int>(Op::kStats) ? MakeShardBatch(*plan)
                                             : MakeKeyBatch(*plan, SpanOf(keys), *pool_, &status);
    testing::RequireOk(status);
    const CallArrays arrays{rows_.data(), rows_.mutable_data(), flags_.mutable_data()};
    std::shared_ptr<KeySetState> set;
    if (of_set) {
      set = std::make_shared<KeySetState>(KeySetSignature{{1, 2}}, plan, batch);
      for (size_t i = 0; i < batch->messages().size(); ++i) set->SetKnown(i);
    }
    call_.emplace(static_cast<Op>(op), std::move(plan), std::move(batch), arrays, std::move(set));
  }

  // True: the message has ended. False: it is to be sent again.
  bool OnReply(size_t message, const std::vector<py::bytes>& frame_bytes) {
    testing::Require(message < call_->batch().messages().size(), "no such message");
    std::vector<Bytes> frames;
    for (const std::string_view frame : frame_bytes) {
      frames.push_back(std::as_bytes(std::span(frame)));
    }
    Reply reply;
    testing::RequireOk(decoder_.DecodeReply(frames, &reply));
    return call_->OnReply(message, reply) == Call::Verdict::kDone;
  }
  py::tuple Scanned() {
    const CallResults& results = call_->results();
    return py::make_tuple(ArrayOf(std::span<const Key>(results.scanned_keys)),
                          ArrayOf(std::span<const float>(results.scanned_values)),
                          results.next_cursor);
  }
  std::vector<std::tuple<uint32_t, uint32_t, uint64_t>> Reports() {
    std::vector<std::tuple<uint32_t, uint32_t, uint64_t>> reports;
    for (const ShardReport& report : call_->results().shards) {
      reports.emplace_back(report.shard.value, report.server.value, report.stats.rows);
    }
    return reports;
  }

  Call& call() { return *call_; }
  FloatArray rows_;
  FlagArray flags_;

 private:
  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create();
  std::optional<Call> call_;
  Decoder decoder_;
};

}  // namespace

void BindCall(py::module_& m) {
  py::class_<CallUnderTest>(m, "Call")
      .def(py::init<int, std::shared_ptr<ShardPlan>, const KeyArray&, bool>(), py::arg("op"),
           py::arg("plan"), py::arg("keys"), py::arg("of_set") = false)
      .def("may_omit_keys",
           [](CallUnderTest& c, size_t message) { return c.call().MayOmitKeys(message); })
      .def("set_parts_of",
           [](CallUnderTest& c, size_t message) {
             std::vector<uint32_t> set_parts;
             for (const PartHeader& part : c.call().PartsOf(message)) {
               set_parts.push_back(part.set_part);
             }
             return set_parts;
           })
      .def("on_reply", &CallUnderTest::OnReply, py::arg("message"), py::arg("frames"))
      .def(
          "parts_of",
          [](CallUnderTest& c, size_t message) {
            std::vector<std::tuple<uint32_t, uint32_t, uint32_t>> parts;
            for (const PartHeader& part : c.call().PartsOf(message)) {
              parts.emplace_back(part.shard.value, part.n_keys, part.n_values);
            }
            return parts;
          },
          py::arg("message"), "(shard, n_keys, n_values) of each part as it is sent.")
      .def(
          "fail_lost",
          [](CallUnderTest& c, size_t message) {
            const auto& views = c.call().plan().route->views;
            for (const PartHeader& part : c.call().PartsOf(message)) {
              c.call().NameLost(part.shard, views[part.shard.value].chain());
            }
            c.call().FailMessage(message, Status(Code::kServerLost, "lost"));
          },
          py::arg("message"))
      .def("detach", [](CallUnderTest& c) { c.call().Detach(); })
      .def_property_readonly("done", [](CallUnderTest& c) { return c.call().done(); })
      .def_property_readonly(
          "code", [](CallUnderTest& c) { return static_cast<int>(c.call().status().code()); })
      .def_property_readonly("message",
                             [](CallUnderTest& c) { return c.call().status().message(); })
      .def_property_readonly("lost_shards",
                             [](CallUnderTest& c) {
                               std::vector<uint32_t> shards;
                               for (const ShardId shard : c.call().lost_shards()) {
                                 shards.push_back(shard.value);
                               }
                               return shards;
                             })
      .def_property_readonly("n_removed",
                             [](CallUnderTest& c) { return c.call().results().n_removed; })
      .def_property_readonly("n_messages",
                             [](CallUnderTest& c) { return c.call().batch().messages().size(); })
      .def("scanned", &CallUnderTest::Scanned)
      .def("reports", &CallUnderTest::Reports)
      .def_readonly("rows", &CallUnderTest::rows_)
      .def_readonly("flags", &CallUnderTest::flags_);
}

}  // namespace fastps
