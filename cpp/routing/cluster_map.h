// ClusterMap: which servers there are, which tables, and where each shard lives. Immutable once
// built: any thread may read it; a newer map replaces it as a whole.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/limits.h"
#include "base/types.h"
#include "routing/table_spec.h"

namespace fastps {

struct ServerInfo {
  ServerId id;
  BootId boot_id;
  bool lost = false;                         // it will not answer again; what only it held is lost
  std::vector<std::string> endpoints;        // one per data thread; empty when embedded
  std::vector<std::string> chain_endpoints;  // where predecessors in chains send to, as above
};

// Who holds one shard. Writes go to the head of the chain and flow down to the tail, which answers
// reads: what it has, all have (van Renesse, Schneider 2004).
struct ShardView {
  ViewNumber number;
  std::array<ServerId, limits::kReplicationMax> members{};
  uint8_t n_members = 0;   // at least 1
  bool sealed = false;     // about to change: the head takes nothing, the tail answers nothing
  bool read_only = false;  // too few copies to take writes
  std::optional<ServerId> joiner;  // is being filled by the tail

  std::span<const ServerId> chain() const { return {members.data(), n_members}; }
  ServerId head() const { return members[0]; }
  ServerId tail() const { return members[n_members - 1]; }
  bool HasMember(ServerId server) const {
    for (const ServerId member : chain()) {
      if (member == server) return true;
    }
    return false;
  }
  friend bool operator==(const ShardView& a, const ShardView& b) {
    return a.number == b.number && a.sealed == b.sealed && a.read_only == b.read_only &&
           a.joiner == b.joiner && a.n_members == b.n_members && a.members == b.members;
  }
};

// Where the shards of one table live.
struct TableRoute {
  TableSpec spec;
  std::vector<ShardView> views;  // one per shard
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
  // Whether every server that held the shard in `view` is lost.
  bool IsLost(const ShardView& view) const;
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
