// Steps of the control sockets: maps, heartbeats, reports and notices.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "client/shard_plan.h"
#include "fuzz/victim.h"
#include "wire/map_codec.h"
#include "wire/notices.h"
#include "wire/reports.h"

namespace fastps::fuzz {
namespace {

constexpr uint64_t kElementsMax = 1 << 16;  // of a map that is installed

bool IsSame(const std::string& encoded, Bytes bytes) {
  return std::ranges::equal(std::as_bytes(std::span(encoded)), bytes);
}

}  // namespace

void TakeMap(Victim& victim, Bytes bytes) {
  auto map = std::make_shared<ClusterMap>();
  if (!DecodeClusterMap(bytes, map.get()).ok()) return;
  const std::string encoded = EncodeClusterMap(*map);
  ClusterMap again;
  FASTPS_CHECK(DecodeClusterMap(std::as_bytes(std::span(encoded)), &again).ok());
  FASTPS_CHECK(EncodeClusterMap(again) == encoded);
  uint64_t n_elements = 0;
  for (const TableRoute& table : map->tables) {
    FASTPS_CHECK(ShardPlan::Make(map, table.spec.id, Use::kWrite) != nullptr);
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
  FASTPS_CHECK(IsSame(EncodeHeartbeat(*heartbeat), bytes));
}

void TakeReport(Bytes bytes) {
  const std::optional<Report> report = DecodeReport(bytes);
  if (!report) return;
  FASTPS_CHECK(IsSame(EncodeReport(*report), bytes));
}

void TakeClocks(Victim& victim, Bytes bytes) {
  std::optional<ClockNotice> notice = DecodeClockNotice(bytes);
  if (!notice) return;
  FASTPS_CHECK(IsSame(EncodeClockNotice(*notice), bytes));
  notice->session = SessionId(1 + notice->session.value % 2);
  notice->map_version = MapVersion(notice->map_version.value % 3);
  const ClockNotice before = victim.worker().told();
  victim.worker().InstallClocks(*notice);
  const ClockNotice after = victim.worker().told();
  FASTPS_CHECK(after.number >= before.number);
  FASTPS_CHECK(after.number > before.number || after.clock >= before.clock);
  victim.RunGated();
}

void TakeRounds(Victim& victim, Bytes bytes) {
  std::optional<RoundsNotice> notice = DecodeRoundsNotice(bytes);
  if (!notice) return;
  FASTPS_CHECK(IsSame(EncodeRoundsNotice(*notice), bytes));
  // Near enough to be taken now and then.
  notice->cluster_id = FirstMap()->cluster_id;
  notice->map_version = MapVersion(notice->map_version.value % 3);
  notice->first_number = 1 + notice->first_number % 4;
  for (ClosedRound& round : notice->rounds) round.group = GroupId(round.group.value % 3);
  const uint64_t n_rounds = notice->rounds.size();
  const uint64_t before = victim.handler.taken();
  victim.handler.CloseRounds(std::move(*notice));
  const uint64_t after = victim.handler.taken();
  FASTPS_CHECK(after >= before && after - before <= n_rounds);
  victim.handler.FoldClosed();
  FASTPS_CHECK(victim.handler.heard() == after);
  (void)victim.handler.n_rows();
}

}  // namespace fastps::fuzz
