#include "stress/ledger.h"

#include <iterator>

namespace fastps::stress {

Ledger::Ledger(size_t n_rows, Round first) : n_rows_(n_rows), first_(first), closed_(first) {
  contents_.emplace(first, std::make_shared<const Counts>(n_rows));
}

void Ledger::NoteSent(SessionId session, Round round, std::span<const size_t> rows) {
  MutexLock lock(mutex_);
  if (round < closed_) return;  // it comes too late
  Counts& counts = sent_.try_emplace({round, session}, n_rows_).first->second;
  for (const size_t row : rows) ++counts[row];
}

void Ledger::Close(Round round, std::span<const RoundMember> members, Round oldest) {
  MutexLock lock(mutex_);
  if (round < first_) return;
  Counts counts = *contents_.rbegin()->second;
  for (const RoundMember& member : members) {
    const auto sent = sent_.find({round, member.session});
    if (sent == sent_.end()) continue;
    for (size_t row = 0; row < n_rows_; ++row) counts[row] += sent->second[row];
  }
  closed_ = Round(round.value + 1);
  contents_.emplace(closed_, std::make_shared<const Counts>(std::move(counts)));
  sent_.erase(sent_.begin(), sent_.lower_bound({closed_, SessionId(0)}));
  const auto kept = contents_.upper_bound(oldest);
  if (kept != contents_.begin()) contents_.erase(contents_.begin(), std::prev(kept));
}

std::vector<std::shared_ptr<const Ledger::Counts>> Ledger::Since(Round from) const {
  MutexLock lock(mutex_);
  auto next = contents_.upper_bound(from);
  if (next != contents_.begin()) --next;  // rounds that came before the table changed nothing
  std::vector<std::shared_ptr<const Counts>> all;
  for (; next != contents_.end(); ++next) all.push_back(next->second);
  return all;
}

}  // namespace fastps::stress
