// Test-only: batches of keys and of element ranges, and the way of values through them.
#include "client/batch.h"

#include <pybind11/stl.h>

#include <tuple>

#include "base/limits.h"
#include "binding/testing/testing.h"

namespace py = pybind11;

namespace fastps {
namespace {

using testing::ArrayOf;
using testing::FlagArray;
using testing::FloatArray;
using testing::KeyArray;
using testing::Require;
using testing::SpanOf;

using PartTuple = std::tuple<uint32_t, uint32_t, uint64_t, uint32_t, uint32_t>;

const PlannedMessage& MessageOf(const Batch& batch, size_t message) {
  Require(message < batch.messages().size(), "no such message");
  return batch.messages()[message];
}

py::list MessagesOf(const Batch& batch) {
  py::list messages;
  for (const PlannedMessage& planned : batch.messages()) {
    std::vector<PartTuple> parts;
    for (const PartHeader& part : planned.parts) {
      parts.emplace_back(part.shard.value, part.view.value, part.sequence.value, part.n_keys,
                         part.n_values);
    }
    py::dict message;
    message["lane"] = planned.lane;
    std::vector<uint32_t> set_parts;
    for (const PartHeader& part : planned.parts) set_parts.push_back(part.set_part);
    message["parts"] = parts;
    message["set_parts"] = set_parts;
    message["keys_begin"] = planned.keys_begin;
    message["n_keys"] = planned.n_keys;
    message["n_values"] = planned.n_values;
    messages.append(message);
  }
  return messages;
}

FloatArray Gather(const Batch& batch, size_t message, const FloatArray& rows, bool sums) {
  FloatArray values(static_cast<py::ssize_t>(MessageOf(batch, message).n_values));
  if (sums) {
    batch.GatherSums(message, rows.data(), values.mutable_data());
  } else {
    batch.GatherLast(message, rows.data(), values.mutable_data());
  }
  return values;
}

void Scatter(const Batch& batch, size_t message, const FloatArray& values, FloatArray rows) {
  Require(static_cast<size_t>(values.size()) == MessageOf(batch, message).n_values,
          "values are not those of the message");
  batch.Scatter(message, values.data(), rows.mutable_data());
}

void ScatterFlags(const Batch& batch, size_t message, const FlagArray& flags, FlagArray places) {
  Require(static_cast<size_t>(flags.size()) == MessageOf(batch, message).n_keys,
          "flags are not those of the message");
  batch.ScatterFlags(message, flags.data(), places.mutable_data());
}

}  // namespace

void BindBatch(py::module_& m) {
  // Shared by all batches: each keeps the pool alive.
  const std::shared_ptr<BufferPool> pool = BufferPool::Create();
  py::class_<Batch>(m, "Batch")
      .def_property_readonly("messages", &MessagesOf)
      .def_property_readonly("keys", [](const Batch& b) { return ArrayOf(b.keys().As<Key>()); })
      .def(
          "gather_sums",
          [](const Batch& b, size_t message, const FloatArray& gradients) {
            return Gather(b, message, gradients, true);
          },
          py::arg("message"), py::arg("gradients"))
      .def(
          "gather_last",
          [](const Batch& b, size_t message, const FloatArray& rows) {
            return Gather(b, message, rows, false);
          },
          py::arg("message"), py::arg("rows"))
      .def("scatter", &Scatter, py::arg("message"), py::arg("values"), py::arg("rows").noconvert(),
           "Writes into `rows`.")
      .def("scatter_flags", &ScatterFlags, py::arg("message"), py::arg("flags"),
           py::arg("places").noconvert(), "Writes into `places`.");

  m.def(
      "key_batch",
      [pool](const ShardPlan& plan, const KeyArray& keys) {
        Status status;
        std::unique_ptr<Batch> batch = MakeKeyBatch(plan, SpanOf(keys), *pool, &status);
        Require((batch != nullptr) == status.ok(), "batch and status disagree");
        testing::RequireOk(status);
        return batch;
      },
      py::arg("plan"), py::arg("keys"));
  m.def(
      "whole_batch", [pool](const ShardPlan& plan) { return MakeWholeBatch(plan, *pool); },
      py::arg("plan"));
  m.def(
      "row_batch",
      [pool](const ShardPlan& plan, const KeyArray& rows) {
        for (const uint64_t row : SpanOf(rows)) {
          Require(row < plan.spec().n_rows, "every row < n_rows");
        }
        return MakeRowBatch(plan, SpanOf(rows), *pool);
      },
      py::arg("plan"), py::arg("rows"));
  m.def("shard_batch", &MakeShardBatch, py::arg("plan"));
  m.def("shard_value_batch", &MakeShardValueBatch, py::arg("plan"));
  m.def(
      "scan_batch",
      [pool](const ShardPlan& plan, uint32_t shard, uint64_t cursor) {
        return MakeScanBatch(plan, ShardId(shard), cursor, *pool);
      },
      py::arg("plan"), py::arg("shard"), py::arg("cursor"));

  py::dict bounds;
  bounds["message_keys_goal"] = limits::kMessageKeysGoal;
  bounds["message_values_bytes_goal"] = limits::kMessageValuesBytesGoal;
  bounds["parts_per_shard_in_message_max"] = limits::kPartsPerShardInMessageMax;
  bounds["messages_in_flight_per_lane_max"] = limits::kMessagesInFlightPerLaneMax;
  bounds["lane_bytes_in_flight_max"] = limits::kLaneBytesInFlightMax;
  bounds["resend_after_ms"] = limits::kResendAfterMs;
  bounds["resend_after_ms_max"] = limits::kResendAfterMsMax;
  bounds["retry_pause_ms"] = limits::kRetryPauseMs;
  bounds["retry_pause_ms_max"] = limits::kRetryPauseMsMax;
  bounds["writes_in_flight_per_shard_max"] = limits::kWritesInFlightPerShardMax;
  bounds["frame_bytes_max"] = limits::kFrameBytesMax;
  m.attr("limits") = bounds;
}

}  // namespace fastps
