// ClusterMap: which servers there are, which tables, and where each shard lives. Immutable once
// built: any thread may read it; a newer map replaces it as a whole.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/types.h"
#include "routing/table_spec.h"

namespace fastps {

struct ServerInfo {
  ServerId id;
  BootId boot_id;
  bool lost = false;                   // it will not answer again; what only it held is lost
  std::vector<std::string> endpoints;  // one per data thread; empty when embedded
};

// Where the shards of one table live. All vectors have one entry per shard.
struct TableRoute {
  TableSpec spec;
  std::vector<ServerId> servers;
  std::vector<ViewNumber> views;
};

struct ClusterMap {
  ClusterId cluster_id;
  Epoch epoch;
  Incarnation incarnation;
  MapVersion version;
  SessionId highest_session;        // the highest ever issued when this map was made
  std::vector<SessionId> sessions;  // the live ones, sorted
  std::vector<ServerInfo> servers;  // sorted by id
  std::vector<TableRoute> tables;   // sorted by id

  const ServerInfo* FindServer(ServerId id) const;
  const TableRoute* FindTable(TableId id) const;
  bool HasSession(SessionId session) const;
};

// The shard that holds `key` in a sparse table.
inline ShardId ShardOfKey(Key key, uint32_t num_shards) {
  return ShardId(static_cast<uint32_t>(ReduceRange(MixKey(key), num_shards)));
}

// The data thread of a server that serves `shard`.
inline ThreadId ThreadOfShard(ShardId shard, uint32_t data_threads) {
  return ThreadId(shard.value % data_threads);
}

// The elements [begin, end) of a dense table, in row-major order, that `shard` holds.
struct ElementRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t size() const { return end - begin; }
};
ElementRange DenseShardRange(uint64_t n_elements, uint32_t num_shards, ShardId shard);

// Which part of row `row` lies in `block`: empty (begin == end) when none does.
inline ElementRange RowWithinBlock(uint64_t row, uint64_t row_width, ElementRange block) {
  const uint64_t begin = row * row_width > block.begin ? row * row_width : block.begin;
  const uint64_t end = (row + 1) * row_width < block.end ? (row + 1) * row_width : block.end;
  return begin < end ? ElementRange{begin, end} : ElementRange{};
}

}  // namespace fastps
