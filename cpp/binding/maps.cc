// Cluster maps and heartbeats: opaque bytes to Python, made and read here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "binding/bind.h"
#include "binding/map_tuples.h"
#include "wire/map_codec.h"
#include "wire/notices.h"
#include "wire/reports.h"

namespace py = pybind11;

namespace fastps {
namespace {

TableRoute RouteOfDict(const py::dict& table) {
  TableRoute route;
  TableSpec& spec = route.spec;
  spec.id = TableId(table["id"].cast<uint32_t>());
  spec.name = table["name"].cast<std::string>();
  spec.kind = table["kind"].cast<std::string>() == "dense" ? TableKind::kDense : TableKind::kSparse;
  spec.row_width = table["row_width"].cast<uint64_t>();
  spec.n_rows = table["n_rows"].cast<uint64_t>();
  const auto [rule_kind, constants] = table["rule"].cast<std::pair<uint8_t, std::vector<float>>>();
  if (constants.size() > kRuleConstantsMax) ThrowNamed("ConfigError", "too many rule constants");
  spec.rule.kind = static_cast<RuleKind>(rule_kind);
  std::ranges::copy(constants, spec.rule.constants.begin());
  const auto [kind, seed, a, b] =
      table["initializer"].cast<std::tuple<uint8_t, uint64_t, float, float>>();
  spec.initializer = {static_cast<InitializerKind>(kind), seed, a, b};
  if (!table["rounds"].is_none()) {
    const auto [group, first] = table["rounds"].cast<std::pair<uint32_t, uint64_t>>();
    spec.rounds = {GroupId(group), Round(first)};
  }
  spec.replication = table["replication"].cast<uint8_t>();
  for (const ViewTuple& view : table["views"].cast<std::vector<ViewTuple>>()) {
    const std::optional<ShardView> shard = ViewOfTuple(view);
    if (!shard) {
      ThrowNamed("ConfigError", "a chain has " + std::to_string(std::get<1>(view).size()) +
                                    " servers, needed are 1 to " +
                                    std::to_string(limits::kReplicationMax));
    }
    route.views.push_back(*shard);
  }
  spec.num_shards = static_cast<uint32_t>(route.views.size());
  return route;
}

py::bytes EncodeMap(uint64_t cluster_id, uint32_t epoch, uint32_t incarnation, uint64_t version,
                    uint64_t highest_session, std::vector<uint64_t> sessions,
                    const std::vector<ServerTuple>& servers, const std::vector<py::dict>& tables) {
  ClusterMap map;
  map.cluster_id = ClusterId(cluster_id);
  map.epoch = Epoch(epoch);
  map.incarnation = Incarnation(incarnation);
  map.version = MapVersion(version);
  map.highest_session = SessionId(highest_session);
  std::ranges::sort(sessions);
  for (const uint64_t session : sessions) map.sessions.push_back(SessionId(session));
  for (const auto& [id, boot_id, lost, endpoints, chain_endpoints] : servers) {
    map.servers.push_back({ServerId(id), BootIdOfBytes(boot_id), lost, endpoints, chain_endpoints});
  }
  std::ranges::sort(map.servers, {}, &ServerInfo::id);
  for (const py::dict& table : tables) map.tables.push_back(RouteOfDict(table));
  std::ranges::sort(map.tables, {}, [](const TableRoute& table) { return table.spec.id; });
  const std::string blob = EncodeClusterMap(map);
  // What the other side would refuse is refused here, where the caller can be told.
  ClusterMap decoded;
  ThrowUnlessOk(DecodeClusterMap(std::as_bytes(std::span(blob)), &decoded));
  return py::bytes(blob);
}

std::optional<Report> DecodeReportBytes(const py::bytes& frame) {
  const std::string_view view = frame;
  return DecodeReport(std::as_bytes(std::span(view)));
}

std::optional<Heartbeat> DecodeHeartbeatBytes(const py::bytes& frame) {
  const std::string_view view = frame;
  return DecodeHeartbeat(std::as_bytes(std::span(view)));
}

// (group, round, [(rank, session)])
using RoundTuple = std::tuple<uint32_t, uint64_t, std::vector<std::pair<uint32_t, uint64_t>>>;

py::bytes EncodeRounds(uint64_t cluster_id, uint64_t map_version, uint64_t first_number,
                       uint64_t forgotten, const std::vector<RoundTuple>& entries) {
  RoundsNotice notice{ClusterId(cluster_id), MapVersion(map_version), first_number, forgotten, {}};
  for (const auto& [group, round, members] : entries) {
    ClosedRound& closed = notice.rounds.emplace_back();
    closed.group = GroupId(group);
    closed.round = Round(round);
    for (const auto& [rank, session] : members) {
      closed.members.push_back({Rank(rank), SessionId(session)});
    }
  }
  return py::bytes(EncodeRoundsNotice(notice));
}

py::bytes EncodeClocks(uint64_t cluster_id, uint64_t session, uint64_t number, uint64_t clock,
                       uint64_t minimum, uint64_t rounds, uint64_t backup, uint64_t map_version) {
  return py::bytes(EncodeClockNotice({ClusterId(cluster_id), SessionId(session), number, clock,
                                      minimum, rounds, backup, MapVersion(map_version)}));
}

py::bytes BytesOfBootId(BootId boot_id) {
  return py::bytes(reinterpret_cast<const char*>(boot_id.bits.data()), sizeof(boot_id.bits));
}

}  // namespace

std::shared_ptr<const ClusterMap> MapOfBlob(const py::bytes& blob) {
  const std::string_view view = blob;
  auto map = std::make_shared<ClusterMap>();
  ThrowUnlessOk(DecodeClusterMap(std::as_bytes(std::span(view)), map.get()));
  return map;
}

BootId BootIdOfBytes(const py::bytes& bytes) {
  const std::string_view view = bytes;
  BootId boot_id;
  if (view.size() != sizeof(boot_id.bits)) {
    ThrowNamed("ConfigError",
               "boot_id has " + std::to_string(view.size()) + " bytes, needed are 16");
  }
  std::memcpy(boot_id.bits.data(), view.data(), view.size());
  return boot_id;
}

void BindMaps(py::module_& m) {
  m.def("encode_cluster_map", &EncodeMap, py::kw_only(), py::arg("cluster_id"), py::arg("epoch"),
        py::arg("incarnation"), py::arg("version"), py::arg("highest_session"), py::arg("sessions"),
        py::arg("servers"), py::arg("tables"));
  m.def("encode_clocks", &EncodeClocks, py::kw_only(), py::arg("cluster_id"), py::arg("session"),
        py::arg("number"), py::arg("clock"), py::arg("minimum"), py::arg("rounds"),
        py::arg("backup"), py::arg("map_version"));
  m.def("encode_rounds", &EncodeRounds, py::kw_only(), py::arg("cluster_id"),
        py::arg("map_version"), py::arg("first_number"), py::arg("forgotten"), py::arg("entries"));
  m.def("decode_heartbeat", &DecodeHeartbeatBytes, py::arg("frame"));
  m.def("decode_report", &DecodeReportBytes, py::arg("frame"));

  py::class_<Heartbeat>(m, "Heartbeat")
      .def_property_readonly(
          "role", [](const Heartbeat& h) { return h.role == Role::kServer ? "server" : "worker"; })
      .def_property_readonly("id", [](const Heartbeat& h) { return h.id; })
      .def_property_readonly("boot_id", [](const Heartbeat& h) { return BytesOfBootId(h.boot_id); })
      .def_property_readonly("cluster_id", [](const Heartbeat& h) { return h.cluster_id.value; })
      .def_property_readonly("incarnation", [](const Heartbeat& h) { return h.incarnation.value; })
      .def_property_readonly("map_version", [](const Heartbeat& h) { return h.map_version.value; })
      .def_property_readonly("rows", [](const Heartbeat& h) { return h.rows; })
      .def_property_readonly("requests", [](const Heartbeat& h) { return h.requests; })
      .def_property_readonly("clock", [](const Heartbeat& h) { return h.clock; })
      .def_property_readonly("busy_us", [](const Heartbeat& h) { return h.busy_us; })
      .def_property_readonly("heard", [](const Heartbeat& h) { return h.heard; })
      .def_property_readonly("told_minimum", [](const Heartbeat& h) { return h.told_minimum; })
      .def_property_readonly("told_rounds", [](const Heartbeat& h) { return h.told_rounds; });

  py::class_<Report>(m, "Report")
      .def_property_readonly("cluster_id", [](const Report& r) { return r.cluster_id.value; })
      .def_property_readonly("server", [](const Report& r) { return r.server.value; })
      .def_property_readonly("boot_id", [](const Report& r) { return BytesOfBootId(r.boot_id); })
      .def_property_readonly("map_version", [](const Report& r) { return r.map_version.value; })
      .def_property_readonly("silent",
                             [](const Report& r) {
                               std::vector<uint32_t> silent;
                               for (const ServerId server : r.silent)
                                 silent.push_back(server.value);
                               return silent;
                             })
      .def_property_readonly("shards", [](const Report& r) {
        std::vector<ProgressTuple> shards;
        for (const ShardProgress& shard : r.shards) {
          shards.push_back(TupleOfProgress(shard));
        }
        return shards;
      });
}

}  // namespace fastps
