#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "client/call.h"
#include "client/key_set.h"
#include "client/shard_plan.h"
#include "fuzz/fuzz.h"
#include "server/request_handler.h"
#include "wire/codec.h"
#include "wire/map_codec.h"

namespace fastps::fuzz {
namespace {

constexpr BootId kBootId{{1, 2}};
constexpr uint32_t kTables = 4;
constexpr uint32_t kShards = 2;
constexpr uint64_t kElementsMax = 1 << 16;  // of a map that is installed

TableRoute RouteOf(uint32_t id, TableKind kind, RuleKind rule, uint64_t width, uint64_t n_rows) {
  TableRoute route;
  route.spec.id = TableId(id);
  route.spec.name = "t" + std::to_string(id);
  route.spec.kind = kind;
  route.spec.rule.kind = rule;
  if (rule == RuleKind::kAdagrad) route.spec.rule.constants = {0.1f, 1e-6f};
  if (rule == RuleKind::kAdam) route.spec.rule.constants = {0.1f, 0.9f, 0.99f, 1e-6f};
  route.spec.row_width = width;
  route.spec.n_rows = n_rows;
  route.spec.num_shards = kShards;
  route.servers.assign(kShards, ServerId(0));
  route.views.assign(kShards, ViewNumber(1));
  return route;
}

std::shared_ptr<const ClusterMap> MakeMap() {
  auto map = std::make_shared<ClusterMap>();
  map->cluster_id = ClusterId(1);
  map->version = MapVersion(1);
  map->highest_session = SessionId(3);
  map->sessions = {SessionId(1), SessionId(3)};
  map->servers = {{ServerId(0), kBootId, false, {}}};
  map->tables = {RouteOf(1, TableKind::kSparse, RuleKind::kAccumulate, 1, 0),
                 RouteOf(2, TableKind::kSparse, RuleKind::kAdam, 3, 0),
                 RouteOf(3, TableKind::kDense, RuleKind::kAdagrad, 4, 7),
                 RouteOf(4, TableKind::kDense, RuleKind::kAdam, 5, 3)};
  return map;
}

const std::shared_ptr<const ClusterMap>& FirstMap() {
  static const auto* const map = new std::shared_ptr<const ClusterMap>(MakeMap());
  return *map;
}

// Only what a server must never answer with: counts that differ from what it sends.
struct CheckedReplies final : ReplySink {
  int n_replies = 0;
  volatile uint64_t sum_of_all = 0;
  void OnReply(OwnedReply reply) override {
    ++n_replies;
    std::vector<std::byte> head;
    EncodeReplyHead(reply, &head);
    std::vector<Bytes> frames = {head};
    for (const Buffer* section : {&reply.keys, &reply.values, &reply.flags}) {
      if (section->size() != 0) frames.push_back(section->As<std::byte>());
    }
    Reply decoded;
    Decoder decoder;
    FASTPS_CHECK(decoder.DecodeReply(frames, &decoded).ok());
    uint64_t sum = 0;  // reads every value, so that a sanitizer sees what was not written
    for (const float value : decoded.values) sum += std::bit_cast<uint32_t>(value);
    for (const uint64_t key : decoded.keys) sum += key;
    for (const uint8_t flag : decoded.flags) sum += flag;
    sum_of_all = sum_of_all + sum;
  }
};

// Reads fields off bytes; zeros when these are used up.
class Fields {
 public:
  explicit Fields(Bytes bytes) : reader_(bytes) {}
  template <class T>
  T Get() {
    T value{};
    (void)reader_.Get(&value);
    return value;
  }
  bool empty() const { return reader_.remaining() == 0; }

 private:
  ByteReader reader_;
};

}  // namespace

class Victim {
 public:
  Victim() : handler(kBootId) { FASTPS_CHECK(handler.InstallMap(FirstMap()).ok()); }

  void Submit(Request request) {
    // A stranger knows the names of the cluster: what it may not do is crash it.
    request.stamp.cluster_id = FirstMap()->cluster_id;
    request.stamp.epoch = FirstMap()->epoch;
    request.stamp.boot_id = kBootId;
    CheckedReplies replies;
    handler.Submit(request, replies);
    FASTPS_CHECK(replies.n_replies == 1);
  }

  RequestHandler handler;
  Decoder decoder;
  std::shared_ptr<BufferPool> buffers = BufferPool::Create();
};

std::unique_ptr<Victim, void (*)(Victim*)> MakeVictim() {
  return {new Victim(), [](Victim* victim) { delete victim; }};
}

void TakeRequest(Victim& victim, std::span<const Bytes> frames) {
  Request request;
  if (!victim.decoder.DecodeRequest(frames, &request).ok()) return;
  std::vector<std::byte> head;
  EncodeRequestHead(request, &head);
  FASTPS_CHECK(head.size() == frames[0].size());
  request.table = TableId(1 + request.table.value % kTables);
  request.session = SessionId(request.session.value % 5);
  victim.Submit(request);
}

void TakeShaped(Victim& victim, Bytes bytes, bool misaligned) {
  Fields fields(bytes);
  Request request;
  const auto op = static_cast<Op>(1 + fields.Get<uint8_t>() % 7);
  request.op = op;
  request.table = TableId(1 + fields.Get<uint8_t>() % kTables);
  request.session = SessionId(fields.Get<uint8_t>() % 5);
  request.argument = op == Op::kScan ? fields.Get<uint32_t>() : 0;
  const uint8_t signature = fields.Get<uint8_t>() % 4;
  request.key_set.bits = {signature, 0};
  const bool with_set = signature != 0 && (op == Op::kPull || op == Op::kPush);
  std::vector<PartHeader> parts;
  std::vector<Key> keys;
  std::vector<float> values;
  for (size_t n = 1 + fields.Get<uint8_t>() % 5; n > 0; --n) {
    PartHeader part;
    const uint8_t where = fields.Get<uint8_t>();
    part.shard = ShardId(where % 3);
    part.view = ViewNumber(where < 200 ? 1 : where % 4);
    if (IsWrite(op)) part.sequence = Sequence(1 + fields.Get<uint8_t>());
    const uint8_t n_keys = fields.Get<uint8_t>() % 70;
    if (with_set) part.set_part = fields.Get<uint8_t>() % 4;
    if (part.set_part != 0 && n_keys % 2 == 1) {
      part.n_omitted = n_keys < 60 ? n_keys / 2 : fields.Get<uint32_t>();
      if (part.n_omitted == 0) part.n_omitted = 1;
    } else {
      part.n_keys = n_keys;
      for (uint8_t i = 0; i < n_keys; ++i) {
        const uint8_t form = fields.Get<uint8_t>();
        keys.push_back(form < 250 ? form % 40 : fields.Get<uint64_t>());
      }
    }
    if (CarriesValues(op)) {
      const uint8_t form = fields.Get<uint8_t>();
      const size_t width = FirstMap()->FindTable(request.table)->spec.row_width;
      size_t n_values = size_t{form} * 2;
      if (form < 240) n_values = std::max(part.n_keys, std::min(part.n_omitted, 70u)) * width;
      // Dense: what the ranges say, when they say something sane.
      if (form < 200 && request.table.value > 2) {
        n_values = 0;
        for (size_t i = keys.size() - part.n_keys; i + 1 < keys.size(); i += 2) {
          const uint64_t size = keys[i + 1] - keys[i];
          if (size < 64) n_values += size;
        }
      }
      part.n_values = static_cast<uint32_t>(n_values);
      for (size_t i = 0; i < n_values; ++i) {
        const uint8_t value = fields.Get<uint8_t>();
        values.push_back(value < 250 ? value : std::bit_cast<float>(fields.Get<uint32_t>()));
      }
    }
    parts.push_back(part);
  }
  request.parts = parts;
  request.keys = keys;
  request.values = values;
  std::vector<std::byte> head;
  EncodeRequestHead(request, &head);
  std::vector<ExactBytes> exact;
  exact.emplace_back(head, misaligned);
  if (!keys.empty()) exact.emplace_back(std::as_bytes(request.keys), misaligned);
  if (!values.empty()) exact.emplace_back(std::as_bytes(request.values), misaligned);
  std::vector<Bytes> frames;
  for (const ExactBytes& frame : exact) frames.push_back(frame.bytes());
  Request decoded;
  FASTPS_CHECK(victim.decoder.DecodeRequest(frames, &decoded).ok());
  FASTPS_CHECK(std::ranges::equal(decoded.keys, request.keys));
  victim.Submit(decoded);
}

void TakeReply(Victim& victim, std::span<const Bytes> frames) {
  Reply reply;
  if (!victim.decoder.DecodeReply(frames, &reply).ok()) return;
  const std::vector<Key> keys = {7, 8, 7, ~uint64_t{0}};
  for (const TableId table : {TableId(2), TableId(3)}) {
    const std::shared_ptr<const ShardPlan> plan = ShardPlan::Make(FirstMap(), table);
    const bool sparse = plan->spec().kind == TableKind::kSparse;
    KeySet set(keys, {{9, 9}});
    Status status;
    for (uint8_t op = 1; op <= 7; ++op) {
      std::shared_ptr<const Batch> batch;
      std::shared_ptr<KeySetState> state;
      if (static_cast<Op>(op) == Op::kSetLr) {
        batch = MakeShardValueBatch(*plan);
      } else if (static_cast<Op>(op) == Op::kStats) {
        batch = MakeShardBatch(*plan);
      } else if (static_cast<Op>(op) == Op::kScan) {
        batch = MakeScanBatch(*plan, ShardId(0), 0, *victim.buffers);
      } else if (sparse) {
        state = set.StateOn(plan, *victim.buffers, &status);
        batch = state->batch();
      } else {
        batch = MakeWholeBatch(*plan, *victim.buffers);
      }
      std::vector<float> values(batch->n_places());
      std::vector<uint8_t> flags(keys.size());
      if (!sparse && static_cast<Op>(op) == Op::kContains) continue;
      Call call(static_cast<Op>(op), plan, batch, {values.data(), values.data(), flags.data()},
                state);
      for (size_t i = 0; i < batch->messages().size(); ++i) (void)call.OnReply(i, reply);
    }
  }
}

void TakeMap(Victim& victim, Bytes bytes) {
  auto map = std::make_shared<ClusterMap>();
  if (!DecodeClusterMap(bytes, map.get()).ok()) return;
  const std::string encoded = EncodeClusterMap(*map);
  ClusterMap again;
  FASTPS_CHECK(DecodeClusterMap(std::as_bytes(std::span(encoded)), &again).ok());
  FASTPS_CHECK(EncodeClusterMap(again) == encoded);
  uint64_t n_elements = 0;
  for (const TableRoute& table : map->tables) {
    FASTPS_CHECK(ShardPlan::Make(map, table.spec.id) != nullptr);
    n_elements += table.spec.num_shards;
    // Capped before they are added: the sum must not overflow.
    n_elements += std::min(table.spec.row_width, kElementsMax);
    if (table.spec.kind == TableKind::kDense) {
      n_elements += std::min(table.spec.row_width * table.spec.n_rows, kElementsMax);
    }
  }
  if (n_elements >= kElementsMax) return;
  for (ServerInfo& server : map->servers) {
    if (&server == &map->servers.front()) server.boot_id = kBootId;
  }
  (void)victim.handler.InstallMap(std::move(map));
}

void TakeHeartbeat(Bytes bytes) {
  if (const std::optional<Bytes> map = MapOfFrame(bytes))
    FASTPS_CHECK(map->size() + 4 == bytes.size());
  const std::optional<Heartbeat> heartbeat = DecodeHeartbeat(bytes);
  if (!heartbeat) return;
  const std::string encoded = EncodeHeartbeat(*heartbeat);
  FASTPS_CHECK(std::ranges::equal(std::as_bytes(std::span(encoded)), bytes));
}

}  // namespace fastps::fuzz
