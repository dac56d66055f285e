// Ledger: what a table under BSP must hold after each round. Every push adds 1.0 to each float of
// its rows, so that a row's contents is a count. Any thread may call any method.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"
#include "wire/notices.h"

namespace fastps::stress {

class Ledger {
 public:
  using Counts = std::vector<uint32_t>;  // by row

  // Rounds below `first` have no effect on the table.
  Ledger(size_t n_rows, Round first);

  // Call before the push is started. It will count if the session is a member of the round.
  void NoteSent(SessionId session, Round round, std::span<const size_t> rows);

  // Call before a server hears of it. What was before round `oldest` is asked for no more.
  void Close(Round round, std::span<const RoundMember> members, Round oldest);

  // What the table held when the rounds below each of `from`, `from` + 1 ... were closed, up to all
  // that are by now. One entry, when no more than those below `from` are closed.
  std::vector<std::shared_ptr<const Counts>> Since(Round from) const;

 private:
  const size_t n_rows_;
  const Round first_;
  mutable Mutex mutex_;
  std::map<std::pair<Round, SessionId>, Counts> sent_ FASTPS_GUARDED_BY(mutex_);
  // By round: with all rounds below it.
  std::map<Round, std::shared_ptr<const Counts>> contents_ FASTPS_GUARDED_BY(mutex_);
  Round closed_ FASTPS_GUARDED_BY(mutex_);  // all rounds below
};

}  // namespace fastps::stress
