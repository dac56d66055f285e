// FoldsTold: of which rounds the user was told that a fold left something out. A table's rounds
// concern a client from its own first step there on, and are told once. Any thread may call any
// method.
#pragma once

#include <cstdint>
#include <map>

#include "base/mutex.h"
#include "base/types.h"

namespace fastps {

class FoldsTold {
 public:
  // A call at `step` of a table under BSP begins.
  void OnCall(TableId table, uint64_t step) {
    MutexLock lock(mutex_);
    news_from_.try_emplace(table, step);
  }

  // Whether the user is to be told, now, that the fold of `round` left something out.
  bool IsNews(TableId table, uint64_t round) {
    MutexLock lock(mutex_);
    const auto from = news_from_.find(table);
    if (from == news_from_.end() || round < from->second) return false;
    from->second = round + 1;
    return true;
  }

 private:
  Mutex mutex_;
  std::map<TableId, uint64_t> news_from_ FASTPS_GUARDED_BY(mutex_);  // earlier rounds are no news
};

}  // namespace fastps
