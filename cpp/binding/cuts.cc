// Cuts and loads of shards, for saves and restores: methods of Server, and of EmbeddedCluster with
// the server's number before the other arguments. Rows are copied without the GIL, and slices
// become numpy arrays as they are.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "binding/bind.h"
#include "binding/server_handle.h"
#include "server/embedded_cluster.h"
#include "server/shard_cuts.h"

namespace py = pybind11;

namespace fastps {
namespace {

// Parts of files are not always where the processor wants numbers to be.
constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
using Keys = py::array_t<uint64_t, kPlain>;
using Floats = py::array_t<float, kPlain>;

void RequireCheckpoint(const Status& status) {
  if (!status.ok()) ThrowNamed("CheckpointError", status.message());
}

CutId CutIdOf(const py::bytes& id) {
  const std::string_view bytes = id;
  CutId cut;
  if (bytes.size() != sizeof(cut.bits)) {
    ThrowNamed("CheckpointError", "the id of a cut has " + std::to_string(bytes.size()) +
                                      " bytes, needed are " + std::to_string(sizeof(cut.bits)));
  }
  std::memcpy(cut.bits.data(), bytes.data(), bytes.size());
  return cut;
}

std::optional<CutId> ParentOf(const py::bytes& id) {
  return std::string_view(id).empty() ? std::nullopt : std::optional(CutIdOf(id));
}

template <class T>
py::object ArrayOf(std::vector<T> values, std::vector<py::ssize_t> shape) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  T* const data = owned->data();
  py::capsule owner(owned.get(), [](void* held) { delete static_cast<std::vector<T>*>(held); });
  owned.release();
  return py::array_t<T>(std::move(shape), data, owner);
}

template <class T>
py::object ArrayOf(std::vector<T> values) {
  const auto size = static_cast<py::ssize_t>(values.size());
  return ArrayOf(std::move(values), {size});
}

template <class T>
std::span<const T> SpanOf(const py::array_t<T, kPlain>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

// Of either target; the owner keeps the handler while the GIL is released.
struct Target {
  std::shared_ptr<const void> owner;
  RequestHandler* handler;

  TailShard Find(uint32_t table, uint32_t shard, std::optional<uint32_t> view = {}) const {
    TailShard found;
    RequireCheckpoint(FindTail(*handler, TableId(table), ShardId(shard),
                               view ? std::optional(ViewNumber(*view)) : std::nullopt, &found));
    return found;
  }
};

// Calls work() without the GIL, and lets go of what it used there too: it may be the last to do so.
template <class Work>
void Released(Target& target, TailShard& shard, Work work) {
  Status status;
  {
    py::gil_scoped_release release;
    status = work();
    shard = {};
    target = {};
  }
  RequireCheckpoint(status);
}

py::object BeginCut(Target target, uint32_t table, uint32_t shard, const py::bytes& cut_id,
                    const py::bytes& parent_id, std::optional<uint64_t> round,
                    std::optional<uint32_t> view) {
  const CutId id = CutIdOf(cut_id);
  const std::optional<CutId> parent = ParentOf(parent_id);
  TailShard tail = target.Find(table, shard, view);
  const ViewNumber seen = tail.view;
  CutBegun begun;
  bool is_too_early = false;
  Released(target, tail, [&] {
    Status status = tail.shard->BeginCut(
        id, parent, round ? std::optional(Round(*round)) : std::nullopt, &begun);
    is_too_early = status.code() == Code::kRetry;
    if (status.ok()) target.handler->cuts().Add(id, tail.spec->id, tail.id, tail.shard);
    return is_too_early ? Status() : status;
  });
  if (is_too_early) return py::none();
  py::dict answer;
  answer["index"] = begun.index.value;
  answer["folded"] = begun.folded.value;
  answer["rows"] = begun.n_rows;
  answer["is_full"] = begun.is_full;
  answer["view"] = seen.value;
  answer["constants"] = std::vector<float>(begun.constants.begin(), begun.constants.end());
  return answer;
}

py::tuple ReadCut(Target target, uint32_t table, uint32_t shard, const py::bytes& cut_id,
                  size_t max_rows) {
  const CutId id = CutIdOf(cut_id);
  TailShard cut;
  RequireCheckpoint(FindCut(*target.handler, TableId(table), ShardId(shard), id, &cut.shard));
  const bool is_sparse = cut.shard->is_sparse();
  const size_t row_floats = cut.shard->row_floats();
  CutSlice slice;
  Released(target, cut, [&] {
    Status status = cut.shard->ReadCut(id, max_rows, &slice);
    if (slice.finished) target.handler->cuts().Finish(id, TableId(table), ShardId(shard));
    return status;
  });
  if (!is_sparse) {
    py::list arrays;
    for (std::vector<float>& array : slice.arrays) arrays.append(ArrayOf(std::move(array)));
    return py::make_tuple(slice.block.begin, slice.block.end, arrays, slice.finished);
  }
  const auto n_rows = static_cast<py::ssize_t>(slice.keys.size());
  return py::make_tuple(
      ArrayOf(std::move(slice.keys)),
      ArrayOf(std::move(slice.rows), {n_rows, static_cast<py::ssize_t>(row_floats)}),
      ArrayOf(std::move(slice.removed)), slice.finished);
}

void DropCut(Target target, uint32_t table, uint32_t shard, const py::bytes& cut_id) {
  const CutId id = CutIdOf(cut_id);
  TailShard none;
  Released(target, none, [&] {
    target.handler->cuts().Drop(id, TableId(table), ShardId(shard));
    return Status();
  });
}

void ReserveRows(Target target, uint32_t table, uint32_t shard, size_t n) {
  TailShard tail = target.Find(table, shard);
  Released(target, tail, [&] { return tail.shard->ReserveRows(n); });
}

void LoadShardRows(Target target, uint32_t table, uint32_t shard, const Keys& keys,
                   const Floats& rows) {
  TailShard tail = target.Find(table, shard);
  const size_t row_floats = tail.shard->row_floats();
  if (keys.ndim() != 1 || rows.ndim() != 2 || rows.shape(0) != keys.shape(0) ||
      static_cast<size_t>(rows.shape(1)) != row_floats) {
    ThrowNamed("CheckpointError",
               "rows with their state are to be of shape (keys, " + std::to_string(row_floats) +
                   "), keys of shape (keys,), in table '" + tail.spec->name + "'");
  }
  Released(target, tail, [&] { return LoadRows(tail, SpanOf(keys), SpanOf(rows)); });
}

void LoadShardRemoved(Target target, uint32_t table, uint32_t shard, const Keys& keys) {
  TailShard tail = target.Find(table, shard);
  Released(target, tail, [&] { return LoadRemoved(tail, SpanOf(keys)); });
}

void LoadDense(Target target, uint32_t table, uint32_t shard, size_t array, uint64_t begin,
               const Floats& values) {
  TailShard tail = target.Find(table, shard);
  Released(target, tail, [&] { return tail.shard->LoadBlock(array, begin, SpanOf(values)); });
}

void FinishLoad(Target target, uint32_t table, uint32_t shard,
                const std::vector<float>& constants) {
  TailShard tail = target.Find(table, shard);
  Released(target, tail, [&] { return tail.shard->FinishLoad(constants); });
}

Target TargetOf(const ServerHandle& handle) {
  const std::shared_ptr<Server>& server = handle.shared();
  return {server, &server->handler()};
}

Target TargetOf(const std::shared_ptr<EmbeddedCluster>& cluster, size_t server) {
  RequestHandler* const handler = cluster->FindHandler(server);
  if (handler == nullptr) {
    ThrowNamed("CheckpointError", "there is no embedded server number " + std::to_string(server));
  }
  return {cluster, handler};
}

// Defines `name` on both classes.
template <class... Args, class Result, class... Names>
void Define(py::module_& m, const char* name, Result (*call)(Target, Args...), Names... names) {
  py::class_<ServerHandle>(m.attr("Server"))
      .def(
          name,
          [call](const ServerHandle& handle, Args... args) {
            return call(TargetOf(handle), std::forward<Args>(args)...);
          },
          names...);
  py::class_<EmbeddedCluster, std::shared_ptr<EmbeddedCluster>>(m.attr("EmbeddedCluster"))
      .def(
          name,
          [call](const std::shared_ptr<EmbeddedCluster>& cluster, size_t server, Args... args) {
            return call(TargetOf(cluster, server), std::forward<Args>(args)...);
          },
          py::arg("server"), names...);
}

}  // namespace

void BindCuts(py::module_& m) {
  const auto table = py::arg("table_id"), shard = py::arg("shard"), cut = py::arg("cut_id");
  const auto keys = py::arg("keys");
  Define(m, "begin_cut", &BeginCut, table, shard, cut, py::arg("parent_id"), py::arg("round"),
         py::arg("view"));
  Define(m, "read_cut", &ReadCut, table, shard, cut, py::arg("max_rows"));
  Define(m, "drop_cut", &DropCut, table, shard, cut);
  Define(m, "reserve_rows", &ReserveRows, table, shard, py::arg("n"));
  Define(m, "load_rows", &LoadShardRows, table, shard, keys, py::arg("rows"));
  Define(m, "load_removed", &LoadShardRemoved, table, shard, keys);
  Define(m, "load_dense", &LoadDense, table, shard, py::arg("array"), py::arg("begin"),
         py::arg("values"));
  Define(m, "finish_load", &FinishLoad, table, shard, py::arg("constants"));
}

}  // namespace fastps
