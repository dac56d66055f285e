#include "server/shard_cuts.h"

#include <algorithm>
#include <string>

#include "routing/cluster_map.h"

namespace fastps {
namespace {

std::string NameOf(TableId table, ShardId shard) {
  return "shard " + std::to_string(shard.value) + " of table number " + std::to_string(table.value);
}

Status CheckKeys(const TailShard& to, std::span<const Key> keys) {
  const auto is_elsewhere = [&](Key key) { return ShardOfKey(key, to.spec->num_shards) != to.id; };
  const auto stray = std::ranges::find_if(keys, is_elsewhere);
  if (stray == keys.end()) return {};
  return {Code::kConfig,
          "key " + std::to_string(*stray) + " does not belong to " + NameOf(to.spec->id, to.id)};
}

}  // namespace

Status FindTail(const RequestHandler& handler, TableId table, ShardId shard,
                const std::optional<ViewNumber>& view, TailShard* found) {
  const std::shared_ptr<const Snapshot> snapshot = handler.snapshot();
  const TableRoute* const route = snapshot->map->FindTable(table);
  const auto served = snapshot->tables.find(table);
  if (route == nullptr || snapshot->self == nullptr || served == snapshot->tables.end()) {
    return {Code::kConfig, "there is no table number " + std::to_string(table.value) + " here"};
  }
  if (shard.value >= route->views.size()) {
    return {Code::kConfig, "there is no " + NameOf(table, shard)};
  }
  const ShardView& current = route->views[shard.value];
  const std::shared_ptr<Shard>& held = served->second->shards[shard.value];
  if (held == nullptr || current.tail() != snapshot->self->id) {
    return {Code::kConfig, "this server is not the tail of " + NameOf(table, shard)};
  }
  if (view && *view != current.number) {
    return {Code::kConfig, NameOf(table, shard) + " is in view " +
                               std::to_string(current.number.value) + ", not " +
                               std::to_string(view->value) + ": its chain changed"};
  }
  *found = {served->second->spec, shard, current.number, held};
  return {};
}

Status FindCut(RequestHandler& handler, TableId table, ShardId shard, const CutId& id,
               std::shared_ptr<Shard>* found) {
  *found = handler.cuts().Find(id, table, shard);
  if (*found != nullptr) return {};
  return {Code::kConfig, "the cut is not under way in " + NameOf(table, shard) +
                             " here: it was ended, or did not begin"};
}

Status LoadRows(const TailShard& to, std::span<const Key> keys, std::span<const float> rows) {
  if (Status status = CheckKeys(to, keys); !status.ok()) return status;
  return to.shard->LoadRows(keys, rows);
}

Status LoadRemoved(const TailShard& to, std::span<const Key> keys) {
  if (Status status = CheckKeys(to, keys); !status.ok()) return status;
  return to.shard->LoadRemoved(keys);
}

}  // namespace fastps
