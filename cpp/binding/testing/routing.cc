// Test-only: cluster maps as dicts, where keys and elements live, and shard plans.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "base/hash.h"
#include "binding/map_tuples.h"
#include "binding/testing/testing.h"
#include "client/shard_plan.h"

namespace py = pybind11;

namespace fastps {
namespace testing {
namespace {

ViewTuple TupleOfView(const ShardView& view) {
  std::vector<uint32_t> chain;
  for (const ServerId member : view.chain()) chain.push_back(member.value);
  std::optional<uint32_t> joiner;
  if (view.joiner) joiner = view.joiner->value;
  return {view.number.value, std::move(chain), view.sealed, view.read_only, joiner};
}
using RuleTuple = std::tuple<uint8_t, std::vector<float>>;
using InitializerTuple = std::tuple<uint8_t, uint64_t, float, float>;

}  // namespace

BootId BootIdOf(const py::bytes& bytes) {
  const std::string_view view = bytes;
  BootId boot_id;
  Require(view.size() == sizeof(boot_id.bits), "a boot id has 16 bytes");
  std::memcpy(boot_id.bits.data(), view.data(), view.size());
  return boot_id;
}

py::bytes BytesOf(BootId boot_id) {
  return py::bytes(reinterpret_cast<const char*>(boot_id.bits.data()), sizeof(boot_id.bits));
}

TableSpec SpecOfDict(const py::dict& table) {
  TableSpec spec;
  spec.id = TableId(table["id"].cast<uint32_t>());
  spec.name = table["name"].cast<std::string>();
  spec.kind = table["kind"].cast<std::string>() == "dense" ? TableKind::kDense : TableKind::kSparse;
  spec.row_width = table["row_width"].cast<uint64_t>();
  spec.n_rows = table["n_rows"].cast<uint64_t>();
  spec.num_shards = table["num_shards"].cast<uint32_t>();
  if (table.contains("replication")) spec.replication = table["replication"].cast<uint8_t>();
  const auto [rule, constants] = table["rule"].cast<RuleTuple>();
  Require(constants.size() <= spec.rule.constants.size(), "too many constants");
  spec.rule.kind = static_cast<RuleKind>(rule);
  std::ranges::copy(constants, spec.rule.constants.begin());
  const auto [initializer, seed, a, b] = table["initializer"].cast<InitializerTuple>();
  spec.initializer = {static_cast<InitializerKind>(initializer), seed, a, b};
  if (table.contains("rounds") && !table["rounds"].is_none()) {
    const auto [group, first] = table["rounds"].cast<std::pair<uint32_t, uint64_t>>();
    spec.rounds = {GroupId(group), Round(first)};
  }
  return spec;
}

py::dict DictOfSpec(const TableSpec& spec) {
  py::dict table;
  table["id"] = spec.id.value;
  table["name"] = py::bytes(spec.name);  // what comes from a mutated map may be no UTF-8
  table["kind"] = spec.kind == TableKind::kDense ? "dense" : "sparse";
  table["row_width"] = spec.row_width;
  table["n_rows"] = spec.n_rows;
  table["num_shards"] = spec.num_shards;
  table["replication"] = spec.replication;
  table["rounds"] =
      spec.rounds ? py::object(py::make_tuple(spec.rounds->group.value, spec.rounds->first.value))
                  : py::object(py::none());
  const std::vector<float> constants(spec.rule.constants.begin(), spec.rule.constants.end());
  table["rule"] = RuleTuple(static_cast<uint8_t>(spec.rule.kind), constants);
  table["initializer"] =
      InitializerTuple(static_cast<uint8_t>(spec.initializer.kind), spec.initializer.seed,
                       spec.initializer.a, spec.initializer.b);
  return table;
}

ClusterMap MapOfDict(const py::dict& dict) {
  ClusterMap map;
  map.cluster_id = ClusterId(dict["cluster_id"].cast<uint64_t>());
  map.epoch = Epoch(dict["epoch"].cast<uint32_t>());
  map.incarnation = Incarnation(dict["incarnation"].cast<uint32_t>());
  map.version = MapVersion(dict["version"].cast<uint64_t>());
  map.highest_session = SessionId(dict["highest_session"].cast<uint64_t>());
  for (const uint64_t session : dict["sessions"].cast<std::vector<uint64_t>>()) {
    map.sessions.push_back(SessionId(session));
  }
  for (const auto& [id, boot_id, lost, endpoints, chain_endpoints] :
       dict["servers"].cast<std::vector<ServerTuple>>()) {
    map.servers.push_back({ServerId(id), BootIdOf(boot_id), lost, endpoints, chain_endpoints});
  }
  for (const py::dict& table : dict["tables"].cast<std::vector<py::dict>>()) {
    TableRoute& route = map.tables.emplace_back();
    route.spec = SpecOfDict(table);
    for (const ViewTuple& view : table["views"].cast<std::vector<ViewTuple>>()) {
      const std::optional<ShardView> shard = ViewOfTuple(view);
      Require(shard.has_value(), "a chain has 1 to 3 servers");
      route.views.push_back(*shard);
    }
    Require(route.views.size() == route.spec.num_shards, "there is one view per shard");
  }
  return map;
}

py::dict DictOfMap(const ClusterMap& map) {
  py::dict dict;
  dict["cluster_id"] = map.cluster_id.value;
  dict["epoch"] = map.epoch.value;
  dict["incarnation"] = map.incarnation.value;
  dict["version"] = map.version.value;
  dict["highest_session"] = map.highest_session.value;
  py::list sessions, servers, tables;
  for (const SessionId session : map.sessions) sessions.append(session.value);
  for (const ServerInfo& server : map.servers) {
    py::list endpoints, chain_endpoints;
    for (const std::string& endpoint : server.endpoints) endpoints.append(py::bytes(endpoint));
    for (const std::string& endpoint : server.chain_endpoints) {
      chain_endpoints.append(py::bytes(endpoint));
    }
    servers.append(py::make_tuple(server.id.value, BytesOf(server.boot_id), server.lost, endpoints,
                                  chain_endpoints));
  }
  for (const TableRoute& route : map.tables) {
    py::dict table = DictOfSpec(route.spec);
    py::list views;
    for (const ShardView& view : route.views) views.append(TupleOfView(view));
    table["views"] = views;
    tables.append(table);
  }
  dict["sessions"] = sessions;
  dict["servers"] = servers;
  dict["tables"] = tables;
  return dict;
}

}  // namespace testing

void BindRouting(py::module_& m) {
  m.def("mix_key", &MixKey, py::arg("key"));
  m.def("reduce_range", &ReduceRange, py::arg("hash"), py::arg("n"));
  m.def(
      "shard_of_key",
      [](Key key, uint32_t num_shards) { return ShardOfKey(key, num_shards).value; },
      py::arg("key"), py::arg("num_shards"));
  m.def(
      "dense_shard_range",
      [](uint64_t n_elements, uint32_t num_shards, uint32_t shard) {
        const ElementRange range = DenseShardRange(n_elements, num_shards, ShardId(shard));
        return std::pair(range.begin, range.end);
      },
      py::arg("n_elements"), py::arg("num_shards"), py::arg("shard"));
  m.def(
      "row_within_block",
      [](uint64_t row, uint64_t row_width, uint64_t begin, uint64_t end) {
        const ElementRange range = RowWithinBlock(row, row_width, {begin, end});
        return std::pair(range.begin, range.end);
      },
      py::arg("row"), py::arg("row_width"), py::arg("begin"), py::arg("end"));

  py::class_<ShardPlan, std::shared_ptr<ShardPlan>>(m, "ShardPlan")
      .def(py::init([](const py::dict& map, uint32_t table, bool writes) {
             const auto shared = std::make_shared<const ClusterMap>(testing::MapOfDict(map));
             auto plan = ShardPlan::Make(shared, TableId(table), writes ? Use::kWrite : Use::kRead);
             testing::Require(plan != nullptr, "the map has no such table");
             return std::const_pointer_cast<ShardPlan>(plan);
           }),
           py::arg("map"), py::arg("table"), py::arg("writes") = false)
      .def_readonly("serves_both", &ShardPlan::serves_both)
      .def_property_readonly("lanes",
                             [](const ShardPlan& plan) {
                               std::vector<std::pair<uint32_t, uint32_t>> lanes;
                               for (const LaneAddress lane : plan.lanes) {
                                 lanes.emplace_back(lane.server.value, lane.thread.value);
                               }
                               return lanes;
                             })
      .def_readonly("lane_of_rank", &ShardPlan::lane_of_rank)
      .def_readonly("rank_of_shard", &ShardPlan::rank_of_shard)
      .def_property_readonly("shard_of_rank", [](const ShardPlan& plan) {
        std::vector<uint32_t> shards;
        for (const ShardId shard : plan.shard_of_rank) shards.push_back(shard.value);
        return shards;
      });
}

}  // namespace fastps
