#include "store/row_changes.h"

#include <cstring>
#include <utility>

#include "base/prefetch.h"

namespace fastps {
namespace {

// Rows are fetched so many before they are copied.
constexpr size_t kFetchAhead = 16;

}  // namespace

void RowChanges::BeforeWrite(std::span<const Key> keys, uint32_t* const* payloads) {
  // All are saved before any is marked: a key may be there twice.
  if (cut_ != nullptr && !cut_->is_scanned) SaveBefore(keys, payloads);
  for (size_t i = 0; i < keys.size(); ++i) Mark(payloads[i]);
}

void RowChanges::SaveBefore(std::span<const Key> keys, uint32_t* const* payloads) {
  KeyIndex& saved = cut_->saved;
  saved.ReserveFor(keys.size());
  for (const Key key : keys) saved.Prefetch(key);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!cut_->IsAhead(keys[i]) || saved.Find(keys[i]) != nullptr) continue;
    uint32_t* const place = saved.Insert(keys[i]);
    *place = cut_->rows.Allocate();
    std::memcpy(cut_->rows.Row(*place), RowOf(payloads[i]), row_floats_ * sizeof(float));
    if (IsMarked(payloads[i])) KeyIndex::Mark(place);
  }
}

void RowChanges::BeforeWriteAt(std::span<const uint32_t> places) {
  for (const uint32_t place : places) {
    if (row_floats_ == 1) {
      KeyIndex::Mark(index_->At(place));
    } else {
      MarkRow(place);
    }
  }
}

void RowChanges::OnCreate(Key key, uint32_t* payload) {
  if (cut_ != nullptr && cut_->IsAhead(key)) {
    cut_->saved.ReserveFor(1);
    // A key that was removed since the cut began was saved then.
    if (cut_->saved.Find(key) == nullptr) *cut_->saved.Insert(key) = kAbsent;
  }
  Mark(payload);
}

void RowChanges::BeforeRemove(Key key, uint32_t* payload) {
  if (cut_ != nullptr && !cut_->is_scanned) SaveBefore({&key, 1}, &payload);
  removed_.Add(key, index_->size());
}

bool RowChanges::Begin(bool is_full) {
  is_on_ = true;
  cut_ = std::make_unique<Cut>(pool_, row_floats_, is_full || removed_.are_too_many);
  cut_->removed = std::exchange(removed_, {});
  return cut_->is_full;
}

void RowChanges::Read(size_t n_max, CutSlice* slice) {
  Cut& cut = *cut_;
  cut.is_read = true;
  Copies copies;
  copies.from.reserve(n_max);
  size_t n_left = n_max;
  if (!cut.is_scanned) {
    const auto meet = [&](Key key, const uint32_t& payload) {
      --n_left;
      Meet(key, const_cast<uint32_t*>(&payload), slice, &copies);
    };
    cut.position = index_->Scan(cut.position, n_max, &cut.is_scanned, meet);
  }
  // What is left was removed since the cut began, or made and removed again.
  if (cut.is_scanned && n_left > 0) {
    const auto meet = [&](Key key, const uint32_t& row) {
      if (row == kAbsent || !(cut.is_full || KeyIndex::IsMarked(&row))) return;
      slice->keys.push_back(key);
      copies.from.push_back(cut.rows.Row(row));
    };
    cut.saved_position = cut.saved.Scan(cut.saved_position, n_left, &slice->finished, meet);
  }
  CopyRows(copies, slice);
  if (!slice->finished) return;
  if (!cut.is_full) slice->removed = std::move(cut.removed.keys);
  cut_.reset();
}

void RowChanges::Meet(Key key, uint32_t* payload, CutSlice* slice, Copies* copies) {
  Cut& cut = *cut_;
  const uint32_t* const saved = cut.saved.Find(key);
  if (saved == nullptr) {
    if (cut.is_full || IsMarked(payload)) {
      slice->keys.push_back(key);
      copies->from.push_back(RowOf(payload));
    }
    Unmark(payload);
    return;
  }
  const bool had_changed = KeyIndex::IsMarked(saved);
  uint32_t row = kAbsent;
  cut.saved.Erase(key, &row);
  if (row == kAbsent) return;
  if (cut.is_full || had_changed) {
    slice->keys.push_back(key);
    copies->from.push_back(cut.rows.Row(row));
  }
  copies->used.push_back(row);
}

void RowChanges::CopyRows(const Copies& copies, CutSlice* slice) {
  slice->rows.resize(copies.from.size() * row_floats_);
  float* to = slice->rows.data();
  for (size_t i = 0; i < copies.from.size(); ++i) {
    if (i + kFetchAhead < copies.from.size())
      PrefetchRow(copies.from[i + kFetchAhead], row_floats_);
    std::memcpy(to, copies.from[i], row_floats_ * sizeof(float));
    to += row_floats_;
  }
  for (const uint32_t row : copies.used) cut_->rows.Free(row);
}

bool RowChanges::Drop() {
  const std::unique_ptr<Cut> cut = std::move(cut_);
  if (cut->is_read) return false;
  // No mark was cleared, so they speak of the cut before.
  const Removed since = std::exchange(removed_, std::move(cut->removed));
  for (const Key key : since.keys) removed_.Add(key, index_->size());
  if (since.are_too_many) removed_ = {{}, true};
  return true;
}

void RowChanges::Forget() {
  is_on_ = false;
  cut_.reset();
  marks_ = {};
  removed_ = {};
}

size_t RowChanges::bytes() const {
  const size_t n_removed = removed_.keys.capacity();
  const size_t n_bytes = marks_.capacity() * sizeof(uint64_t) + n_removed * sizeof(Key);
  if (cut_ == nullptr) return n_bytes;
  return n_bytes + cut_->saved.bytes() + cut_->rows.bytes() +
         cut_->removed.keys.capacity() * sizeof(Key);
}

}  // namespace fastps
