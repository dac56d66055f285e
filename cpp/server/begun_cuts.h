// BegunCuts: the shards of one server in which a cut is under way. What a cut holds is fixed once
// it has begun, so it is read from the shard it began in, whatever the map says of that shard
// meanwhile: another tail may answer for it, or this server may hold it no more. Any thread may
// call any method.
#pragma once

#include <map>
#include <memory>
#include <utility>

#include "base/mutex.h"
#include "base/types.h"
#include "store/shard.h"
#include "store/shard_cut.h"

namespace fastps {

class BegunCuts {
 public:
  // Keeps a shard in which the cut `id` has begun. A server takes part in one save at a time: cuts
  // of other ids are dropped.
  void Add(const CutId& id, TableId table, ShardId shard, std::shared_ptr<Shard> cut);
  // The shard; null: the cut was not begun there, or it is over.
  std::shared_ptr<Shard> Find(const CutId& id, TableId table, ShardId shard);
  // Lets go of a shard whose cut was read to its end.
  void Finish(const CutId& id, TableId table, ShardId shard);
  // Drops the cut of one shard, if it is under way.
  void Drop(const CutId& id, TableId table, ShardId shard);

 private:
  using Shards = std::map<std::pair<TableId, ShardId>, std::shared_ptr<Shard>>;

  // Takes a shard out; null: it is not there.
  std::shared_ptr<Shard> Take(const CutId& id, TableId table, ShardId shard);

  Mutex mutex_;  // not held while a shard is locked or goes
  CutId id_ FASTPS_GUARDED_BY(mutex_);
  Shards shards_ FASTPS_GUARDED_BY(mutex_);  // all of the cut id_
};

}  // namespace fastps
