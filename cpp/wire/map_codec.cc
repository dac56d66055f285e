#include "wire/map_codec.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"

namespace fastps {
namespace {

constexpr uint16_t kMapFormatVersion = 1;
// What one entry takes at least, so that a count can be checked before anything is reserved.
constexpr size_t kSessionBytes = 8;
constexpr size_t kShardBytesMin = 10;
constexpr size_t kEndpointBytesMin = 2;

constexpr uint8_t kSealed = 1;
constexpr uint8_t kReadOnly = 2;
constexpr uint8_t kHasJoiner = 4;

Status Malformed(const char* what) { return Status(Code::kMalformed, what); }

template <class Number>
bool GetNumber(ByteReader* reader, Number* number) {
  return reader->Get(&number->value);
}

bool GetBootId(ByteReader* reader, BootId* boot_id) {
  return reader->Get(&boot_id->bits[0]) && reader->Get(&boot_id->bits[1]);
}

Status DecodeEndpoints(ByteReader* reader, std::vector<std::string>* endpoints) {
  uint16_t n_endpoints = 0;
  if (!reader->Get(&n_endpoints) || n_endpoints > limits::kDataThreadsMax ||
      n_endpoints * kEndpointBytesMin > reader->remaining()) {
    return Malformed("map: number of endpoints");
  }
  endpoints->resize(n_endpoints);
  for (std::string& endpoint : *endpoints) {
    if (!reader->GetString(&endpoint, limits::kNameBytesMax)) {
      return Malformed("map: endpoint cut short");
    }
  }
  return {};
}

Status DecodeServer(ByteReader* reader, ServerInfo* server) {
  uint8_t lost = 0;
  if (!GetNumber(reader, &server->id) || !GetBootId(reader, &server->boot_id) ||
      !reader->Get(&lost)) {
    return Malformed("map: server cut short");
  }
  server->lost = lost != 0;
  if (Status status = DecodeEndpoints(reader, &server->endpoints); !status.ok()) return status;
  return DecodeEndpoints(reader, &server->chain_endpoints);
}

Status DecodeSpec(ByteReader* reader, TableSpec* spec) {
  uint8_t kind = 0, rule_kind = 0, initializer_kind = 0;
  if (!GetNumber(reader, &spec->id) || !reader->GetString(&spec->name, limits::kNameBytesMax) ||
      !reader->Get(&kind) || !reader->Get(&spec->row_width) || !reader->Get(&spec->n_rows) ||
      !reader->Get(&rule_kind)) {
    return Malformed("map: table cut short");
  }
  for (float& constant : spec->rule.constants) {
    if (!reader->Get(&constant)) return Malformed("map: rule cut short");
  }
  uint8_t has_rounds = 0;
  RoundsSpec rounds;
  if (!reader->Get(&initializer_kind) || !reader->Get(&spec->initializer.seed) ||
      !reader->Get(&spec->initializer.a) || !reader->Get(&spec->initializer.b) ||
      !reader->Get(&spec->num_shards) || !reader->Get(&spec->replication)) {
    return Malformed("map: initializer cut short");
  }
  if (spec->replication == 0 || spec->replication > limits::kReplicationMax) {
    return Malformed("map: number of copies");
  }
  if (!reader->Get(&has_rounds) || !GetNumber(reader, &rounds.group) ||
      !GetNumber(reader, &rounds.first)) {
    return Malformed("map: rounds cut short");
  }
  if (has_rounds > 1) return Malformed("map: unknown kind of rounds");
  if (has_rounds == 1) spec->rounds = rounds;
  if (kind != static_cast<uint8_t>(TableKind::kSparse) &&
      kind != static_cast<uint8_t>(TableKind::kDense)) {
    return Malformed("map: unknown kind of table");
  }
  if (spec->row_width == 0) return Malformed("map: row without values");
  if (spec->row_width > limits::kRowWidthMax && kind == static_cast<uint8_t>(TableKind::kSparse)) {
    return Malformed("map: row too wide");
  }
  if (kind == static_cast<uint8_t>(TableKind::kDense) &&
      spec->n_rows > limits::kDenseElementsMax / spec->row_width) {
    return Malformed("map: too many elements");
  }
  if (spec->num_shards == 0 || spec->num_shards > limits::kShardsPerTableMax) {
    return Malformed("map: number of shards");
  }
  spec->kind = static_cast<TableKind>(kind);
  spec->rule.kind = static_cast<RuleKind>(rule_kind);
  spec->initializer.kind = static_cast<InitializerKind>(initializer_kind);
  return {};
}

Status DecodeView(ByteReader* reader, ShardView* view) {
  uint8_t flags = 0;
  if (!GetNumber(reader, &view->number) || !reader->Get(&flags) || !reader->Get(&view->n_members)) {
    return Malformed("map: view cut short");
  }
  if ((flags & ~(kSealed | kReadOnly | kHasJoiner)) != 0) return Malformed("map: unknown flags");
  if (view->n_members == 0 || view->n_members > limits::kReplicationMax) {
    return Malformed("map: length of a chain");
  }
  for (size_t i = 0; i < view->n_members; ++i) {
    if (!GetNumber(reader, &view->members[i])) return Malformed("map: chain cut short");
  }
  view->sealed = (flags & kSealed) != 0;
  view->read_only = (flags & kReadOnly) != 0;
  if ((flags & kHasJoiner) == 0) return {};
  return GetNumber(reader, &view->joiner.emplace()) ? Status() : Malformed("map: joiner cut short");
}

Status DecodeTable(ByteReader* reader, TableRoute* table) {
  if (Status status = DecodeSpec(reader, &table->spec); !status.ok()) return status;
  const uint32_t num_shards = table->spec.num_shards;
  if (size_t{num_shards} * kShardBytesMin > reader->remaining()) {
    return Malformed("map: views cut short");
  }
  table->views.resize(num_shards);
  for (ShardView& view : table->views) {
    if (Status status = DecodeView(reader, &view); !status.ok()) return status;
  }
  return {};
}

// Whether the servers of a view are in the map, each in one place.
bool HasRightServers(const ClusterMap& map, const ShardView& view) {
  std::vector<ServerId> servers(view.chain().begin(), view.chain().end());
  if (view.joiner) servers.push_back(*view.joiner);
  const auto known = [&](ServerId server) { return map.FindServer(server) != nullptr; };
  if (!std::ranges::all_of(servers, known)) return false;
  std::ranges::sort(servers);
  return std::ranges::adjacent_find(servers) == servers.end();
}

Status CheckReferences(const ClusterMap& map) {
  const auto strictly_rising = [](const auto& entries, auto id_of) {
    return std::ranges::adjacent_find(entries, [&](const auto& a, const auto& b) {
             return !(id_of(a) < id_of(b));
           }) == entries.end();
  };
  if (!strictly_rising(map.sessions, [](SessionId session) { return session; }) ||
      !strictly_rising(map.servers, [](const ServerInfo& server) { return server.id; }) ||
      !strictly_rising(map.tables, [](const TableRoute& table) { return table.spec.id; })) {
    return Malformed("map: entries out of order");
  }
  for (const TableRoute& table : map.tables) {
    for (const ShardView& view : table.views) {
      if (!HasRightServers(map, view)) return Malformed("map: servers of a shard");
    }
  }
  return {};
}

}  // namespace

std::string EncodeClusterMap(const ClusterMap& map) {
  ByteWriter writer;
  writer.Put(kMapFormatVersion);
  writer.Put(map.cluster_id.value);
  writer.Put(map.epoch.value);
  writer.Put(map.incarnation.value);
  writer.Put(map.version.value);
  writer.Put(map.highest_session.value);
  writer.Put(static_cast<uint32_t>(map.sessions.size()));
  for (const SessionId session : map.sessions) writer.Put(session.value);
  writer.Put(static_cast<uint32_t>(map.servers.size()));
  for (const ServerInfo& server : map.servers) {
    writer.Put(server.id.value);
    writer.Put(server.boot_id.bits[0]);
    writer.Put(server.boot_id.bits[1]);
    writer.Put(static_cast<uint8_t>(server.lost));
    for (const auto* endpoints : {&server.endpoints, &server.chain_endpoints}) {
      writer.Put(static_cast<uint16_t>(endpoints->size()));
      for (const std::string& endpoint : *endpoints) writer.PutString(endpoint);
    }
  }
  writer.Put(static_cast<uint32_t>(map.tables.size()));
  for (const TableRoute& table : map.tables) {
    const TableSpec& spec = table.spec;
    writer.Put(spec.id.value);
    writer.PutString(spec.name);
    writer.Put(static_cast<uint8_t>(spec.kind));
    writer.Put(spec.row_width);
    writer.Put(spec.n_rows);
    writer.Put(static_cast<uint8_t>(spec.rule.kind));
    for (const float constant : spec.rule.constants) writer.Put(constant);
    writer.Put(static_cast<uint8_t>(spec.initializer.kind));
    writer.Put(spec.initializer.seed);
    writer.Put(spec.initializer.a);
    writer.Put(spec.initializer.b);
    writer.Put(spec.num_shards);
    writer.Put(spec.replication);
    writer.Put(static_cast<uint8_t>(spec.rounds.has_value()));
    writer.Put(spec.rounds.value_or(RoundsSpec{}).group.value);
    writer.Put(spec.rounds.value_or(RoundsSpec{}).first.value);
    for (const ShardView& view : table.views) {
      writer.Put(view.number.value);
      writer.Put(static_cast<uint8_t>((view.sealed ? kSealed : 0) |
                                      (view.read_only ? kReadOnly : 0) |
                                      (view.joiner ? kHasJoiner : 0)));
      writer.Put(view.n_members);
      for (const ServerId member : view.chain()) writer.Put(member.value);
      if (view.joiner) writer.Put(view.joiner->value);
    }
  }
  return writer.Take();
}

Status DecodeClusterMap(Bytes bytes, ClusterMap* map) {
  ByteReader reader(bytes);
  uint16_t format_version = 0;
  uint32_t n_sessions = 0, n_servers = 0, n_tables = 0;
  if (!reader.Get(&format_version) || format_version != kMapFormatVersion) {
    return Malformed("map: another format version");
  }
  if (!GetNumber(&reader, &map->cluster_id) || !GetNumber(&reader, &map->epoch) ||
      !GetNumber(&reader, &map->incarnation) || !GetNumber(&reader, &map->version) ||
      !GetNumber(&reader, &map->highest_session) || !reader.Get(&n_sessions)) {
    return Malformed("map: header cut short");
  }
  if (size_t{n_sessions} * kSessionBytes > reader.remaining()) {
    return Malformed("map: sessions cut short");
  }
  map->sessions.resize(n_sessions);
  for (SessionId& session : map->sessions) {
    if (!GetNumber(&reader, &session)) return Malformed("map: sessions cut short");
  }
  if (!reader.Get(&n_servers) || n_servers > limits::kServersMax) {
    return Malformed("map: number of servers");
  }
  map->servers.resize(n_servers);
  for (ServerInfo& server : map->servers) {
    if (Status status = DecodeServer(&reader, &server); !status.ok()) return status;
  }
  if (!reader.Get(&n_tables) || n_tables > limits::kTablesMax) {
    return Malformed("map: number of tables");
  }
  map->tables.clear();
  for (uint32_t i = 0; i < n_tables; ++i) {
    if (Status status = DecodeTable(&reader, &map->tables.emplace_back()); !status.ok()) {
      return status;
    }
  }
  if (reader.remaining() != 0) return Malformed("map: bytes left over");
  return CheckReferences(*map);
}

void PutTag(ByteWriter* writer, const char* tag) {
  for (size_t i = 0; i < kFrameTagBytes; ++i) writer->Put(tag[i]);
}

bool HasTag(Bytes frame, const char* tag) {
  return frame.size() >= kFrameTagBytes && std::memcmp(frame.data(), tag, kFrameTagBytes) == 0;
}

std::string EncodeHeartbeat(const Heartbeat& heartbeat) {
  ByteWriter writer;
  PutTag(&writer, kHeartbeatFrameTag);
  writer.Put(static_cast<uint8_t>(heartbeat.role));
  writer.Put(heartbeat.id);
  writer.Put(heartbeat.boot_id.bits[0]);
  writer.Put(heartbeat.boot_id.bits[1]);
  writer.Put(heartbeat.cluster_id.value);
  writer.Put(heartbeat.incarnation.value);
  writer.Put(heartbeat.map_version.value);
  writer.Put(heartbeat.rows);
  writer.Put(heartbeat.requests);
  writer.Put(heartbeat.clock);
  writer.Put(heartbeat.busy_us);
  writer.Put(heartbeat.heard);
  writer.Put(heartbeat.told_minimum);
  writer.Put(heartbeat.told_rounds);
  return writer.Take();
}

std::optional<Heartbeat> DecodeHeartbeat(Bytes frame) {
  if (!HasTag(frame, kHeartbeatFrameTag)) return std::nullopt;
  ByteReader reader(frame.subspan(kFrameTagBytes));
  Heartbeat heartbeat;
  uint8_t role = 0;
  if (!reader.Get(&role) || !reader.Get(&heartbeat.id) || !GetBootId(&reader, &heartbeat.boot_id) ||
      !GetNumber(&reader, &heartbeat.cluster_id) || !GetNumber(&reader, &heartbeat.incarnation) ||
      !GetNumber(&reader, &heartbeat.map_version) || !reader.Get(&heartbeat.rows) ||
      !reader.Get(&heartbeat.requests) || !reader.Get(&heartbeat.clock) ||
      !reader.Get(&heartbeat.busy_us) || !reader.Get(&heartbeat.heard) ||
      !reader.Get(&heartbeat.told_minimum) || !reader.Get(&heartbeat.told_rounds) ||
      reader.remaining() != 0) {
    return std::nullopt;
  }
  if (role != static_cast<uint8_t>(Role::kServer) && role != static_cast<uint8_t>(Role::kWorker)) {
    return std::nullopt;
  }
  heartbeat.role = static_cast<Role>(role);
  return heartbeat;
}

std::optional<Bytes> MapOfFrame(Bytes frame) {
  if (!HasTag(frame, kMapFrameTag)) return std::nullopt;
  return frame.subspan(kFrameTagBytes);
}

}  // namespace fastps
