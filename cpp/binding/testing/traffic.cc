// Test-only: what a client has under way, with calls that own their arrays and a network that the
// test plays.
#include "client/traffic.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

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

// A call with arrays of its own.
struct OwnCall {
  OwnCall(Op op, std::shared_ptr<const ShardPlan> plan, std::shared_ptr<const Batch> batch,
          FloatArray given_values, size_t n_flags)
      : values(std::move(given_values)),
        rows(static_cast<py::ssize_t>(batch->n_places())),
        flags(static_cast<py::ssize_t>(n_flags)) {
    std::fill_n(rows.mutable_data(), rows.size(), -1.0f);
    std::fill_n(flags.mutable_data(), flags.size(), uint8_t{255});
    const CallArrays arrays{values.data(), rows.mutable_data(), flags.mutable_data()};
    call = std::make_shared<Call>(op, std::move(plan), std::move(batch), arrays);
  }
  FloatArray values;
  FloatArray rows;
  FlagArray flags;
  std::shared_ptr<Call> call;
};

class TrafficUnderTest {
 public:
  TrafficUnderTest(const py::dict& map, size_t bytes_kept_max)
      : map_(MapOf(map)), traffic_(*pool_, map_, bytes_kept_max) {}

  // The plan by the map in force; calls may be planned with one and start with a later one.
  std::shared_ptr<const ShardPlan> Plan(int op, uint32_t table) const {
    return ShardPlan::Make(map_, TableId(table), UseOf(static_cast<Op>(op)));
  }

  // A call that cannot succeed has ended when this returns.
  std::shared_ptr<OwnCall> Start(int op_number, std::shared_ptr<ShardPlan> plan,
                                 const KeyArray& keys, const FloatArray& values, bool gathered) {
    const Op op = static_cast<Op>(op_number);
    Status status;
    std::shared_ptr<const Batch> batch;
    if (op == Op::kStats) {
      batch = MakeShardBatch(*plan);
    } else if (op == Op::kSetLr) {
      batch = MakeShardValueBatch(*plan);
    } else if (plan->spec().kind == TableKind::kDense) {
      batch = MakeRowBatch(*plan, SpanOf(keys), *pool_);
    } else {
      batch = MakeKeyBatch(*plan, SpanOf(keys), *pool_, &status);
    }
    testing::RequireOk(status);
    const size_t n_values = op == Op::kSetLr ? 1 : CarriesValues(op) ? batch->n_places() : 0;
    testing::Require(static_cast<size_t>(values.size()) == n_values, "values do not fit");
    auto own = std::make_shared<OwnCall>(op, std::move(plan), std::move(batch), values,
                                         static_cast<size_t>(keys.size()));
    if (traffic_.FailIfLost(*own->call)) return own;
    std::vector<Buffer> buffers;
    if (gathered) {
      for (size_t i = 0; i < own->call->batch().messages().size(); ++i) {
        buffers.push_back(own->call->GatherValues(i, *pool_));
      }
    }
    traffic_.Enqueue(own->call, std::move(buffers));
    return own;
  }

  void Replan(const py::dict& map) {
    map_ = MapOf(map);
    traffic_.Replan(map_);
    for (auto& call : traffic_.TakeResumed()) resumed_.push_back(std::move(call));
  }

  // (how many writes that were kept went on, how many of these were answered, the first failure).
  std::tuple<size_t, size_t, int> Resumed() const {
    size_t n_done = 0;
    Code failure = Code::kOk;
    for (const auto& call : resumed_) {
      n_done += call->done();
      if (failure == Code::kOk) failure = call->status().code();
    }
    return {resumed_.size(), n_done, static_cast<int>(failure)};
  }

  // Sends what the windows allow: a dict for each request.
  py::list Send(int64_t now_ms) {
    py::list sent;
    for (auto& [address, lane] : traffic_.lanes()) {
      while (OutMessage* const message = lane.NextToSend(now_ms)) {
        traffic_.Gather(*message);
        sent.append(RequestDict(address, *message, ++last_request_id_));
        lane.OnSent(RequestId(last_request_id_), now_ms);
      }
    }
    return sent;
  }

  void OnReply(uint32_t server, uint32_t thread, const std::vector<py::bytes>& frame_bytes,
               int64_t now_ms) {
    std::vector<Bytes> frames;
    for (const std::string_view frame : frame_bytes) {
      frames.push_back(std::as_bytes(std::span(frame)));
    }
    Reply reply;
    testing::RequireOk(decoder_.DecodeReply(frames, &reply));
    traffic_.OnReply({ServerId(server), ThreadId(thread)}, reply, now_ms);
  }

  void Restart(uint32_t server, uint32_t thread, int64_t now_ms) {
    const auto lane = traffic_.lanes().find({ServerId(server), ThreadId(thread)});
    if (lane != traffic_.lanes().end()) lane->second.RestartAll(now_ms);
  }

  void FailAll() { traffic_.FailAll(Status(Code::kClosed, "closed")); }
  void GatherQueued(const OwnCall& own) { traffic_.GatherQueued(*own.call); }
  size_t BytesInFlight() const { return traffic_.bytes_in_flight(); }
  size_t BytesKept() const { return traffic_.bytes_kept(); }
  std::vector<std::pair<uint32_t, uint32_t>> Lanes() const {
    std::vector<std::pair<uint32_t, uint32_t>> lanes;
    for (const auto& [address, lane] : traffic_.lanes()) {
      lanes.emplace_back(address.server.value, address.thread.value);
    }
    return lanes;
  }

 private:
  static std::shared_ptr<const ClusterMap> MapOf(const py::dict& map) {
    return std::make_shared<const ClusterMap>(testing::MapOfDict(map));
  }

  py::dict RequestDict(LaneAddress lane, const OutMessage& message, uint64_t id) const {
    py::dict dict;
    dict["lane"] = py::make_tuple(lane.server.value, lane.thread.value);
    dict["request_id"] = id;
    dict["op"] = static_cast<int>(message.call->op());
    std::vector<std::tuple<uint32_t, uint32_t, uint64_t, uint32_t, uint32_t>> parts;
    for (const PartHeader& part : message.parts) {
      parts.emplace_back(part.shard.value, part.view.value, part.sequence.value, part.n_keys,
                         part.n_values);
    }
    dict["parts"] = parts;
    dict["keys"] = ArrayOf(message.keys.As<Key>().subspan(message.keys_begin, message.n_keys));
    dict["values"] = ArrayOf(message.values.As<float>());
    dict["is_piece"] = message.joined != nullptr;
    return dict;
  }

  const std::shared_ptr<BufferPool> pool_ = BufferPool::Create();
  std::shared_ptr<const ClusterMap> map_;
  Traffic traffic_;
  std::vector<std::shared_ptr<Call>> resumed_;
  uint64_t last_request_id_ = 0;
  Decoder decoder_;
};

std::vector<uint32_t> NumbersOf(const auto& ids) {
  std::vector<uint32_t> numbers;
  for (const auto id : ids) numbers.push_back(id.value);
  return numbers;
}

}  // namespace

void BindTraffic(py::module_& m) {
  py::class_<OwnCall, std::shared_ptr<OwnCall>>(m, "OwnCall")
      .def_readonly("rows", &OwnCall::rows)
      .def_readonly("flags", &OwnCall::flags)
      .def("detach", [](OwnCall& c) { c.call->Detach(); })
      .def_property_readonly("done", [](const OwnCall& c) { return c.call->done(); })
      .def_property_readonly(
          "code", [](const OwnCall& c) { return static_cast<int>(c.call->status().code()); })
      .def_property_readonly("n_removed", [](OwnCall& c) { return c.call->results().n_removed; })
      .def_property_readonly("lost_shards",
                             [](const OwnCall& c) { return NumbersOf(c.call->lost_shards()); })
      .def_property_readonly("lost_servers",
                             [](const OwnCall& c) { return NumbersOf(c.call->lost_servers()); })
      .def_property_readonly("reports", [](OwnCall& c) {
        std::vector<std::pair<uint32_t, uint64_t>> reports;
        for (const ShardReport& report : c.call->results().shards) {
          reports.emplace_back(report.shard.value, report.stats.rows);
        }
        return reports;
      });

  const auto now_ms = py::arg("now_ms");
  py::class_<TrafficUnderTest>(m, "Traffic")
      .def(py::init<const py::dict&, size_t>(), py::arg("map"),
           py::arg("bytes_kept_max") = limits::kLostBytesKeptMax)
      .def(
          "plan",
          [](const TrafficUnderTest& t, int op, uint32_t table) {
            auto plan = t.Plan(op, table);
            testing::Require(plan != nullptr, "the map has no such table");
            return std::const_pointer_cast<ShardPlan>(plan);
          },
          py::arg("op"), py::arg("table"))
      .def("start", &TrafficUnderTest::Start, py::arg("op"), py::arg("plan"), py::arg("keys"),
           py::arg("values"), py::arg("gathered") = false)
      .def("replan", &TrafficUnderTest::Replan, py::arg("map"))
      .def("send", &TrafficUnderTest::Send, now_ms)
      .def("on_reply", &TrafficUnderTest::OnReply, py::arg("server"), py::arg("thread"),
           py::arg("frames"), now_ms)
      .def("restart", &TrafficUnderTest::Restart, py::arg("server"), py::arg("thread"), now_ms)
      .def("fail_all", &TrafficUnderTest::FailAll)
      .def("gather_queued", &TrafficUnderTest::GatherQueued, py::arg("call"))
      .def_property_readonly("bytes_in_flight", &TrafficUnderTest::BytesInFlight)
      .def_property_readonly("bytes_kept", &TrafficUnderTest::BytesKept)
      .def_property_readonly("resumed", &TrafficUnderTest::Resumed)
      .def_property_readonly("lanes", &TrafficUnderTest::Lanes);
}

}  // namespace fastps
