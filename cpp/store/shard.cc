#include "store/shard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "kernels/kernels.h"

namespace fastps {

Shard::Answer Shard::SessionRecord::AnswerOf(Sequence sequence) const {
  const auto found = unusual.find(sequence.value);
  return found == unusual.end() ? Answer{} : found->second;
}

void Shard::SessionRecord::Remember(Sequence sequence, Answer answer) {
  static_assert(kDetailsKept == limits::kWritesInFlightPerShardMax);
  last = sequence;
  if (sequence.value > kDetailsKept) {
    unusual.erase(unusual.begin(), unusual.upper_bound(sequence.value - kDetailsKept));
  }
  if (answer.code != Code::kOk || answer.detail != 0) unusual[sequence.value] = answer;
}

WriteResult Shard::Apply(const Write& write) {
  MutexLock lock(mutex_);
  Fold();
  WriteResult result = Take(write);
  result.index = apply_index_;
  return result;
}

WriteResult Shard::Take(const Write& write) {
  const bool is_numbered = write.sequence != Sequence(0);
  if (is_numbered) {
    const auto known = sessions_.find(write.session);
    const uint64_t last = known == sessions_.end() ? 0 : known->second.last.value;
    if (write.sequence.value <= last) {
      const Answer answer = known->second.AnswerOf(write.sequence);
      return {answer.code, answer.detail};
    }
    if (write.sequence.value > last + 1) return {Code::kGap, last + 1};
  }
  if (!IsTimeOf(write)) return {Code::kRetry};
  if (write.key_set.n_omitted > 0 && !KnowsForPush(write.key_set)) return {Code::kNeedKeys};
  WriteResult result = Execute(write);
  result.is_entry = true;
  ++apply_index_.value;
  if (is_numbered) {
    sessions_[write.session].Remember(write.sequence, {result.code, result.detail});
  }
  return result;
}

bool Shard::IsTimeOf(const Write& write) {
  if (!is_bsp() || !write.step) return true;
  if (write.kind == Write::Kind::kPush) {
    return pending_.StateOf(*write.step) != PendingRounds::State::kAhead;
  }
  return *write.step <= pending_.folded();
}

void Shard::Fold() {
  if (!is_bsp() || !leads_) return;
  while (const RoundBook::Members members = book_->MembersOf(pending_.folded())) {
    const Round round = pending_.folded();
    FoldNext(*members);
    if (logs_folds_) folds_.push_back({apply_index_, round, *members});
  }
}

void Shard::FoldNext(const std::vector<RoundMember>& members) {
  const std::optional<Gradients> sum = pending_.Fold(members, *data_);
  if (sum) {
    const LeftOut left_out = data_->PushWhatFits(sum->selection, sum->values.data());
    if (left_out.n > 0) {
      left_out_ = {left_out_.n + left_out.n, pending_.folded().value - 1, left_out.first};
    }
  }
  ++apply_index_.value;
}

void Shard::FoldClosed() {
  MutexLock lock(mutex_);
  Fold();
}

void Shard::SetLeads(bool leads, bool logs) {
  MutexLock lock(mutex_);
  leads_ = leads;
  logs_folds_ = logs;
}

std::vector<FoldEntry> Shard::TakeFolds() {
  MutexLock lock(mutex_);
  return std::exchange(folds_, {});
}

WriteResult Shard::Execute(const Write& write) {
  // Another group's, or from somebody who takes the table for another.
  if (is_bsp() && !write.step) return {Code::kConfig};
  if (write.key_set.n_omitted > 0) return PushKnown(write);
  if (write.kind == Write::Kind::kRemove) {
    if (const Code code = data_->Check(write.selection); code != Code::kOk) return {code};
    if (!data_->is_sparse()) return {Code::kShapeMismatch};
    return {Code::kOk, data_->Remove(write.selection)};
  }
  if (write.kind == Write::Kind::kSetLr) return SetLr(write);
  const Checked checked = CheckContent(write.kind, write.selection, write.values);
  if (checked.code != Code::kOk) return {checked.code, checked.detail};
  if (write.kind == Write::Kind::kAssign) {
    data_->Assign(write.selection, write.values.data());
    return {};
  }
  return is_bsp() ? PushToRound(write) : Push(write, checked.are_tame);
}

Shard::Checked Shard::CheckContent(Write::Kind kind, Selection selection,
                                   std::span<const float> values) {
  if (const Code code = data_->Check(selection); code != Code::kOk) return {code};
  if (values.size() != data_->ValueCount(selection)) return {Code::kShapeMismatch};
  return CheckValues(kind, values);
}

Shard::Checked Shard::CheckValues(Write::Kind kind, std::span<const float> values) {
  const Kernels& kernels = ActiveKernels();
  const RuleBounds& bounds = data_->rule().bounds();
  const bool is_push = kind == Write::Kind::kPush;
  const float most = is_push ? bounds.gradient_max : bounds.assign_max;
  // Nearly always one look is enough.
  if (is_push && kTameGradient <= most &&
      kernels.all_within(values.data(), values.size(), kTameGradient)) {
    return {.are_tame = true};
  }
  if (kernels.all_within(values.data(), values.size(), most)) return {};
  const auto unfit =
      std::ranges::find_if(values, [most](float value) { return !(std::fabs(value) <= most); });
  return {Code::kValueRange, static_cast<uint64_t>(unfit - values.begin()) + 1};
}

WriteResult Shard::PushToRound(const Write& write) {
  if (pending_.StateOf(*write.step) == PendingRounds::State::kFolded) {
    ++n_late_;
    return {Code::kOk, 1};
  }
  pending_.Add(write.session, *write.step, write.selection, write.values, *data_);
  return {};
}

WriteResult Shard::Push(const Write& write, bool are_tame) {
  if (const auto unfit = data_->Push(write.selection, write.values.data(), are_tame)) {
    return {Code::kValueRange, *unfit + 1};
  }
  const bool wanted = write.key_set.ref.part != 0;
  return {Code::kOk, 0, wanted && data_->Remember(write.key_set.ref, write.selection)};
}

// What waits for its round needs its keys: the rows may go before it closes.
bool Shard::KnowsForPush(const KeySetUse& key_set) {
  return !is_bsp() && data_->Knows(key_set.ref, key_set.n_omitted);
}

// Requires: KnowsForPush.
WriteResult Shard::PushKnown(const Write& write) {
  const KeySetUse& key_set = write.key_set;
  if (write.values.size() != key_set.n_omitted * data_->row_width()) return {Code::kShapeMismatch};
  const Checked checked = CheckValues(Write::Kind::kPush, write.values);
  if (checked.code != Code::kOk) return {checked.code, checked.detail};
  if (const auto unfit = data_->PushKnown(key_set.ref, write.values.data(), checked.are_tame)) {
    return {Code::kValueRange, *unfit + 1};
  }
  return {Code::kOk, 0, true};
}

void Shard::TakeRate(const RuleSpec& rule) {
  const float lr = rule.constants[0];
  // The table's shards share its rule as long as they can.
  if (std::memcmp(&lr, &data_->rule_spec().constants[0], sizeof(lr)) != 0) (void)data_->SetLr(lr);
}

WriteResult Shard::SetLr(const Write& write) {
  if (!write.selection.empty() || write.values.size() != 1) return {Code::kShapeMismatch};
  return {data_->SetLr(write.values[0])};
}

EntryFate Shard::ApplyEntry(const Entry& entry) {
  MutexLock lock(mutex_);
  if (entry.index <= apply_index_) return EntryFate::kOld;
  if (entry.index.value != apply_index_.value + 1) return EntryFate::kGap;
  if (!IsPossible(entry)) return EntryFate::kMalformed;
  if (HasEffect(entry.kind, entry.code, entry.detail)) {
    if (!Replay(entry)) return EntryFate::kMalformed;
  } else if (entry.code == Code::kOk) {
    ++n_late_;
  }
  apply_index_ = entry.index;
  if (entry.sequence != Sequence(0)) {
    sessions_[entry.session].Remember(entry.sequence, {entry.code, entry.detail});
  }
  return EntryFate::kApplied;
}

EntryFate Shard::ApplyFold(const FoldEntry& entry) {
  MutexLock lock(mutex_);
  if (entry.index <= apply_index_) return EntryFate::kOld;
  if (entry.index.value != apply_index_.value + 1) return EntryFate::kGap;
  if (!is_bsp() || entry.round != pending_.folded()) return EntryFate::kMalformed;
  FoldNext(entry.members);
  return EntryFate::kApplied;
}

bool Shard::IsPossible(const Entry& entry) {
  if (!IsFinal(entry.code)) return false;
  if (entry.code == Code::kOk) {
    if (is_bsp() && !entry.step) return false;
    const bool is_late = entry.kind == Write::Kind::kPush && entry.detail != 0;
    if (is_late && (!is_bsp() || entry.detail != 1)) return false;
  }
  // A session that is not known here may have been forgotten, but of one that is known each write
  // came in turn.
  const auto known = sessions_.find(entry.session);
  return entry.sequence == Sequence(0) || known == sessions_.end() ||
         entry.sequence.value == known->second.last.value + 1;
}

bool Shard::Replay(const Entry& entry) {
  switch (entry.kind) {
    case Write::Kind::kPush:
      return ReplayPush(entry);
    case Write::Kind::kAssign:
      if (CheckContent(entry.kind, entry.selection, entry.values).code != Code::kOk) return false;
      data_->Assign(entry.selection, entry.values.data());
      return true;
    case Write::Kind::kRemove:
      if (!data_->is_sparse()) return false;
      data_->Remove(entry.selection);
      return true;
    case Write::Kind::kSetLr:
      return entry.selection.empty() && entry.values.size() == 1 &&
             data_->SetLr(entry.values[0]) == Code::kOk;
  }
  return false;  // another number for a kind than there is
}

bool Shard::ReplayPush(const Entry& entry) {
  const Checked checked = CheckContent(entry.kind, entry.selection, entry.values);
  if (checked.code != Code::kOk) return false;
  if (!is_bsp()) return !data_->Push(entry.selection, entry.values.data(), checked.are_tame);
  if (pending_.StateOf(*entry.step) != PendingRounds::State::kFolded) {
    pending_.Add(entry.session, *entry.step, entry.selection, entry.values, *data_);
  }
  return true;
}

Code Shard::CountValues(Selection selection, const KeySetUse& key_set, size_t* n_values) {
  if (key_set.n_omitted > 0) {
    MutexLock lock(mutex_);
    if (!data_->Knows(key_set.ref, key_set.n_omitted)) return Code::kNeedKeys;
    *n_values = key_set.n_omitted * data_->row_width();
    return Code::kOk;
  }
  // A dense block's shape and a sparse row's width never change, so the lock is not needed.
  if (const Code code = data_->Check(selection); code != Code::kOk) return code;
  *n_values = data_->ValueCount(selection);
  return Code::kOk;
}

PullResult Shard::Pull(Selection selection, const KeySetUse& key_set, Step step, float* values) {
  MutexLock lock(mutex_);
  if (!logs_folds_) Fold();
  if (is_bsp() && step && *step > pending_.folded()) return {Code::kRetry};
  const uint64_t left_out_in = left_out_.n == 0 ? 0 : left_out_.round + 1;
  if (key_set.n_omitted > 0) {
    if (!data_->Knows(key_set.ref, key_set.n_omitted)) return {Code::kNeedKeys};
    data_->PullKnown(key_set.ref, values);
    return {Code::kOk, true, left_out_in};
  }
  data_->Pull(selection, values);
  const bool is_remembered = key_set.ref.part != 0 && data_->Remember(key_set.ref, selection);
  return {Code::kOk, is_remembered, left_out_in};
}

void Shard::Contains(std::span<const Key> keys, uint8_t* flags) {
  MutexLock lock(mutex_);
  data_->Contains(keys, flags);
}

void Shard::Scan(uint64_t position, size_t n_max, ScanBatch* batch) {
  MutexLock lock(mutex_);
  data_->Scan(position, n_max, batch);
}

Shard::Figures Shard::figures() {
  MutexLock lock(mutex_);
  return {
      data_->n_rows(), data_->bytes() + pending_.bytes(), apply_index_, pending_.folded(), n_late_,
      left_out_,       data_->rule_spec().constants[0]};
}

ApplyIndex Shard::apply_index() {
  MutexLock lock(mutex_);
  return apply_index_;
}

Round Shard::folded() {
  MutexLock lock(mutex_);
  return pending_.folded();
}

}  // namespace fastps
