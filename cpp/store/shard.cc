#include "store/shard.h"

#include "base/limits.h"
#include "kernels/kernels.h"

namespace fastps {

WriteResult Shard::SessionRecord::AnswerOf(Sequence sequence) const {
  const auto found = unusual.find(sequence.value);
  return found == unusual.end() ? WriteResult{} : found->second;
}

void Shard::SessionRecord::Remember(Sequence sequence, const WriteResult& result) {
  static_assert(kDetailsKept == limits::kWritesInFlightPerShardMax);
  if (sequence.value > kDetailsKept) unusual.erase(sequence.value - kDetailsKept);
  if (result.code != Code::kOk || result.detail != 0) unusual[sequence.value] = result;
}

WriteResult Shard::Apply(const Write& write) {
  MutexLock lock(mutex_);
  Fold();
  if (write.sequence == Sequence(0)) {  // embedded
    return IsTimeOf(write) ? Execute(write) : WriteResult{Code::kRetry};
  }
  SessionRecord& record = sessions_[write.session];
  if (write.sequence <= record.last) return record.AnswerOf(write.sequence);
  const Sequence wanted(record.last.value + 1);
  if (write.sequence > wanted) return {Code::kGap, wanted.value};
  if (!IsTimeOf(write)) return {Code::kRetry};
  const KeySetUse& key_set = write.key_set;
  if (key_set.n_omitted > 0 && !KnowsForPush(key_set)) return {Code::kNeedKeys, 0};
  const WriteResult result = Execute(write);
  record.last = write.sequence;
  record.Remember(write.sequence, result);
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
  if (!is_bsp()) return;
  while (const RoundBook::Members members = book_->MembersOf(pending_.folded())) {
    const std::optional<Gradients> sum = pending_.Fold(*members, *data_);
    if (sum) data_->Push(sum->selection, sum->values.data());
    ++apply_index_.value;
  }
}

void Shard::FoldClosed() {
  MutexLock lock(mutex_);
  Fold();
}

WriteResult Shard::Execute(const Write& write) {
  // Another group's, or from somebody who takes the table for another.
  if (is_bsp() && !write.step) return {Code::kConfig};
  if (write.key_set.n_omitted > 0) return PushKnown(write);
  if (const Code code = data_->Check(write.selection); code != Code::kOk) return {code, 0};
  if (write.kind == Write::Kind::kRemove) {
    if (!data_->is_sparse()) return {Code::kShapeMismatch, 0};
    ++apply_index_.value;
    return {Code::kOk, data_->Remove(write.selection)};
  }
  if (write.kind == Write::Kind::kSetLr) return SetLr(write);
  if (write.values.size() != data_->ValueCount(write.selection)) {
    return {Code::kShapeMismatch, 0};
  }
  if (!AllFinite(ActiveKernels(), write.values.data(), write.values.size())) {
    return {Code::kValueRange, 0};
  }
  ++apply_index_.value;
  if (write.kind == Write::Kind::kAssign) {
    data_->Assign(write.selection, write.values.data());
    return {};
  }
  return is_bsp() ? PushToRound(write) : Push(write);
}

WriteResult Shard::PushToRound(const Write& write) {
  if (pending_.StateOf(*write.step) == PendingRounds::State::kFolded) {
    ++n_late_;
    return {Code::kOk, 1};
  }
  pending_.Add(write.session, *write.step, write.selection, write.values, *data_);
  return {};
}

WriteResult Shard::Push(const Write& write) {
  data_->Push(write.selection, write.values.data());
  const bool wanted = write.key_set.ref.part != 0;
  return {Code::kOk, 0, wanted && data_->Remember(write.key_set.ref, write.selection)};
}

// What waits for its round needs its keys: the rows may go before it closes.
bool Shard::KnowsForPush(const KeySetUse& key_set) {
  return !is_bsp() && data_->Knows(key_set.ref, key_set.n_omitted);
}

WriteResult Shard::PushKnown(const Write& write) {
  const KeySetUse& key_set = write.key_set;
  if (!KnowsForPush(key_set)) return {Code::kNeedKeys, 0};
  if (write.values.size() != key_set.n_omitted * data_->row_width()) {
    return {Code::kShapeMismatch, 0};
  }
  if (!AllFinite(ActiveKernels(), write.values.data(), write.values.size())) {
    return {Code::kValueRange, 0};
  }
  ++apply_index_.value;
  data_->PushKnown(key_set.ref, write.values.data());
  return {Code::kOk, 0, true};
}

WriteResult Shard::SetLr(const Write& write) {
  if (!write.selection.empty() || write.values.size() != 1) return {Code::kShapeMismatch, 0};
  const Code code = data_->SetLr(write.values[0]);
  if (code == Code::kOk) ++apply_index_.value;
  return {code, 0};
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
  Fold();
  if (is_bsp() && step && *step > pending_.folded()) return {Code::kRetry};
  if (key_set.n_omitted > 0) {
    if (!data_->Knows(key_set.ref, key_set.n_omitted)) return {Code::kNeedKeys};
    data_->PullKnown(key_set.ref, values);
    return {Code::kOk, true};
  }
  data_->Pull(selection, values);
  return {Code::kOk, key_set.ref.part != 0 && data_->Remember(key_set.ref, selection)};
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
  return {data_->n_rows(), data_->bytes() + pending_.bytes(), apply_index_, pending_.folded(),
          n_late_};
}

}  // namespace fastps
