#include "store/shard_cut.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "kernels/kernels.h"
#include "store/shard.h"

namespace fastps {
namespace {

Status Refusal(std::string why) { return {Code::kConfig, std::move(why)}; }

// The number of the first value that is not finite; how many there are: all are.
size_t FirstInfinite(std::span<const float> values) {
  if (AllFinite(ActiveKernels(), values.data(), values.size())) return values.size();
  const auto unfit = std::ranges::find_if_not(values, [](float v) { return std::isfinite(v); });
  return static_cast<size_t>(unfit - values.begin());
}

}  // namespace

Status Shard::BeginCut(const CutId& id, const std::optional<CutId>& parent,
                       const std::optional<Round>& rounds, CutBegun* begun) {
  MutexLock lock(mutex_);
  if (!logs_folds_) Fold();
  const Round folded = pending_.folded();
  if (rounds) {
    if (!is_bsp()) return Refusal("a table that is not under BSP has no rounds to be cut at");
    if (folded < *rounds) return {Code::kRetry, "rounds that are to be in the cut are not folded"};
    if (folded > *rounds) {
      return Refusal("the shard has folded round " + std::to_string(folded.value - 1) +
                     ", which is not to be in the cut: it must be held until the cut has begun");
    }
  }
  EndCut();
  const bool is_full = data_->BeginCut(!parent || counted_from_ != parent);
  counted_before_ = std::exchange(counted_from_, id);
  cut_ = id;
  *begun = {apply_index_, folded, data_->n_rows(), is_full, data_->rule_spec().constants};
  return {};
}

Status Shard::ReadCut(const CutId& id, size_t n_max, CutSlice* slice) {
  if (data_->is_sparse()) {
    // New pages are touched before the lock is taken.
    n_max = CutSliceRows(n_max, row_floats());
    slice->keys.reserve(n_max);
    slice->rows.resize(n_max * row_floats());
  }
  {
    MutexLock lock(mutex_);
    if (cut_ != id) return Refusal("the cut is not under way in this shard: it was ended");
    data_->ReadCut(n_max, slice);
    if (slice->finished) cut_.reset();
  }
  // An increment may use little of what was made ready.
  if (slice->rows.size() < slice->rows.capacity() / 2) slice->rows.shrink_to_fit();
  if (slice->keys.size() < slice->keys.capacity() / 2) slice->keys.shrink_to_fit();
  std::ranges::sort(slice->removed);
  const auto repeats = std::ranges::unique(slice->removed);
  slice->removed.erase(repeats.begin(), repeats.end());
  return {};
}

void Shard::DropCut(const CutId& id) {
  MutexLock lock(mutex_);
  if (cut_ == id) EndCut();
}

void Shard::EndCut() {
  if (!cut_) return;
  // Marks were cleared as far as it was read: changes since the cut before are not known any more,
  // and nobody can build on this one.
  counted_from_ = data_->DropCut() ? counted_before_ : std::nullopt;
  cut_.reset();
}

void Shard::ForgetCuts() {
  data_->ForgetCuts();
  cut_.reset();
  counted_from_.reset();
}

Status Shard::BeginLoad() {
  if (apply_index_ != ApplyIndex(0)) {
    return Refusal("the shard has entries: what was saved is loaded into a new one");
  }
  ForgetCuts();
  return {};
}

Status Shard::ReserveRows(size_t n) {
  MutexLock lock(mutex_);
  if (!data_->is_sparse()) return Refusal("a dense table has no rows by key");
  if (Status status = BeginLoad(); !status.ok()) return status;
  data_->ReserveRows(n);
  return {};
}

Status Shard::LoadRows(std::span<const Key> keys, std::span<const float> rows) {
  MutexLock lock(mutex_);
  if (!data_->is_sparse()) return Refusal("a dense table has no rows by key");
  if (rows.size() / row_floats() != keys.size() || rows.size() % row_floats() != 0) {
    return Refusal("a row of the table has " + std::to_string(row_floats()) +
                   " floats; given are " + std::to_string(keys.size()) + " keys and " +
                   std::to_string(rows.size()) + " floats");
  }
  if (const auto unfit = FirstInfinite(rows); unfit < rows.size()) {
    return Refusal("the row of key " + std::to_string(keys[unfit / row_floats()]) +
                   " holds NaN or infinity in its value or state");
  }
  if (Status status = BeginLoad(); !status.ok()) return status;
  data_->LoadRows(keys, rows.data());
  return {};
}

Status Shard::LoadRemoved(std::span<const Key> keys) {
  MutexLock lock(mutex_);
  if (!data_->is_sparse()) return Refusal("a dense table has no rows by key");
  if (Status status = BeginLoad(); !status.ok()) return status;
  data_->Remove(keys);
  return {};
}

Status Shard::LoadBlock(size_t array, uint64_t begin, std::span<const float> values) {
  MutexLock lock(mutex_);
  if (data_->is_sparse()) return Refusal("a sparse table has no blocks");
  if (const auto unfit = FirstInfinite(values); unfit < values.size()) {
    return Refusal("array " + std::to_string(array) + " holds NaN or infinity at " +
                   std::to_string(begin + unfit));
  }
  if (Status status = BeginLoad(); !status.ok()) return status;
  if (data_->LoadBlock(array, begin, values)) return {};
  return Refusal("the shard has no " + std::to_string(values.size()) + " floats from " +
                 std::to_string(begin) + " on in its array " + std::to_string(array));
}

Status Shard::FinishLoad(std::span<const float> constants) {
  MutexLock lock(mutex_);
  RuleSpec rule = data_->rule_spec();
  if (constants.size() > rule.constants.size()) return Refusal("too many rule constants");
  rule.constants = {};
  std::ranges::copy(constants, rule.constants.begin());
  if (!data_->CanHave(rule)) {
    return Refusal("its rule has other constants than the table's, or illegal ones");
  }
  if (Status status = BeginLoad(); !status.ok()) return status;
  TakeRate(rule);
  apply_index_ = ApplyIndex(1);
  return {};
}

}  // namespace fastps
