#include "routing/cluster_map.h"

#include <algorithm>

namespace fastps {
namespace {

template <class Entries, class Id, class Project>
auto FindSorted(const Entries& entries, Id id, Project project) -> decltype(entries.data()) {
  const auto found = std::ranges::lower_bound(entries, id, {}, project);
  return found != entries.end() && project(*found) == id ? &*found : nullptr;
}

}  // namespace

const ServerInfo* ClusterMap::FindServer(ServerId id) const {
  return FindSorted(servers, id, [](const ServerInfo& server) { return server.id; });
}

const TableRoute* ClusterMap::FindTable(TableId id) const {
  return FindSorted(tables, id, [](const TableRoute& table) { return table.spec.id; });
}

bool ClusterMap::HasSession(SessionId session) const {
  return std::ranges::binary_search(sessions, session);
}

bool ClusterMap::IsLost(const ShardView& view) const {
  return std::ranges::all_of(view.chain(), [this](ServerId member) {
    const ServerInfo* const server = FindServer(member);
    return server == nullptr || server->lost;
  });
}

ElementRange DenseShardRange(uint64_t n_elements, uint32_t num_shards, ShardId shard) {
  // The first `longer` shards hold one element more, so sizes differ by at most one.
  const uint64_t shorter = n_elements / num_shards;
  const uint64_t longer = n_elements % num_shards;
  const uint64_t i = shard.value;
  const uint64_t begin = i * shorter + std::min(i, longer);
  return {begin, begin + shorter + (i < longer ? 1 : 0)};
}

}  // namespace fastps
