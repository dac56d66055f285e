#include "binding/ticket.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "binding/bind.h"

namespace py = pybind11;

namespace fastps {

// `timeout` seconds from now; infinity never comes.
int64_t DeadlineAfter(double timeout) {
  if (!(timeout < 1e12)) return kNeverMs;
  return NowMs() + static_cast<int64_t>(std::ceil(std::max(timeout, 0.0) * 1000));
}

void RaiseFailure(const Call& call) {
  const Status& status = call.status();
  if (status.code() != Code::kServerLost) Throw(status);
  std::vector<uint32_t> servers, shards;
  for (const ServerId server : call.lost_servers()) servers.push_back(server.value);
  for (const ShardId shard : call.lost_shards()) shards.push_back(shard.value);
  std::ranges::sort(servers);
  std::ranges::sort(shards);
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  const std::string& table = call.plan().spec().name;
  std::string named;
  for (size_t i = 0; i < std::min<size_t>(shards.size(), 8); ++i) {
    named += (i == 0 ? "" : ", ") + std::to_string(shards[i]);
  }
  if (shards.size() > 8) named += ", ...";
  std::string lost_servers;
  for (const uint32_t server : servers) {
    lost_servers += (lost_servers.empty() ? "" : ", ") + std::to_string(server);
  }
  ThrowServerLost(std::string(OpName(call.op())) + " on table '" + table + "': server " +
                      lost_servers + " is lost and with it every copy of " +
                      std::to_string(shards.size()) + " shards of this call (" + named + "). " +
                      status.message(),
                  py::cast(servers), table, py::cast(shards));
}

Ticket::~Ticket() {
  if (call_ == nullptr) return;
  py::gil_scoped_release release;
  client_->Detach(*call_);  // late replies must not touch arrays that are going away
}

bool Ticket::Done() const {
  py::gil_scoped_release release;
  return client_->IsDone(*call_);
}

py::object Ticket::Take() {
  call_->observed = true;
  if (!call_->status().ok()) RaiseFailure(*call_);
  switch (call_->op()) {
    case Op::kPull:
    case Op::kContains:
      return output_;
    case Op::kRemove:
      return py::int_(call_->results().n_removed);
    case Op::kStats:
      return TakeStats();
    case Op::kScan:
      return TakeScan();
    case Op::kPush:
    case Op::kAssign:
    case Op::kSetLr:
      break;
  }
  return py::none();
}

py::object Ticket::Result(double timeout) {
  const auto ended = [this](int64_t until_ms) { return client_->Wait(*call_, until_ms); };
  if (!WaitInSlices(DeadlineAfter(timeout), ended)) RaiseTimeout(timeout);
  return Take();
}

void Ticket::RaiseTimeout(double timeout) const {
  const TableSpec& spec = call_->plan().spec();
  std::string servers;
  for (const PlannedMessage& message : call_->batch().messages()) {
    const std::string name = std::to_string(call_->plan().lanes[message.lane].server.value);
    if (servers.find(name) == std::string::npos) servers += (servers.empty() ? "" : ", ") + name;
  }
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%g", timeout);
  const bool is_write = IsWrite(call_->op());
  ThrowNamed("FastPSTimeoutError",
             std::string(OpName(call_->op())) + " on table '" + spec.name +
                 "' did not end within " + seconds + " s; it involves servers " + servers + ". " +
                 (is_write ? "It may still take effect: flush() settles it; do not send it again"
                           : "Give a longer timeout= or look at the servers"));
}

py::object Ticket::TakeStats() {
  py::list reports;
  for (const ShardReport& report : call_->results().shards) {
    py::dict entry;
    entry["shard"] = report.shard.value;
    entry["server"] = report.server.value;
    entry["rows"] = report.stats.rows;
    entry["bytes"] = report.stats.bytes;
    entry["apply_index"] = report.stats.apply_index;
    if (call_->plan().spec().rounds) {
      entry["rounds"] = report.stats.rounds;
      entry["late_pushes"] = report.stats.late_pushes;
    }
    reports.append(std::move(entry));
  }
  return reports;
}

py::object Ticket::TakeScan() {
  const CallResults& results = call_->results();
  const py::ssize_t n_keys = static_cast<py::ssize_t>(results.scanned_keys.size());
  py::array_t<uint64_t> keys(n_keys);
  std::ranges::copy(results.scanned_keys, keys.mutable_data());
  const py::ssize_t width = static_cast<py::ssize_t>(call_->plan().spec().row_width);
  py::array_t<float> values(std::vector<py::ssize_t>{n_keys, width});
  std::ranges::copy(results.scanned_values, values.mutable_data());
  py::object next = py::none();
  if (results.next_cursor != kScanEnd) next = py::int_(results.next_cursor);
  return py::make_tuple(keys, values, next);
}

}  // namespace fastps
