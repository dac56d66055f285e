#include "client/shard_plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace fastps {

std::shared_ptr<const ShardPlan> ShardPlan::Make(std::shared_ptr<const ClusterMap> map,
                                                 TableId table) {
  const TableRoute* const route = map->FindTable(table);
  if (route == nullptr) return nullptr;
  auto plan = std::make_shared<ShardPlan>();
  const uint32_t num_shards = route->spec.num_shards;
  std::vector<LaneAddress> lane_of_shard(num_shards);
  for (uint32_t shard = 0; shard < num_shards; ++shard) {
    const ServerId server = route->views[shard].head();
    const size_t n_threads = std::max<size_t>(1, map->FindServer(server)->endpoints.size());
    lane_of_shard[shard] = {server,
                            ThreadOfShard(ShardId(shard), static_cast<uint32_t>(n_threads))};
  }
  plan->lanes = lane_of_shard;
  std::ranges::sort(plan->lanes);
  plan->lanes.erase(std::unique(plan->lanes.begin(), plan->lanes.end()), plan->lanes.end());

  std::vector<uint32_t> shards(num_shards);
  std::iota(shards.begin(), shards.end(), 0u);
  std::ranges::stable_sort(shards, {}, [&](uint32_t shard) { return lane_of_shard[shard]; });
  plan->rank_of_shard.resize(num_shards);
  for (uint32_t rank = 0; rank < num_shards; ++rank) {
    const uint32_t shard = shards[rank];
    const auto lane = std::ranges::lower_bound(plan->lanes, lane_of_shard[shard]);
    plan->rank_of_shard[shard] = rank;
    plan->shard_of_rank.push_back(ShardId(shard));
    plan->lane_of_rank.push_back(static_cast<uint32_t>(lane - plan->lanes.begin()));
  }
  plan->map = std::move(map);
  plan->route = route;
  return plan;
}

}  // namespace fastps
