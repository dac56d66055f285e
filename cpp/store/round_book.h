// RoundBook: which rounds of a worker group are closed, and whose pushes they hold. One object per
// group on each server; its shards read it when they fold. Any thread may call any method.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"
#include "wire/notices.h"

namespace fastps {

class RoundBook {
 public:
  // By rank. Null while the round is not known to be closed, and after it was forgotten.
  using Members = std::shared_ptr<const std::vector<RoundMember>>;

  void Close(Round round, std::vector<RoundMember> members) {
    MutexLock lock(mutex_);
    closed_.emplace(round, std::make_shared<const std::vector<RoundMember>>(std::move(members)));
  }

  Members MembersOf(Round round) const {
    MutexLock lock(mutex_);
    const auto found = closed_.find(round);
    return found == closed_.end() ? nullptr : found->second;
  }

  // Every shard here has folded the rounds up to `last`.
  void Forget(Round last) {
    MutexLock lock(mutex_);
    closed_.erase(closed_.begin(), closed_.upper_bound(last));
  }

 private:
  mutable Mutex mutex_;
  std::map<Round, Members> closed_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
