// Test-only: cluster maps, heartbeats and map frames to bytes and back.
#include "wire/map_codec.h"

#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "binding/map_tuples.h"
#include "binding/testing/testing.h"
#include "wire/notices.h"
#include "wire/reports.h"

namespace py = pybind11;

namespace fastps {
namespace {

// A copy of exactly the size of the bytes, so that a sanitizer sees each step outside.
class ExactCopy {
 public:
  explicit ExactCopy(std::string_view view)
      : block_(std::make_unique<std::byte[]>(view.size())), n_(view.size()) {
    std::memcpy(block_.get(), view.data(), n_);
  }
  Bytes bytes() const { return {block_.get(), n_}; }

 private:
  std::unique_ptr<std::byte[]> block_;
  size_t n_;
};

py::dict DecodeMap(const py::bytes& blob) {
  const ExactCopy copy{std::string_view(blob)};
  ClusterMap map;
  testing::RequireOk(DecodeClusterMap(copy.bytes(), &map));
  return testing::DictOfMap(map);
}

py::bytes EncodeBeat(const py::dict& dict) {
  Heartbeat heartbeat;
  heartbeat.role = static_cast<Role>(dict["role"].cast<uint8_t>());
  heartbeat.id = dict["id"].cast<uint64_t>();
  heartbeat.boot_id = testing::BootIdOf(dict["boot_id"].cast<py::bytes>());
  heartbeat.cluster_id = ClusterId(dict["cluster_id"].cast<uint64_t>());
  heartbeat.incarnation = Incarnation(dict["incarnation"].cast<uint32_t>());
  heartbeat.map_version = MapVersion(dict["map_version"].cast<uint64_t>());
  heartbeat.rows = dict["rows"].cast<uint64_t>();
  heartbeat.requests = dict["requests"].cast<uint64_t>();
  heartbeat.clock = dict["clock"].cast<uint64_t>();
  heartbeat.busy_us = dict["busy_us"].cast<uint64_t>();
  heartbeat.heard = dict["heard"].cast<uint64_t>();
  heartbeat.told_minimum = dict["told_minimum"].cast<uint64_t>();
  heartbeat.told_rounds = dict["told_rounds"].cast<uint64_t>();
  return py::bytes(EncodeHeartbeat(heartbeat));
}

py::object DecodeBeat(const py::bytes& frame) {
  const ExactCopy copy{std::string_view(frame)};
  const std::optional<Heartbeat> heartbeat = DecodeHeartbeat(copy.bytes());
  if (!heartbeat) return py::none();
  py::dict dict;
  dict["role"] = static_cast<int>(heartbeat->role);
  dict["id"] = heartbeat->id;
  dict["boot_id"] = testing::BytesOf(heartbeat->boot_id);
  dict["cluster_id"] = heartbeat->cluster_id.value;
  dict["incarnation"] = heartbeat->incarnation.value;
  dict["map_version"] = heartbeat->map_version.value;
  dict["rows"] = heartbeat->rows;
  dict["requests"] = heartbeat->requests;
  dict["clock"] = heartbeat->clock;
  dict["busy_us"] = heartbeat->busy_us;
  dict["heard"] = heartbeat->heard;
  dict["told_minimum"] = heartbeat->told_minimum;
  dict["told_rounds"] = heartbeat->told_rounds;
  return dict;
}

py::bytes EncodeClocks(const py::dict& dict) {
  const auto field = [&](const char* name) { return dict[name].cast<uint64_t>(); };
  return py::bytes(EncodeClockNotice(
      {ClusterId(field("cluster_id")), SessionId(field("session")), field("number"), field("clock"),
       field("minimum"), field("rounds"), field("backup"), MapVersion(field("map_version"))}));
}

py::object DecodeClocks(const py::bytes& frame) {
  const ExactCopy copy{std::string_view(frame)};
  const std::optional<ClockNotice> notice = DecodeClockNotice(copy.bytes());
  if (!notice) return py::none();
  py::dict dict;
  dict["cluster_id"] = notice->cluster_id.value;
  dict["session"] = notice->session.value;
  dict["number"] = notice->number;
  dict["clock"] = notice->clock;
  dict["minimum"] = notice->minimum;
  dict["rounds"] = notice->rounds;
  dict["backup"] = notice->backup;
  dict["map_version"] = notice->map_version.value;
  return dict;
}

// (group, round, [(rank, session)])
using RoundTuple = std::tuple<uint32_t, uint64_t, std::vector<std::pair<uint32_t, uint64_t>>>;

py::bytes EncodeRounds(const py::dict& dict) {
  RoundsNotice notice{ClusterId(dict["cluster_id"].cast<uint64_t>()),
                      MapVersion(dict["map_version"].cast<uint64_t>()),
                      dict["first_number"].cast<uint64_t>(),
                      dict["forgotten"].cast<uint64_t>(),
                      {}};
  for (const auto& [group, round, members] : dict["rounds"].cast<std::vector<RoundTuple>>()) {
    ClosedRound& closed = notice.rounds.emplace_back(ClosedRound{GroupId(group), Round(round), {}});
    for (const auto& [rank, session] : members) {
      closed.members.push_back({Rank(rank), SessionId(session)});
    }
  }
  return py::bytes(EncodeRoundsNotice(notice));
}

py::object DecodeRounds(const py::bytes& frame) {
  const ExactCopy copy{std::string_view(frame)};
  const std::optional<RoundsNotice> notice = DecodeRoundsNotice(copy.bytes());
  if (!notice) return py::none();
  std::vector<RoundTuple> rounds;
  for (const ClosedRound& closed : notice->rounds) {
    std::vector<std::pair<uint32_t, uint64_t>> members;
    for (const RoundMember& member : closed.members) {
      members.emplace_back(member.rank.value, member.session.value);
    }
    rounds.emplace_back(closed.group.value, closed.round.value, std::move(members));
  }
  py::dict dict;
  dict["cluster_id"] = notice->cluster_id.value;
  dict["map_version"] = notice->map_version.value;
  dict["first_number"] = notice->first_number;
  dict["forgotten"] = notice->forgotten;
  dict["rounds"] = rounds;
  return dict;
}

py::bytes EncodeReportDict(const py::dict& dict) {
  Report report{ClusterId(dict["cluster_id"].cast<uint64_t>()),
                ServerId(dict["server"].cast<uint32_t>()),
                testing::BootIdOf(dict["boot_id"].cast<py::bytes>()),
                MapVersion(dict["map_version"].cast<uint64_t>()),
                {},
                {}};
  for (const uint32_t server : dict["silent"].cast<std::vector<uint32_t>>()) {
    report.silent.push_back(ServerId(server));
  }
  for (const auto& [table, shard, view, index, folded, state] :
       dict["shards"].cast<std::vector<ProgressTuple>>()) {
    report.shards.push_back({TableId(table), ShardId(shard), ViewNumber(view), ApplyIndex(index),
                             Round(folded), static_cast<ShardProgress::State>(state)});
  }
  return py::bytes(EncodeReport(report));
}

py::object DecodeReportDict(const py::bytes& frame) {
  const ExactCopy copy{std::string_view(frame)};
  const std::optional<Report> report = DecodeReport(copy.bytes());
  if (!report) return py::none();
  std::vector<uint32_t> silent;
  for (const ServerId server : report->silent) silent.push_back(server.value);
  std::vector<ProgressTuple> shards;
  for (const ShardProgress& shard : report->shards) {
    shards.push_back(TupleOfProgress(shard));
  }
  py::dict dict;
  dict["cluster_id"] = report->cluster_id.value;
  dict["server"] = report->server.value;
  dict["boot_id"] = testing::BytesOf(report->boot_id);
  dict["map_version"] = report->map_version.value;
  dict["silent"] = silent;
  dict["shards"] = shards;
  return dict;
}

py::object MapBytesOf(const py::bytes& frame) {
  const ExactCopy copy{std::string_view(frame)};
  const std::optional<Bytes> map = MapOfFrame(copy.bytes());
  if (!map) return py::none();
  return py::bytes(reinterpret_cast<const char*>(map->data()), map->size());
}

}  // namespace

void BindMapCodec(py::module_& m) {
  m.def(
      "encode_map",
      [](const py::dict& map) { return py::bytes(EncodeClusterMap(testing::MapOfDict(map))); },
      py::arg("map"));
  m.def("decode_map", &DecodeMap, py::arg("blob"), "Names and endpoints come back as bytes.");
  m.def("encode_clock_notice", &EncodeClocks, py::arg("notice"));
  m.def("decode_clock_notice", &DecodeClocks, py::arg("frame"));
  m.def("encode_rounds_notice", &EncodeRounds, py::arg("notice"));
  m.def("decode_rounds_notice", &DecodeRounds, py::arg("frame"));
  m.def("encode_report", &EncodeReportDict, py::arg("report"));
  m.def("decode_report", &DecodeReportDict, py::arg("frame"));
  m.def("encode_heartbeat", &EncodeBeat, py::arg("heartbeat"));
  m.def("decode_heartbeat", &DecodeBeat, py::arg("frame"));
  m.def("map_of_frame", &MapBytesOf, py::arg("frame"));
}

}  // namespace fastps
