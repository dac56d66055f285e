// What Python's client does: numpy arrays become spans, the GIL is released around all work, and
// Ctrl-C ends a wait. What Python passes is checked by fastps/tables.py; here only what memory
// safety needs. Used with the GIL held.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cfloat>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "binding/bind.h"
#include "binding/ticket.h"
#include "client/client.h"
#include "client/key_set.h"
#include "kernels/kernels.h"
#include "server/embedded_cluster.h"

namespace fastps {

namespace py = pybind11;

using Keys = py::array_t<uint64_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;
using MaybeRows = std::optional<Keys>;

inline std::span<const Key> SpanOf(const Keys& keys) {
  return {keys.data(), static_cast<size_t>(keys.size())};
}

// What makes the batch of a call, once the plan is known.
inline auto KeysOf(const Keys& keys) {
  return [&keys](const ShardPlan& plan, BufferPool& buffers, Status* status) {
    return MakeKeyBatch(plan, SpanOf(keys), buffers, status);
  };
}
inline auto RowsOf(const MaybeRows& rows) {
  return [&rows](const ShardPlan& plan, BufferPool& buffers, Status* status) {
    if (!rows) return MakeWholeBatch(plan, buffers);
    for (const uint64_t row : SpanOf(*rows)) {
      if (row >= plan.spec().n_rows) {
        *status = Status(Code::kValueRange, "row " + std::to_string(row) + " of a table with " +
                                                std::to_string(plan.spec().n_rows) + " rows");
        return std::unique_ptr<Batch>();
      }
    }
    return MakeRowBatch(plan, SpanOf(*rows), buffers);
  };
}

// When a call is made and when it may start. `step` is that of Request::argument.
struct Turn {
  Client::Mode mode;
  int64_t deadline_ms;
  uint64_t step = 0;
  Gate gate;
};

inline Turn Blocking(double timeout, uint64_t step = 0) {
  return {Client::Mode::kBlocking, DeadlineAfter(timeout), step, {}};
}
inline Turn Async(double timeout, uint64_t step, uint64_t minimum, uint64_t rounds) {
  return {Client::Mode::kAsync, DeadlineAfter(timeout), step, {minimum, rounds}};
}

class ClientHandle {
 public:
  explicit ClientHandle(std::shared_ptr<Client> client) : client_(std::move(client)) {}

  void InstallMap(const py::bytes& map_blob) {
    std::shared_ptr<const ClusterMap> map = MapOfBlob(map_blob);
    py::gil_scoped_release release;
    client_->InstallMap(std::move(map));
  }

  Ticket StartPull(uint32_t table, const Keys& keys, const Turn& turn) {
    const auto plan = PlanOf(table, Op::kPull);
    Floats rows({keys.size(), Width(*plan)});
    CallArrays arrays;
    arrays.rows = rows.mutable_data();
    return Start(Op::kPull, plan, KeysOf(keys), arrays, rows, turn);
  }

  Ticket StartSetPull(uint32_t table, KeySet& keys, const Turn& turn) {
    const auto plan = PlanOf(table, Op::kPull);
    Floats rows({static_cast<py::ssize_t>(keys.keys().size()), Width(*plan)});
    CallArrays arrays;
    arrays.rows = rows.mutable_data();
    return StartSet(Op::kPull, plan, keys, arrays, rows, turn);
  }

  Ticket StartSetPush(uint32_t table, KeySet& keys, const Floats& gradients, const Turn& turn) {
    const auto plan = PlanOf(table, Op::kPush);
    CheckValues(Op::kPush, *plan, gradients, keys.keys().size(),
                [&](size_t i) { return KeyName(keys.keys()[i], i); });
    CallArrays arrays;
    arrays.values = gradients.data();
    return StartSet(Op::kPush, plan, keys, arrays, py::none(), turn);
  }

  Ticket StartWrite(Op op, uint32_t table, const Keys& keys, const Floats& values,
                    const Turn& turn) {
    const auto plan = PlanOf(table, op);
    CheckValues(op, *plan, values, static_cast<size_t>(keys.size()),
                [&](size_t i) { return KeyName(keys.data()[i], i); });
    CallArrays arrays;
    arrays.values = values.data();
    return Start(op, plan, KeysOf(keys), arrays, py::none(), turn);
  }

  Ticket StartDensePull(uint32_t table, const MaybeRows& rows, const Turn& turn) {
    const auto plan = PlanOf(table, Op::kPull);
    Floats values({RowCount(*plan, rows), Width(*plan)});
    CallArrays arrays;
    arrays.rows = values.mutable_data();
    return Start(Op::kPull, plan, RowsOf(rows), arrays, values, turn);
  }

  Ticket StartDenseWrite(Op op, uint32_t table, const MaybeRows& rows, const Floats& values,
                         const Turn& turn) {
    const auto plan = PlanOf(table, op);
    CheckValues(op, *plan, values, static_cast<size_t>(RowCount(*plan, rows)), [&](size_t i) {
      return "row " + std::to_string(rows ? rows->data()[i] : i) +
             (rows ? " (index " + std::to_string(i) + " of the batch)" : "");
    });
    CallArrays arrays;
    arrays.values = values.data();
    return Start(op, plan, RowsOf(rows), arrays, py::none(), turn);
  }

  py::object Contains(uint32_t table, const Keys& keys, double timeout) {
    const auto plan = PlanOf(table, Op::kContains);
    py::array_t<bool> flags(keys.size());
    CallArrays arrays;
    static_assert(sizeof(bool) == sizeof(uint8_t));
    arrays.flags = reinterpret_cast<uint8_t*>(flags.mutable_data());
    return Start(Op::kContains, plan, KeysOf(keys), arrays, flags, Blocking(timeout))
        .Result(timeout);
  }

  py::object Remove(uint32_t table, const Keys& keys, double timeout, uint64_t step) {
    return Start(Op::kRemove, PlanOf(table, Op::kRemove), KeysOf(keys), {}, py::none(),
                 Blocking(timeout, step))
        .Result(timeout);
  }

  void SetLr(uint32_t table, float lr, double timeout, uint64_t step) {
    const auto make = [](const ShardPlan& plan, BufferPool&, Status*) {
      return MakeShardValueBatch(plan);
    };
    const Floats value(1, &lr);  // lives until a write that timed out has copied it
    CallArrays arrays;
    arrays.values = value.data();
    Start(Op::kSetLr, PlanOf(table, Op::kSetLr), make, arrays, py::none(), Blocking(timeout, step))
        .Result(timeout);
  }

  py::object Stats(uint32_t table, double timeout) {
    const auto make = [](const ShardPlan& plan, BufferPool&, Status*) {
      return MakeShardBatch(plan);
    };
    return Start(Op::kStats, PlanOf(table, Op::kStats), make, {}, py::none(), Blocking(timeout))
        .Result(timeout);
  }

  py::object Scan(uint32_t table, uint32_t shard, uint64_t cursor, uint32_t rows_max,
                  double timeout) {
    const auto plan = PlanOf(table, Op::kScan);
    if (shard >= plan->spec().num_shards) ThrowNamed("ValueRangeError", "no such shard");
    const auto make = [&](const ShardPlan& p, BufferPool& buffers, Status*) {
      return MakeScanBatch(p, ShardId(shard), cursor, buffers);
    };
    return Start(Op::kScan, plan, make, {}, py::none(), Blocking(timeout, rows_max))
        .Result(timeout);
  }

  void InstallClocks(uint64_t session, uint64_t number, uint64_t clock, uint64_t minimum,
                     uint64_t rounds, uint64_t backup) {
    py::gil_scoped_release release;
    client_->InstallClocks({{}, SessionId(session), number, clock, minimum, rounds, backup, {}});
  }

  // (clock, minimum, rounds, backup)
  std::tuple<uint64_t, uint64_t, uint64_t, uint64_t> Clocks() {
    const ClockNotice told = client_->told();
    return {told.clock, told.minimum, told.rounds, told.backup};
  }

  uint64_t LatePushes() const { return client_->n_late_pushes(); }

  uint64_t ClockToTell() {
    py::gil_scoped_release release;
    return client_->ClockToTell();
  }
  uint64_t BusyMicroseconds() {
    py::gil_scoped_release release;
    return client_->busy_us();
  }
  uint64_t HoldStep() {
    py::gil_scoped_release release;
    return client_->HoldStep();
  }
  void ReleaseStep(uint64_t step) {
    py::gil_scoped_release release;
    client_->ReleaseStep(step);
  }

  bool EpochChanged() const { return client_->epoch_changed(); }
  void CheckOpen() { ThrowUnlessOk(client_->CheckOpen()); }

  void EndStep(uint64_t clock, uint64_t busy_us) {
    py::gil_scoped_release release;
    client_->EndStep(clock, busy_us);
  }

  bool WaitForGate(const Gate& gate, double timeout) {
    Status status;
    const auto opened = [&](int64_t slice_ends_ms) {
      return client_->WaitForGate(gate, slice_ends_ms, &status);
    };
    const bool open = WaitInSlices(DeadlineAfter(timeout), opened);
    if (open) ThrowUnlessOk(status);
    return open;
  }

  void Flush(double timeout, bool pulls) {
    const auto settled = [&](int64_t slice_ends_ms) {
      return client_->WaitForWrites(slice_ends_ms, pulls);
    };
    if (!WaitInSlices(DeadlineAfter(timeout), settled)) {
      // What failed already is told here too: after close() nobody could ask again.
      const auto failed = client_->UnobservedFailures();
      ThrowNamed(
          "FastPSTimeoutError",
          "flush: not every push was acknowledged by the deadline; call it again to go on "
          "waiting" +
              (failed.empty() ? std::string() : ". Failed so far: " + DescribeFailures(failed)));
    }
    if (const auto failed = client_->TakeUnobservedFailures(); !failed.empty()) {
      RaiseFailures(failed);
    }
  }

  void Close() {
    py::gil_scoped_release release;
    client_->Close();
  }

 private:
  std::shared_ptr<const ShardPlan> PlanOf(uint32_t table, Op op) const {
    auto plan = client_->PlanOf(TableId(table), UseOf(op));
    if (plan == nullptr) {
      ThrowUnlessOk(client_->CheckOpen());  // a map of another epoch has other tables
      ThrowNamed("TableNotFoundError",
                 "table " + std::to_string(table) + " is not in the cluster map; it was dropped");
    }
    return plan;
  }

  static py::ssize_t Width(const ShardPlan& plan) {
    return static_cast<py::ssize_t>(plan.spec().row_width);
  }
  static py::ssize_t RowCount(const ShardPlan& plan, const MaybeRows& rows) {
    return rows ? rows->size() : static_cast<py::ssize_t>(plan.spec().n_rows);
  }

  static std::string KeyName(Key key, size_t index) {
    return "key " + std::to_string(key) + " (index " + std::to_string(index) + " of the batch)";
  }

  // The largest value that the table's rule can take from a push or an assign, whatever the row
  // holds.
  static float MostOf(Op op, const ShardPlan& plan) {
    return op == Op::kPush ? plan.bounds.gradient_max : plan.bounds.assign_max;
  }

  static std::string Beyond(Op op, const ShardPlan& plan, float most) {
    std::string text = std::string(OpName(op)) + " on table '" + plan.spec().name + "': ";
    if (most == FLT_MAX) return text + "needed are finite float32";
    char limit[32];
    std::snprintf(limit, sizeof(limit), "%.9g", static_cast<double>(most));
    return text +
           (op == Op::kPush ? "the optimizer squares gradients, and takes them up to +-"
                            : "the optimizer's state for a value is finite up to +-") +
           limit;
  }

  // Checks `n` rows of values before anything is sent; name_of(i) is what users call row i.
  template <class NameOf>
  static void CheckValues(Op op, const ShardPlan& plan, const Floats& values, size_t n,
                          NameOf name_of) {
    const size_t width = plan.spec().row_width;
    const size_t size = static_cast<size_t>(values.size());
    if (size != n * width) {
      ThrowNamed("ShapeError", "values have " + std::to_string(size) + " elements, needed are " +
                                   std::to_string(n * width));
    }
    const float most = MostOf(op, plan);
    const float* const data = values.data();
    bool is_within = false;
    {
      py::gil_scoped_release release;
      is_within = ActiveKernels().all_within(data, size, most);
    }
    if (is_within) return;
    const float* const unfit =
        std::find_if(data, data + size, [&](float each) { return !(std::fabs(each) <= most); });
    char given[32];
    std::snprintf(given, sizeof(given), "%.9g", static_cast<double>(*unfit));
    const size_t row = static_cast<size_t>(unfit - data) / width;
    const bool is_finite = std::isfinite(*unfit);
    ThrowNamed("ValueRangeError", Beyond(op, plan, is_finite ? most : FLT_MAX) + ", given is " +
                                      given + " (as float32) for " + name_of(row) +
                                      "; nothing was sent");
  }

  // Gradients of equal keys are added before they are sent; the sums must be such that the rule can
  // take them, too. They are, unless a gradient is so large that the batch could hold enough of
  // them.
  static Status CheckSums(const Call& call, const float* gradients, BufferPool& buffers) {
    const Kernels& kernels = ActiveKernels();
    const auto messages = call.batch().messages();
    const size_t n_gradients = call.batch().n_places();
    const TableSpec& spec = call.plan().spec();
    const float most = MostOf(Op::kPush, call.plan());
    const float harmless = most / static_cast<float>(std::max<size_t>(n_gradients, 1));
    if (kernels.all_within(gradients, n_gradients, harmless)) return {};
    for (size_t i = 0; i < messages.size(); ++i) {
      const Buffer sums = call.GatherValues(i, buffers);
      const std::span<const float> floats = sums.As<float>().first(messages[i].n_values);
      const auto unfit =
          std::ranges::find_if(floats, [&](float each) { return !(std::fabs(each) <= most); });
      if (unfit == floats.end()) continue;
      const size_t value = static_cast<size_t>(unfit - floats.begin());
      const size_t index = call.batch().PlaceOf(i, value) / spec.row_width;
      const Buffer& keys = call.batch().keys();
      return Status(
          Code::kValueRange,
          Beyond(Op::kPush, call.plan(), most) +
              "; gradients of equal keys add up to "
              "more (or to infinity, as float32) for " +
              (spec.kind == TableKind::kSparse
                   ? KeyName(keys.As<Key>()[messages[i].keys_begin + value / spec.row_width], index)
                   : "the row at index " + std::to_string(index) + " of the batch") +
              "; nothing was sent");
    }
    return {};
  }

  template <class MakeBatch>
  Ticket Start(Op op, const std::shared_ptr<const ShardPlan>& plan, MakeBatch make_batch,
               CallArrays arrays, py::object output, const Turn& turn) {
    const auto make_call = [&](Status* status) -> std::shared_ptr<Call> {
      std::shared_ptr<const Batch> batch = make_batch(*plan, client_->buffers(), status);
      if (batch == nullptr) return nullptr;
      return std::make_shared<Call>(op, plan, std::move(batch), arrays);
    };
    return StartCall(make_call, arrays, std::move(output), turn);
  }

  Ticket StartSet(Op op, const std::shared_ptr<const ShardPlan>& plan, KeySet& keys,
                  CallArrays arrays, py::object output, const Turn& turn) {
    const auto make_call = [&](Status* status) -> std::shared_ptr<Call> {
      const auto state = keys.StateOn(plan, client_->buffers(), status);
      if (state == nullptr) return nullptr;
      return std::make_shared<Call>(op, plan, state->batch(), arrays, state);
    };
    return StartCall(make_call, arrays, std::move(output), turn);
  }

  void WaitForRoom(int64_t deadline_ms) {
    const auto room = [this](int64_t slice_ends_ms) { return client_->WaitForRoom(slice_ends_ms); };
    if (WaitInSlices(deadline_ms, room)) return;
    ThrowNamed("FastPSTimeoutError",
               "too much is in flight and nothing of it was acknowledged in time; nothing of this "
               "call was sent. Look at the servers, or wait for earlier calls with flush()");
  }

  template <class MakeCall>
  Ticket StartCall(MakeCall make_call, CallArrays arrays, py::object output, const Turn& turn) {
    if (turn.mode == Client::Mode::kAsync) WaitForRoom(turn.deadline_ms);
    Status status;
    std::shared_ptr<Call> call;
    {
      py::gil_scoped_release release;
      call = make_call(&status);
      if (call != nullptr) {
        call->argument = turn.step;
        call->gate = turn.gate;
        if (call->op() == Op::kPush) status = CheckSums(*call, arrays.values, client_->buffers());
        if (status.ok()) client_->Start(call, turn.mode, turn.deadline_ms);
      }
    }
    ThrowUnlessOk(status);
    return Ticket(client_, std::move(call), std::move(output));
  }

  std::shared_ptr<Client> client_;
};

}  // namespace fastps
