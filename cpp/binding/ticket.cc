#include "binding/ticket.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "binding/bind.h"
#include "rules/update_rule.h"

namespace py = pybind11;

namespace fastps {

// `timeout` seconds from now; infinity never comes.
int64_t DeadlineAfter(double timeout) {
  if (!(timeout < 1e12)) return kNeverMs;
  return NowMs() + static_cast<int64_t>(std::ceil(std::max(timeout, 0.0) * 1000));
}

namespace {

// What is lost and was needed by a call that failed so: sorted, each once.
struct Lost {
  explicit Lost(const Call& call) {
    for (const ServerId server : call.lost_servers()) servers.push_back(server.value);
    for (const ShardId shard : call.lost_shards()) shards.push_back(shard.value);
    std::ranges::sort(servers);
    std::ranges::sort(shards);
    shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  }
  std::vector<uint32_t> servers, shards;
};

std::string Describe(const Call& call) {
  const Status& status = call.status();
  if (status.code() != Code::kServerLost) return status.message();
  const Lost lost(call);
  std::string named;
  for (size_t i = 0; i < std::min<size_t>(lost.shards.size(), 8); ++i) {
    named += (i == 0 ? "" : ", ") + std::to_string(lost.shards[i]);
  }
  if (lost.shards.size() > 8) named += ", ...";
  std::string servers;
  for (const uint32_t server : lost.servers) {
    servers += (servers.empty() ? "" : ", ") + std::to_string(server);
  }
  return std::string(OpName(call.op())) + " on table '" + call.plan().spec().name + "': server " +
         servers + " is lost and with it every copy of " + std::to_string(lost.shards.size()) +
         " shards of this call (" + named + "). " + status.message();
}

[[noreturn]] void RaiseAs(const Call& call, const std::string& message) {
  if (call.status().code() != Code::kServerLost) Throw(Status(call.status().code(), message));
  const Lost lost(call);
  ThrowServerLost(message, py::cast(lost.servers), call.plan().spec().name, py::cast(lost.shards));
}

}  // namespace

void RaiseFailure(const Call& call) { RaiseAs(call, Describe(call)); }

std::string DescribeFailures(std::span<const std::shared_ptr<const Call>> calls) {
  std::vector<std::pair<std::string, size_t>> kinds;  // in the order of their first calls
  for (const auto& call : calls) {
    std::string said =
        std::string(OpName(call->op())) + " on table '" + call->plan().spec().name + "'";
    std::string why = Describe(*call);
    // Most reasons begin with the table, or with all of that.
    if (const std::string table = "table '" + call->plan().spec().name + "': ";
        why.starts_with(table)) {
      why.erase(0, table.size());
    }
    said = why.starts_with(said) ? why : said + ": " + why;
    const auto there =
        std::ranges::find(kinds, said, [](const auto& kind) -> const auto& { return kind.first; });
    if (there == kinds.end()) {
      kinds.emplace_back(std::move(said), 1);
    } else {
      ++there->second;
    }
  }
  std::string all;
  for (size_t i = 0; i < kinds.size(); ++i) {
    const auto& [said, n] = kinds[i];
    all += (i == 0 ? "(" : "; (") + std::to_string(i + 1) + ") ";
    if (n > 1) all += std::to_string(n) + " times: ";
    all += said;
  }
  return all;
}

void RaiseFailures(std::span<const std::shared_ptr<const Call>> calls) {
  if (calls.size() == 1) RaiseFailure(*calls[0]);
  RaiseAs(*calls[0], std::to_string(calls.size()) + " writes failed whose results nobody asked " +
                         "for: " + DescribeFailures(calls));
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

bool Ticket::Failed() const { return Done() && !call_->status().ok(); }

bool Ticket::WaitForAny(const std::vector<const Ticket*>& tickets, double timeout) {
  std::vector<const Call*> calls;
  for (const Ticket* ticket : tickets) calls.push_back(ticket->call_.get());
  if (calls.empty()) return false;
  Client& client = *tickets[0]->client_;
  const auto ended = [&](int64_t until_ms) { return client.WaitForAny(calls, until_ms); };
  return WaitInSlices(DeadlineAfter(timeout), ended);
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
    const uint32_t lr_bits = static_cast<uint32_t>(report.stats.lr_bits);
    if (HasRate(call_->plan().spec().rule.kind)) entry["lr"] = std::bit_cast<float>(lr_bits);
    if (call_->plan().spec().rounds) {
      entry["rounds"] = report.stats.rounds;
      entry["late_pushes"] = report.stats.late_pushes;
      entry["left_out"] = report.stats.left_out;
      if (report.stats.left_out > 0) {
        entry["left_out_round"] = report.stats.left_out_round;
        entry["left_out_key"] = report.stats.left_out_key;
      }
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
