#include "stress/closer.h"

#include <algorithm>
#include <utility>

namespace fastps::stress {
namespace {

constexpr uint64_t kRoundsKept = 64;  // of the ledgers, beside those that workers may ask for
constexpr size_t kRoundsInNotice = 16;

// Every other hundred rounds is closed without the slowest worker.
uint64_t BackupOf(uint64_t round) { return round / 100 % 2; }

}  // namespace

void Closer::Watch(std::shared_ptr<Ledger> ledger) {
  MutexLock lock(mutex_);
  ledgers_.push_back(std::move(ledger));
}

void Closer::Unwatch(const Ledger* ledger) {
  MutexLock lock(mutex_);
  std::erase_if(ledgers_, [ledger](const auto& each) { return each.get() == ledger; });
}

uint64_t Closer::Join(Rank rank, SessionId session) {
  MutexLock lock(mutex_);
  const uint64_t clock = std::max(minimum_, ended_[rank]);
  workers_[session] = {rank, clock};
  return clock;
}

void Closer::EndSteps(SessionId session, uint64_t clock) {
  MutexLock lock(mutex_);
  const auto found = workers_.find(session);
  if (found == workers_.end() || clock <= found->second.clock) return;
  Worker& worker = found->second;
  // Steps whose round is closed already count for nothing, and it goes on at the open round.
  const uint64_t first = std::max<uint64_t>(worker.clock, closed_);
  for (uint64_t round = first; round < clock; ++round) attending_[round][worker.rank] = session;
  worker.clock = std::max(first, clock);
}

void Closer::Leave(SessionId session) {
  MutexLock lock(mutex_);
  const auto found = workers_.find(session);
  if (found == workers_.end()) return;
  ended_[found->second.rank] = found->second.clock;
  workers_.erase(found);
}

uint64_t Closer::Closable() const {
  if (workers_.empty()) return 0;
  std::vector<uint64_t> clocks;
  for (const auto& [session, worker] : workers_) clocks.push_back(worker.clock);
  std::ranges::sort(clocks);
  return clocks[std::min<size_t>(BackupOf(closed_), clocks.size() - 1)];
}

uint64_t Closer::LowestClock() const {
  if (workers_.empty()) return 0;
  uint64_t lowest = closed_;
  for (const auto& [session, worker] : workers_) lowest = std::min(lowest, worker.clock);
  return lowest;
}

void Closer::CloseOne(MapVersion map_version) {
  const uint64_t closing = closed_ - 1;
  ClosedRound round{kGroup, Round(closing), {}};
  for (const auto& [rank, session] : attending_[closing]) round.members.push_back({rank, session});
  attending_.erase(attending_.begin(), attending_.upper_bound(closing));
  if (LowestClock() <= closing) ++n_left_out_;
  const uint64_t needed = std::min<uint64_t>(minimum_, folded_);
  const Round oldest(needed > kRoundsKept ? needed - kRoundsKept : 0);
  for (const auto& ledger : ledgers_) ledger->Close(round.round, round.members, oldest);
  log_.push_back({std::move(round), map_version});
}

RoundsNotice Closer::RoundsAfter(uint64_t heard) {
  MutexLock lock(mutex_);
  RoundsNotice notice;
  notice.cluster_id = cluster_id_;
  if (heard >= log_.size()) return notice;
  const uint64_t first = heard - std::min<uint64_t>(heard, random_() % 3);
  const uint64_t last = std::min<uint64_t>(log_.size(), heard + kRoundsInNotice);
  notice.first_number = first + 1;
  notice.forgotten = n_settled_;
  for (uint64_t i = first; i < last; ++i) notice.rounds.push_back(log_[i].round);
  notice.map_version = log_[last - 1].map_version;
  return notice;
}

void Closer::OnHeard(size_t server, uint64_t number) {
  MutexLock lock(mutex_);
  heard_[server] = std::max(heard_[server], number);
}

void Closer::Settle() {
  MutexLock lock(mutex_);
  const uint64_t n_settled = *std::ranges::min_element(heard_);
  for (; n_settled_ < n_settled; ++n_settled_) {
    const Entry& entry = log_[n_settled_];
    if (entry.round.group == kGroup) folded_ = entry.round.round.value + 1;
    told_.map_version = entry.map_version;
  }
  // With backup workers the minimum also moves by itself.
  const uint64_t minimum = std::min<uint64_t>(minimum_, folded_);
  if (told_.rounds == folded_ && told_.minimum == minimum) return;
  ++told_.number;
  told_.rounds = folded_;
  told_.minimum = minimum;
}

std::optional<ClockNotice> Closer::NoticeFor(SessionId session) const {
  MutexLock lock(mutex_);
  const auto found = workers_.find(session);
  if (found == workers_.end()) return std::nullopt;
  ClockNotice notice = told_;
  notice.cluster_id = cluster_id_;
  notice.session = session;
  notice.clock = found->second.clock;
  return notice;
}

uint64_t Closer::n_left_out() const {
  MutexLock lock(mutex_);
  return n_left_out_;
}

}  // namespace fastps::stress
