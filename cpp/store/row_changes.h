// RowChanges: which rows of a sparse shard changed since its last cut, and, while a cut is read,
// rows as they were when it began. No locks: Shard holds one around every call.
//
// A cut begins in O(1) and is read in the order of KeyIndex::Scan. A row that is about to change
// and that the reading has not reached is saved first, once; a key that is made is saved as absent.
// What the reading meets it takes from there, or from the row itself; rows removed meanwhile come
// last.
//
// One mark a row says that it changed since the last cut. It stands in the index for rows that live
// there, and in a bitmap by row number for those of the arena, which key sets reach without the
// index. One bit serves two cuts: reading clears the marks it meets, and what is saved keeps the
// mark of its row beside it, so that the row's own speaks of the new cut from then on.
//
// Before the first cut nothing is noted: is_on() is all that a write pays.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/types.h"
#include "store/key_index.h"
#include "store/page_pool.h"
#include "store/row_arena.h"
#include "store/shard_cut.h"

namespace fastps {

class RowChanges {
 public:
  // Rows of one float live in the index, others in the arena. All must outlive this object.
  RowChanges(KeyIndex* index, RowArena* arena, PagePool* pool, size_t row_floats)
      : index_(index), arena_(arena), pool_(pool), row_floats_(row_floats) {}

  // Whether the calls that follow are to be made, before the rows change.
  bool is_on() const { return is_on_; }
  void BeforeWrite(std::span<const Key> keys, uint32_t* const* payloads);
  // Of rows known by a key set. Requires: no cut is under way, since here keys are not known.
  void BeforeWriteAt(std::span<const uint32_t> places);
  void OnCreate(Key key, uint32_t* payload);
  void BeforeRemove(Key key, uint32_t* payload);

  // Begins a cut of all rows, or of those that changed since the last. True when it is of all: so
  // many were removed that they are not listed. Requires: none is under way.
  bool Begin(bool is_full);
  bool is_cutting() const { return cut_ != nullptr; }
  // The next slice, of at most `n_max` rows. Requires: a cut is under way, and n_max > 0.
  void Read(size_t n_max, CutSlice* slice);
  // Ends the cut. True when nothing of it was read: changes are counted from the cut before, as if
  // this one had not begun. Requires: a cut is under way.
  bool Drop();
  // Ends the cut if one is under way, and notes nothing until the next begins, which must be full.
  void Forget();

  size_t bytes() const;

 private:
  // A cut lists removed keys as long as they are few, beside the rows.
  static constexpr size_t kRemovedMin = 1024;
  static constexpr uint32_t kAbsent = ~uint32_t{0};  // instead of the number of a saved row

  struct Removed {
    std::vector<Key> keys;  // some twice
    bool are_too_many = false;

    void Add(Key key, size_t n_rows) {
      if (!are_too_many) keys.push_back(key);
      if (keys.size() > std::max(kRemovedMin, n_rows / 2)) {
        are_too_many = true;
        keys = {};
      }
    }
  };

  struct Cut {
    Cut(PagePool* pool, size_t row_floats, bool is_full_cut)
        : is_full(is_full_cut), saved(pool), rows(pool, row_floats) {}

    // Whether the row of `key` is still to be read.
    bool IsAhead(Key key) const { return !is_scanned && KeyIndex::PositionOf(key) >= position; }

    const bool is_full;
    bool is_read = false;         // in part
    uint64_t position = 0;        // keys at positions below were read, as far as they stayed
    bool is_scanned = false;      // all were
    uint64_t saved_position = 0;  // as `position`, among those that are left in `saved`
    // Keys to rows as they were, or kAbsent; marked if the row had changed since the cut before.
    KeyIndex saved;
    RowArena rows;
    Removed removed;  // before the cut
  };

  // Rows to be copied to a slice, one after the other.
  struct Copies {
    std::vector<const float*> from;
    std::vector<uint32_t> used;  // saved rows that are free once copied
  };

  float* RowOf(uint32_t* payload) const {
    return row_floats_ == 1 ? reinterpret_cast<float*>(payload) : arena_->Row(*payload);
  }
  bool IsMarked(const uint32_t* payload) const {
    if (row_floats_ == 1) return KeyIndex::IsMarked(payload);
    return *payload / 64 < marks_.size() && (marks_[*payload / 64] >> *payload % 64 & 1) != 0;
  }
  void Mark(uint32_t* payload) {
    if (row_floats_ == 1) {
      KeyIndex::Mark(payload);
    } else {
      MarkRow(*payload);
    }
  }
  void MarkRow(uint32_t row) {
    if (row / 64 >= marks_.size()) marks_.resize(std::max<size_t>(row / 64 + 1, 2 * marks_.size()));
    marks_[row / 64] |= uint64_t{1} << row % 64;
  }
  void Unmark(uint32_t* payload) {
    if (row_floats_ == 1) {
      KeyIndex::Unmark(payload);
    } else if (*payload / 64 < marks_.size()) {
      marks_[*payload / 64] &= ~(uint64_t{1} << *payload % 64);
    }
  }

  void SaveBefore(std::span<const Key> keys, uint32_t* const* payloads);
  // What the cut has of a row that the reading meets.
  void Meet(Key key, uint32_t* payload, CutSlice* slice, Copies* copies);
  void CopyRows(const Copies& copies, CutSlice* slice);

  KeyIndex* const index_;
  RowArena* const arena_;
  PagePool* const pool_;
  const size_t row_floats_;
  bool is_on_ = false;
  std::vector<uint64_t> marks_;  // of rows in the arena
  Removed removed_;              // since the last cut
  std::unique_ptr<Cut> cut_;     // null: none is under way
};

}  // namespace fastps
