// Test-only: a server without sockets and time, one data thread of it, for the simulator.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "binding/testing/testing.h"
#include "server/chain_node.h"
#include "wire/codec.h"
#include "wire/map_codec.h"

namespace py = pybind11;

namespace fastps {
namespace {

using testing::ArrayOf;
using testing::KeyArray;
using testing::Require;
using testing::RequireOk;
using testing::SpanOf;

using Frames = std::vector<py::bytes>;

Bytes BytesView(const py::bytes& bytes) {
  return std::as_bytes(std::span(std::string_view(bytes)));
}

py::bytes BytesOf(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<Bytes> ViewsOf(const Frames& frames) {
  std::vector<Bytes> views;
  for (const py::bytes& frame : frames) views.push_back(BytesView(frame));
  return views;
}

Frames FramesOf(const ChainFrames& chain) {
  Frames frames = {BytesOf(chain.head)};
  for (const Buffer* section : {&chain.keys, &chain.values}) {
    if (section->size() != 0) frames.push_back(BytesOf(section->As<std::byte>()));
  }
  return frames;
}

Frames FramesOf(const OwnedReply& reply) {
  std::vector<std::byte> head;
  EncodeReplyHead(reply, &head);
  Frames frames = {BytesOf(head)};
  for (const Buffer* section : {&reply.keys, &reply.values, &reply.flags}) {
    if (section->size() != 0) frames.push_back(BytesOf(section->As<std::byte>()));
  }
  return frames;
}

class ChainServer {
 public:
  ChainServer(const py::bytes& boot_id, uint32_t server_id)
      : id_(server_id), handler_(testing::BootIdOf(boot_id)), node_(handler_, ThreadId(0), 1) {}

  void InstallMap(const py::bytes& blob, int64_t now_ms) {
    auto map = std::make_shared<ClusterMap>();
    RequireOk(DecodeClusterMap(BytesView(blob), map.get()));
    RequireOk(handler_.InstallMap(std::move(map)));
    node_.Adopt(handler_.snapshot(), now_ms);
  }

  void CloseRounds(const py::bytes& frame, int64_t now_ms) {
    const std::optional<RoundsNotice> notice = DecodeRoundsNotice(BytesView(frame));
    Require(notice.has_value(), "not a frame of closed rounds");
    handler_.CloseRounds(*notice);
    node_.FoldClosed(now_ms);
    node_.NoteSettled();
  }
  void StartHearingAt(uint64_t heard) { handler_.StartHearingAt(heard); }
  uint64_t heard() {
    if (node_.settled_changed()) handler_.Settle(node_.Settled());
    return handler_.heard();
  }
  uint64_t map_version() const { return node_.map_version().value; }

  void TakeRequest(const py::bytes& peer, const Frames& frames, int64_t now_ms) {
    Request request;
    if (!decoder_.DecodeRequest(ViewsOf(frames), &request).ok()) return;
    node_.TakeRequest(request, std::string(peer), now_ms);
  }

  void TakeMessage(const py::bytes& peer, const Frames& frames, int64_t now_ms) {
    ChainMessage message;
    if (!chain_decoder_.Decode(ViewsOf(frames), &message).ok()) return;
    node_.TakeMessage(message, std::string(peer), now_ms);
  }

  void Tick(int64_t now_ms) {
    if (node_.needs_ticks()) node_.Tick(now_ms);
  }
  bool needs_ticks() const { return node_.needs_ticks(); }
  bool report_changed() const { return node_.report_changed(); }

  py::list TakeOut() {
    const ChainNode::Out out = node_.TakeOut();
    py::list all;
    for (const auto& down : out.down) {
      all.append(py::make_tuple("chain", down.server.value, FramesOf(down.frames)));
    }
    for (const auto& up : out.up) {
      all.append(py::make_tuple("back", py::bytes(up.peer), FramesOf(up.frames)));
    }
    for (const auto& answer : out.answers) {
      all.append(py::make_tuple("reply", py::bytes(answer.peer), FramesOf(answer.reply)));
    }
    return all;
  }

  py::object ReportFrame() {
    Report report{handler_.snapshot()->map->cluster_id,
                  ServerId(id_),
                  handler_.boot_id(),
                  node_.map_version(),
                  {},
                  {}};
    node_.AddToReport(&report);
    if (report.shards.empty() && report.silent.empty()) return py::none();
    return py::bytes(EncodeReport(report));
  }

  py::bytes HeartbeatFrame() {
    const ClusterMap& map = *handler_.snapshot()->map;
    return py::bytes(EncodeHeartbeat({.role = Role::kServer,
                                      .id = id_,
                                      .boot_id = handler_.boot_id(),
                                      .cluster_id = map.cluster_id,
                                      .incarnation = map.incarnation,
                                      .map_version = node_.map_version(),
                                      .rows = handler_.n_rows(),
                                      .requests = handler_.n_requests(),
                                      .heard = heard()}));
  }

  // (view, index, folded, digest) of a member or filled joiner.
  std::optional<std::tuple<uint32_t, uint64_t, uint64_t, uint64_t>> DigestOf(uint32_t table,
                                                                             uint32_t shard) {
    const ShardChain* const chain = node_.Find(TableId(table), ShardId(shard));
    if (chain == nullptr || (chain->is_joiner && !chain->is_filled)) return std::nullopt;
    const std::shared_ptr<const Snapshot> snapshot = handler_.snapshot();
    const auto is_live = [&](SessionId session) { return snapshot->map->HasSession(session); };
    return std::tuple(chain->view.number.value, chain->shard->apply_index().value,
                      chain->shard->folded().value, chain->shard->Digest(is_live));
  }

  // As a restore ends that found nothing: the shard has its first entry, which no thread took.
  void FinishLoad(uint32_t table, uint32_t shard) {
    const std::shared_ptr<const Snapshot> snapshot = handler_.snapshot();
    const ServedTable& served = *snapshot->tables.at(TableId(table));
    RequireOk(served.shards.at(shard)->FinishLoad(served.spec->rule.constants));
  }

  // The rows of keys as they are here, whoever may be asked for them; empty where it holds none.
  std::vector<py::array_t<float>> Pull(uint32_t table, const KeyArray& keys) {
    std::vector<py::array_t<float>> rows;
    const auto found = handler_.snapshot()->tables.find(TableId(table));
    for (const Key& key : SpanOf(keys)) {
      std::vector<float> values;
      if (found != handler_.snapshot()->tables.end()) {
        const ServedTable& served = *found->second;
        const auto& shard = served.shards[ShardOfKey(key, served.spec->num_shards).value];
        if (shard != nullptr) {
          values.resize(served.spec->row_width);
          (void)shard->Pull({&key, 1}, {}, {}, values.data());
        }
      }
      rows.push_back(ArrayOf(std::span<const float>(values)));
    }
    return rows;
  }

 private:
  const uint32_t id_;
  RequestHandler handler_;
  ChainNode node_;
  Decoder decoder_;
  ChainDecoder chain_decoder_;
};

}  // namespace

void BindChain(py::module_& m) {
  py::class_<ChainServer>(m, "ChainServer",
                          "A server of one data thread. Times are milliseconds; frames are those "
                          "of a message without routing ids.")
      .def(py::init<const py::bytes&, uint32_t>(), py::arg("boot_id"), py::arg("server_id"))
      .def("install_map", &ChainServer::InstallMap, py::arg("blob"), py::arg("now_ms"))
      .def("close_rounds", &ChainServer::CloseRounds, py::arg("frame"), py::arg("now_ms"))
      .def("start_hearing_at", &ChainServer::StartHearingAt, py::arg("heard"))
      .def_property_readonly("heard", &ChainServer::heard)
      .def_property_readonly("map_version", &ChainServer::map_version)
      .def("request", &ChainServer::TakeRequest, py::arg("peer"), py::arg("frames"),
           py::arg("now_ms"))
      .def("chain_message", &ChainServer::TakeMessage, py::arg("peer"), py::arg("frames"),
           py::arg("now_ms"))
      .def("tick", &ChainServer::Tick, py::arg("now_ms"))
      .def_property_readonly("needs_ticks", &ChainServer::needs_ticks)
      .def_property_readonly("report_changed", &ChainServer::report_changed)
      .def("take_out", &ChainServer::TakeOut,
           "('reply', peer, frames), ('chain', server, frames) down, ('back', peer, frames) up.")
      .def("report", &ChainServer::ReportFrame, "None when there is nothing to report.")
      .def("heartbeat", &ChainServer::HeartbeatFrame)
      .def("digest", &ChainServer::DigestOf, py::arg("table"), py::arg("shard"),
           "(view, index, folded, digest), or None where the shard is not held.")
      .def("finish_load", &ChainServer::FinishLoad, py::arg("table"), py::arg("shard"))
      .def("pull", &ChainServer::Pull, py::arg("table"), py::arg("keys"));
}

}  // namespace fastps
