// ShardPlan: how the shards of one table lie on connections, worked out once per cluster map. A
// *lane* is one connection: to one data thread of one server. Immutable: any thread may read it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "routing/cluster_map.h"
#include "rules/update_rule.h"

namespace fastps {

// Which data thread of which process life of a server.
struct LaneAddress {
  ServerId server;
  ThreadId thread;
  friend auto operator<=>(const LaneAddress&, const LaneAddress&) = default;
};

// Writes go to the head of a shard's chain, reads to its tail.
enum class Use : uint8_t { kRead, kWrite };

LaneAddress LaneOfShard(const ClusterMap& map, const ShardView& view, ShardId shard, Use use);

struct ShardPlan {
  std::shared_ptr<const ClusterMap> map;  // keeps `route` alive
  const TableRoute* route = nullptr;
  Use use = Use::kRead;
  bool serves_both = false;            // every shard has one member: both uses have the same lanes
  std::vector<LaneAddress> lanes;      // those that hold a shard of this table
  std::vector<uint32_t> lane_of_rank;  // ranks order the shards by lane, then by number,
  std::vector<ShardId> shard_of_rank;  // so that the keys of one lane lie side by side
  std::vector<uint32_t> rank_of_shard;
  RuleBounds bounds;  // of the table's rule

  const TableSpec& spec() const { return route->spec; }

  // Null when the map has no such table.
  static std::shared_ptr<const ShardPlan> Make(std::shared_ptr<const ClusterMap> map, TableId table,
                                               Use use);
};

}  // namespace fastps
