// The client for Python: the names and arguments of client_handle.h.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/client_handle.h"

namespace fastps {
namespace {

std::shared_ptr<KeySet> MakeKeySet(const Keys& keys, const py::bytes& signature) {
  const std::string_view bytes = signature;
  KeySetSignature checked;
  if (bytes.size() != sizeof(checked.bits)) {
    ThrowNamed("ConfigError", "a key set's signature has 16 bytes");
  }
  std::memcpy(checked.bits.data(), bytes.data(), bytes.size());
  const std::span<const Key> span = SpanOf(keys);
  return std::make_shared<KeySet>(std::vector<Key>(span.begin(), span.end()), checked);
}

ClientHandle ConnectedClient(uint64_t session, const py::bytes& boot_id, uint64_t clock,
                             const py::bytes& map_blob, const std::string& scheduler) {
  return ClientHandle(std::make_shared<Client>(LoadedRuntime(), SessionId(session),
                                               BootIdOfBytes(boot_id), clock, MapOfBlob(map_blob),
                                               scheduler));
}

ClientHandle EmbeddedClient(std::shared_ptr<EmbeddedCluster> cluster, uint64_t session,
                            const py::bytes& map_blob) {
  const auto find_sink = [cluster = std::move(cluster)](BootId boot_id) {
    return cluster->FindServer(boot_id);
  };
  return ClientHandle(std::make_shared<Client>(find_sink, SessionId(session), MapOfBlob(map_blob)));
}

}  // namespace

void BindClient(py::module_& m) {
  py::class_<Ticket>(m, "Ticket")
      .def("done", &Ticket::Done)
      .def("failed", &Ticket::Failed)
      .def_static("wait_for_any", &Ticket::WaitForAny, py::arg("tickets"), py::arg("timeout"))
      .def("result", &Ticket::Result, py::arg("timeout"));

  py::class_<KeySet, std::shared_ptr<KeySet>>(m, "KeySet")
      .def(py::init(&MakeKeySet), py::arg("keys").noconvert(), py::arg("signature"));

  const auto table = py::arg("table");
  const auto keys = py::arg("keys").noconvert();
  const auto rows = py::arg("rows").noconvert();
  const auto values = py::arg("values").noconvert();
  const auto timeout = py::arg("timeout");
  const auto step = py::arg("step") = 0;
  const auto minimum = py::arg("minimum") = 0;
  const auto rounds = py::arg("rounds") = 0;
  py::class_<ClientHandle>(m, "Client")
      .def(py::init(&ConnectedClient), py::arg("session"), py::arg("boot_id"), py::arg("clock"),
           py::arg("map_blob"), py::arg("scheduler"))
      .def_static("embedded", &EmbeddedClient, py::arg("cluster"), py::arg("session"),
                  py::arg("map_blob"))
      .def("install_map", &ClientHandle::InstallMap, py::arg("map_blob"))
      .def(
          "pull",
          [](ClientHandle& c, uint32_t t, const Keys& k, double s, uint64_t step) {
            return c.StartPull(t, k, Blocking(s, step)).Result(s);
          },
          table, keys, timeout, step)
      .def(
          "push",
          [](ClientHandle& c, uint32_t t, const Keys& k, const Floats& v, double s, uint64_t step) {
            c.StartWrite(Op::kPush, t, k, v, Blocking(s, step)).Result(s);
          },
          table, keys, values, timeout, step)
      .def(
          "pull",
          [](ClientHandle& c, uint32_t t, KeySet& k, double s, uint64_t step) {
            return c.StartSetPull(t, k, Blocking(s, step)).Result(s);
          },
          table, keys, timeout, step)
      .def(
          "push",
          [](ClientHandle& c, uint32_t t, KeySet& k, const Floats& v, double s, uint64_t step) {
            c.StartSetPush(t, k, v, Blocking(s, step)).Result(s);
          },
          table, keys, values, timeout, step)
      .def(
          "pull_async",
          [](ClientHandle& c, uint32_t t, KeySet& k, double s, uint64_t step, uint64_t minimum,
             uint64_t rounds) { return c.StartSetPull(t, k, Async(s, step, minimum, rounds)); },
          table, keys, timeout, step, minimum, rounds)
      .def(
          "push_async",
          [](ClientHandle& c, uint32_t t, KeySet& k, const Floats& v, double s, uint64_t step,
             uint64_t minimum,
             uint64_t rounds) { return c.StartSetPush(t, k, v, Async(s, step, minimum, rounds)); },
          table, keys, values, timeout, step, minimum, rounds)
      .def(
          "assign",
          [](ClientHandle& c, uint32_t t, const Keys& k, const Floats& v, double s, uint64_t step) {
            c.StartWrite(Op::kAssign, t, k, v, Blocking(s, step)).Result(s);
          },
          table, keys, values, timeout, step)
      .def(
          "pull_async",
          [](ClientHandle& c, uint32_t t, const Keys& k, double s, uint64_t step, uint64_t minimum,
             uint64_t rounds) { return c.StartPull(t, k, Async(s, step, minimum, rounds)); },
          table, keys, timeout, step, minimum, rounds)
      .def(
          "push_async",
          [](ClientHandle& c, uint32_t t, const Keys& k, const Floats& v, double s, uint64_t step,
             uint64_t minimum, uint64_t rounds) {
            return c.StartWrite(Op::kPush, t, k, v, Async(s, step, minimum, rounds));
          },
          table, keys, values, timeout, step, minimum, rounds)
      .def(
          "dense_pull",
          [](ClientHandle& c, uint32_t t, const MaybeRows& r, double s, uint64_t step) {
            return c.StartDensePull(t, r, Blocking(s, step)).Result(s);
          },
          table, rows, timeout, step)
      .def(
          "dense_push",
          [](ClientHandle& c, uint32_t t, const MaybeRows& r, const Floats& v, double s,
             uint64_t step) { c.StartDenseWrite(Op::kPush, t, r, v, Blocking(s, step)).Result(s); },
          table, rows, values, timeout, step)
      .def(
          "dense_assign",
          [](ClientHandle& c, uint32_t t, const MaybeRows& r, const Floats& v, double s,
             uint64_t step) {
            c.StartDenseWrite(Op::kAssign, t, r, v, Blocking(s, step)).Result(s);
          },
          table, rows, values, timeout, step)
      .def(
          "dense_pull_async",
          [](ClientHandle& c, uint32_t t, const MaybeRows& r, double s, uint64_t step,
             uint64_t minimum,
             uint64_t rounds) { return c.StartDensePull(t, r, Async(s, step, minimum, rounds)); },
          table, rows, timeout, step, minimum, rounds)
      .def(
          "dense_push_async",
          [](ClientHandle& c, uint32_t t, const MaybeRows& r, const Floats& v, double s,
             uint64_t step, uint64_t minimum, uint64_t rounds) {
            return c.StartDenseWrite(Op::kPush, t, r, v, Async(s, step, minimum, rounds));
          },
          table, rows, values, timeout, step, minimum, rounds)
      .def("contains", &ClientHandle::Contains, table, keys, timeout)
      .def("remove", &ClientHandle::Remove, table, keys, timeout, step)
      .def("set_lr", &ClientHandle::SetLr, table, py::arg("lr"), timeout, step)
      .def("stats", &ClientHandle::Stats, table, timeout)
      .def("scan", &ClientHandle::Scan, table, py::arg("shard"), py::arg("cursor"),
           py::arg("rows_max"), timeout)
      .def("install_clocks", &ClientHandle::InstallClocks, py::arg("session"), py::arg("number"),
           py::arg("clock"), py::arg("minimum"), py::arg("rounds"), py::arg("backup"))
      .def("clocks", &ClientHandle::Clocks)
      .def("late_pushes", &ClientHandle::LatePushes)
      .def("clock_to_tell", &ClientHandle::ClockToTell)
      .def("busy_us", &ClientHandle::BusyMicroseconds)
      .def("hold_step", &ClientHandle::HoldStep)
      .def("release_step", &ClientHandle::ReleaseStep, py::arg("step"))
      .def("epoch_changed", &ClientHandle::EpochChanged)
      .def("check_open", &ClientHandle::CheckOpen)
      .def("end_step", &ClientHandle::EndStep, py::arg("clock"), py::arg("busy_us"))
      .def(
          "wait_for_gate",
          [](ClientHandle& c, uint64_t m, uint64_t r, double s) {
            return c.WaitForGate({.minimum = m, .rounds = r}, s);
          },
          py::arg("minimum"), py::arg("rounds"), timeout)
      .def(
          "wait_for_clock",
          [](ClientHandle& c, uint64_t clock, double s) {
            return c.WaitForGate({.clock = clock}, s);
          },
          py::arg("clock"), timeout)
      .def("flush", &ClientHandle::Flush, timeout, py::arg("pulls") = false)
      .def("close", &ClientHandle::Close);
}

}  // namespace fastps
