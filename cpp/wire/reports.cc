#include "wire/reports.h"

#include "wire/map_codec.h"

namespace fastps {
namespace {

constexpr size_t kServerBytes = 4;
constexpr size_t kShardBytes = 4 + 4 + 4 + 8 + 8 + 1;

bool GetShard(ByteReader* reader, ShardProgress* shard) {
  uint8_t state = 0;
  if (!reader->Get(&shard->table.value) || !reader->Get(&shard->shard.value) ||
      !reader->Get(&shard->view.value) || !reader->Get(&shard->index.value) ||
      !reader->Get(&shard->folded.value) || !reader->Get(&state)) {
    return false;
  }
  shard->state = static_cast<ShardProgress::State>(state);
  return state >= static_cast<uint8_t>(ShardProgress::State::kMember) &&
         state <= static_cast<uint8_t>(ShardProgress::State::kFilled);
}

}  // namespace

std::string EncodeReport(const Report& report) {
  ByteWriter writer;
  PutTag(&writer, kReportTag);
  writer.Put(report.cluster_id.value);
  writer.Put(report.server.value);
  writer.Put(report.boot_id.bits[0]);
  writer.Put(report.boot_id.bits[1]);
  writer.Put(report.map_version.value);
  writer.Put(static_cast<uint32_t>(report.silent.size()));
  for (const ServerId server : report.silent) writer.Put(server.value);
  writer.Put(static_cast<uint32_t>(report.shards.size()));
  for (const ShardProgress& shard : report.shards) {
    writer.Put(shard.table.value);
    writer.Put(shard.shard.value);
    writer.Put(shard.view.value);
    writer.Put(shard.index.value);
    writer.Put(shard.folded.value);
    writer.Put(static_cast<uint8_t>(shard.state));
  }
  return writer.Take();
}

std::optional<Report> DecodeReport(Bytes frame) {
  if (!HasTag(frame, kReportTag)) return std::nullopt;
  ByteReader reader(frame.subspan(kFrameTagBytes));
  Report report;
  uint32_t n_silent = 0, n_shards = 0;
  if (!reader.Get(&report.cluster_id.value) || !reader.Get(&report.server.value) ||
      !reader.Get(&report.boot_id.bits[0]) || !reader.Get(&report.boot_id.bits[1]) ||
      !reader.Get(&report.map_version.value) || !reader.Get(&n_silent) ||
      size_t{n_silent} * kServerBytes > reader.remaining()) {
    return std::nullopt;
  }
  report.silent.resize(n_silent);
  for (ServerId& server : report.silent) {
    if (!reader.Get(&server.value)) return std::nullopt;
  }
  if (!reader.Get(&n_shards) || size_t{n_shards} * kShardBytes != reader.remaining()) {
    return std::nullopt;
  }
  report.shards.resize(n_shards);
  for (ShardProgress& shard : report.shards) {
    if (!GetShard(&reader, &shard)) return std::nullopt;
  }
  return report;
}

}  // namespace fastps
