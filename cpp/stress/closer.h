// Closer: which steps the workers of a group ended, which rounds are closed by that, and what
// servers and workers are told of it, in the order that ARCHITECTURE.md gives under "Consistency".
// It plays the scheduler's part. Any thread may call any method.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/mutex.h"
#include "base/types.h"
#include "stress/ledger.h"
#include "wire/notices.h"

namespace fastps::stress {

inline constexpr GroupId kGroup{7};
// Nobody works in it: its rounds close without members, between the others.
inline constexpr GroupId kOtherGroup{8};

class Closer {
 public:
  Closer(ClusterId cluster_id, size_t n_servers) : cluster_id_(cluster_id), heard_(n_servers) {}

  // From now on the ledger is told of each round before a server is.
  void Watch(std::shared_ptr<Ledger> ledger);
  void Unwatch(const Ledger* ledger);

  // A worker comes. Returns the clock it starts with: no less than its rank ended before.
  uint64_t Join(Rank rank, SessionId session);
  // The session ended all steps below `clock`. Others' and former words change nothing.
  void EndSteps(SessionId session, uint64_t clock);
  // Rounds wait for it no more; those whose step it ended keep it.
  void Leave(SessionId session);

  // How many rounds are closed.
  Round closed(GroupId group) const { return Round(group == kGroup ? closed_ : other_closed_); }
  // Rounds below it are folded on every server.
  Round folded() const { return Round(folded_); }

  // Closes what can be closed. `map_version` gives that of the newest map: a table which is in it
  // does not miss a round, and one that comes later starts behind all that are closed now.
  template <class MapVersionOf>
  void Advance(MapVersionOf map_version);

  // The rounds that a server which heard `heard` must hear, some again; no rounds: none.
  RoundsNotice RoundsAfter(uint64_t heard);
  void OnHeard(size_t server, uint64_t number);
  // Takes in what all servers heard. Call before NoticeFor.
  void Settle();
  // What a worker may know; nothing when it is not in the group.
  std::optional<ClockNotice> NoticeFor(SessionId session) const;

  uint64_t n_left_out() const;  // rounds that were closed without a worker who counted

 private:
  struct Worker {
    Rank rank;
    uint64_t clock;
  };
  struct Entry {
    ClosedRound round;
    MapVersion map_version;
  };

  uint64_t Closable() const FASTPS_REQUIRES(mutex_);
  uint64_t LowestClock() const FASTPS_REQUIRES(mutex_);
  void CloseOne(MapVersion map_version) FASTPS_REQUIRES(mutex_);

  const ClusterId cluster_id_;
  // Written under the mutex; read without it when a table is made.
  std::atomic<uint64_t> closed_{0};
  std::atomic<uint64_t> other_closed_{0};
  std::atomic<uint64_t> folded_{0};

  mutable Mutex mutex_;
  std::map<SessionId, Worker> workers_ FASTPS_GUARDED_BY(mutex_);
  std::map<Rank, uint64_t> ended_ FASTPS_GUARDED_BY(mutex_);  // the clocks of who left
  std::map<uint64_t, std::map<Rank, SessionId>> attending_ FASTPS_GUARDED_BY(mutex_);  // by round
  std::vector<Entry> log_ FASTPS_GUARDED_BY(mutex_);
  std::vector<uint64_t> heard_ FASTPS_GUARDED_BY(mutex_);  // by server
  uint64_t n_settled_ FASTPS_GUARDED_BY(mutex_) = 0;       // entries that all servers heard
  uint64_t minimum_ FASTPS_GUARDED_BY(mutex_) = 0;
  uint64_t n_left_out_ FASTPS_GUARDED_BY(mutex_) = 0;
  ClockNotice told_ FASTPS_GUARDED_BY(mutex_);  // but for session and clock
  std::vector<std::shared_ptr<Ledger>> ledgers_ FASTPS_GUARDED_BY(mutex_);
  std::mt19937_64 random_ FASTPS_GUARDED_BY(mutex_){1};
};

template <class MapVersionOf>
void Closer::Advance(MapVersionOf map_version) {
  MutexLock lock(mutex_);
  while (closed_ < Closable()) {
    // First the number, then the version: see Ground::AddTable.
    const uint64_t closing = closed_;
    const bool with_other = random_() % 4 == 0;
    closed_ = closing + 1;
    if (with_other) ++other_closed_;
    const MapVersion version = map_version();
    CloseOne(version);
    if (with_other) log_.push_back({{kOtherGroup, Round(other_closed_ - 1), {}}, version});
  }
  minimum_ = std::max(minimum_, std::min<uint64_t>(LowestClock(), closed_));
}

}  // namespace fastps::stress
