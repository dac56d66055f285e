// Cuts and loads of the shards of one server, for saves and restores: finds the shard that is meant
// and checks that it is this server's to speak for. What was cut is what the tail of the chain has:
// every copy before it has that too. Any thread may call any function.
//
// A failure is kConfig and says why; kRetry: the same may succeed a little later.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/status.h"
#include "base/types.h"
#include "server/request_handler.h"
#include "store/shard.h"
#include "store/shard_cut.h"

namespace fastps {

// A shard, with what it needs to live.
struct TailShard {
  std::shared_ptr<const TableSpec> spec;
  ShardId id;
  ViewNumber view;
  std::shared_ptr<Shard> shard;
};

// The shard if this server is its tail in the map in force and, where `view` is given, in that
// view; sealed or not.
Status FindTail(const RequestHandler& handler, TableId table, ShardId shard,
                const std::optional<ViewNumber>& view, TailShard* found);

// The shard in which the cut is under way, whatever the map says of it by now.
Status FindCut(RequestHandler& handler, TableId table, ShardId shard, const CutId& id,
               std::shared_ptr<Shard>* found);

// Shard::LoadRows and LoadRemoved, of keys that are all this shard's.
Status LoadRows(const TailShard& to, std::span<const Key> keys, std::span<const float> rows);
Status LoadRemoved(const TailShard& to, std::span<const Key> keys);

}  // namespace fastps
