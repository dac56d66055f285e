// ShardPlan: how the shards of one table lie on connections, worked out once per cluster map. A
// *lane* is one connection: to one data thread of one server. Immutable: any thread may read it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "routing/cluster_map.h"

namespace fastps {

// Which data thread of which process life of a server.
struct LaneAddress {
  ServerId server;
  ThreadId thread;
  friend auto operator<=>(const LaneAddress&, const LaneAddress&) = default;
};

struct ShardPlan {
  std::shared_ptr<const ClusterMap> map;  // keeps `route` alive
  const TableRoute* route = nullptr;
  std::vector<LaneAddress> lanes;      // those that hold a shard of this table
  std::vector<uint32_t> lane_of_rank;  // ranks order the shards by lane, then by number,
  std::vector<ShardId> shard_of_rank;  // so that the keys of one lane lie side by side
  std::vector<uint32_t> rank_of_shard;

  const TableSpec& spec() const { return route->spec; }

  static std::shared_ptr<const ShardPlan> Make(std::shared_ptr<const ClusterMap> map,
                                               TableId table);
};

}  // namespace fastps
