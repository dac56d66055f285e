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
  if (write.sequence == Sequence(0)) return Execute(write);
  SessionRecord& record = sessions_[write.session];
  if (write.sequence <= record.last) return record.AnswerOf(write.sequence);
  const Sequence wanted(record.last.value + 1);
  if (write.sequence > wanted) return {Code::kGap, wanted.value};
  const WriteResult result = Execute(write);
  record.last = write.sequence;
  record.Remember(write.sequence, result);
  return result;
}

WriteResult Shard::Execute(const Write& write) {
  if (const Code code = data_->Check(write.selection); code != Code::kOk) return {code, 0};
  if (write.kind == Write::Kind::kRemove) {
    if (!data_->is_sparse()) return {Code::kShapeMismatch, 0};
    ++apply_index_.value;
    return {Code::kOk, data_->Remove(write.selection)};
  }
  if (write.values.size() != data_->ValueCount(write.selection)) {
    return {Code::kShapeMismatch, 0};
  }
  if (!AllFinite(ActiveKernels(), write.values.data(), write.values.size())) {
    return {Code::kValueRange, 0};
  }
  ++apply_index_.value;
  if (write.kind == Write::Kind::kPush) {
    data_->Push(write.selection, write.values.data());
  } else {
    data_->Assign(write.selection, write.values.data());
  }
  return {};
}

void Shard::Pull(Selection selection, float* values) {
  MutexLock lock(mutex_);
  data_->Pull(selection, values);
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
  return {data_->n_rows(), data_->bytes(), apply_index_};
}

}  // namespace fastps
