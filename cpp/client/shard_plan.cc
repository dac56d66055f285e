#include "client/shard_plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace fastps {

LaneAddress LaneOfShard(const ClusterMap& map, const ShardView& view, ShardId shard, Use use) {
  const ServerId server = use == Use::kRead ? view.tail() : view.head();
  const ServerInfo* const info = map.FindServer(server);
  const size_t n_threads = info == nullptr ? 1 : std::max<size_t>(1, info->endpoints.size());
  return {server, ThreadOfShard(shard, static_cast<uint32_t>(n_threads))};
}

std::shared_ptr<const ShardPlan> ShardPlan::Make(std::shared_ptr<const ClusterMap> map,
                                                 TableId table, Use use) {
  const TableRoute* const route = map->FindTable(table);
  if (route == nullptr) return nullptr;
  auto plan = std::make_shared<ShardPlan>();
  const uint32_t num_shards = route->spec.num_shards;
  std::vector<LaneAddress> lane_of_shard(num_shards);
  for (uint32_t shard = 0; shard < num_shards; ++shard) {
    lane_of_shard[shard] = LaneOfShard(*map, route->views[shard], ShardId(shard), use);
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
  plan->use = use;
  plan->serves_both =
      std::ranges::all_of(route->views, [](const ShardView& view) { return view.n_members == 1; });
  plan->bounds = BoundsOf(route->spec.rule);
  plan->map = std::move(map);
  plan->route = route;
  return plan;
}

}  // namespace fastps
