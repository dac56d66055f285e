#include "server/begun_cuts.h"

namespace fastps {

void BegunCuts::Add(const CutId& id, TableId table, ShardId shard, std::shared_ptr<Shard> cut) {
  Shards others;
  CutId other;
  {
    MutexLock lock(mutex_);
    if (id_ != id) {
      others = std::exchange(shards_, {});
      other = std::exchange(id_, id);
    }
    shards_[{table, shard}].swap(cut);
  }
  for (const auto& [name, held] : others) held->DropCut(other);
}

std::shared_ptr<Shard> BegunCuts::Find(const CutId& id, TableId table, ShardId shard) {
  MutexLock lock(mutex_);
  const auto found = shards_.find({table, shard});
  return id_ == id && found != shards_.end() ? found->second : nullptr;
}

void BegunCuts::Finish(const CutId& id, TableId table, ShardId shard) {
  (void)Take(id, table, shard);
}

void BegunCuts::Drop(const CutId& id, TableId table, ShardId shard) {
  if (const std::shared_ptr<Shard> cut = Take(id, table, shard); cut != nullptr) cut->DropCut(id);
}

std::shared_ptr<Shard> BegunCuts::Take(const CutId& id, TableId table, ShardId shard) {
  MutexLock lock(mutex_);
  const auto found = shards_.find({table, shard});
  if (id_ != id || found == shards_.end()) return nullptr;
  std::shared_ptr<Shard> taken = std::move(found->second);
  shards_.erase(found);
  return taken;
}

}  // namespace fastps
