// Dense shards: a block of consecutive elements of the table, in row-major order, with the rule's
// slots in arrays of their own, so that loops are long and a pull of the block is one copy.
//
// A rule may keep state for each row as well. The part of a row that lies in the block has its own,
// so that such parts must be selected whole.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "data/xxh64.h"
#include "rules/initializer.h"
#include "store/shard_data.h"

namespace fastps {
namespace {

class DenseShard final : public ShardData {
 public:
  DenseShard(const TableSpec* spec_of_table, ShardId shard,
             std::shared_ptr<const UpdateRule> rule_of_table, PagePool* pool)
      : ShardData(spec_of_table, std::move(rule_of_table)),
        block_(DenseShardRange(spec().n_rows * spec().row_width, spec().num_shards, shard)),
        first_row_(block_.begin / spec().row_width),
        has_row_slots_(rule().n_row_slots() > 0),
        values_(pool, block_.size()) {
    if (rule().n_slots() > 0) slot0_ = PageArray<float>(pool, block_.size());
    if (rule().n_slots() > 1) slot1_ = PageArray<float>(pool, block_.size());
    if (block_.size() == 0) return;
    const uint64_t last_row = (block_.end - 1) / spec().row_width;
    if (rule().n_row_slots() > 0) {
      row_slot0_ = PageArray<float>(pool, last_row - first_row_ + 1);
      row_slot1_ = PageArray<float>(pool, last_row - first_row_ + 1);
    }
    for (uint64_t row = first_row_; row <= last_row; ++row) {
      const ElementRange part = RowWithinBlock(row, spec().row_width, block_);
      FillInitial(spec().initializer, row, part.begin - row * spec().row_width,
                  values_.data() + (part.begin - block_.begin), part.size());
    }
    ForEachRow(0, block_.size(), [this](const RowSpan& rows, size_t n_rows, size_t width, size_t) {
      rule().ResetState(rows, n_rows, width);
    });
  }

  size_t row_width() const override { return spec().row_width; }
  uint64_t n_rows() const override {
    if (block_.size() == 0) return 0;
    // A row cut by a block's edge is counted by the block that holds its first element.
    const uint64_t width = spec().row_width;
    return (block_.end + width - 1) / width - (block_.begin + width - 1) / width;
  }
  uint64_t bytes() const override {
    return values_.bytes() + slot0_.bytes() + slot1_.bytes() + row_slot0_.bytes() +
           row_slot1_.bytes() + CutBytes();
  }

  Code Check(Selection ranges) const override {
    if (ranges.size() % 2 != 0) return Code::kShapeMismatch;
    for (size_t i = 0; i < ranges.size(); i += 2) {
      if (ranges[i] < block_.begin || ranges[i] > ranges[i + 1] || ranges[i + 1] > block_.end) {
        return Code::kValueRange;
      }
      if (has_row_slots_ && !(IsRowEdge(ranges[i]) && IsRowEdge(ranges[i + 1]))) {
        return Code::kShapeMismatch;
      }
    }
    return Code::kOk;
  }

  // Saturates: overlapping ranges may add up to more than any table holds.
  size_t ValueCount(Selection ranges) const override {
    size_t count = 0;
    for (size_t i = 0; i < ranges.size(); i += 2) {
      if (__builtin_add_overflow(count, ranges[i + 1] - ranges[i], &count)) return ~size_t{0};
    }
    return count;
  }

  void Pull(Selection ranges, float* values) override {
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      std::memcpy(values, values_.data() + offset, n * sizeof(float));
      values += n;
    });
  }

  std::optional<uint64_t> Push(Selection ranges, const float* gradients, bool are_tame) override {
    BeforeWrite();
    if (!MustTry(are_tame, ValueCount(ranges), block_.size())) {
      Apply(ranges, gradients);
      return {};
    }
    const std::vector<float> saved = Saved(ranges);
    Apply(ranges, gradients);
    std::optional<uint64_t> unfit;
    uint64_t place = 0;
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      if (!unfit && !AreFinite(offset, n)) {
        size_t i = 0;
        while (AreFinite(offset + i, 1)) ++i;
        unfit = place + i;
      }
      place += n;
    });
    if (unfit) {
      const float* from = saved.data();
      ForEachPiece(ranges, [&](float* to, size_t n) {
        std::memcpy(to, from, n * sizeof(float));
        from += n;
      });
      return unfit;
    }
    ForEachPiece(ranges, [this](const float* stored, size_t n) { NoteStored(stored, n); });
    return unfit;
  }

  LeftOut PushWhatFits(Selection ranges, const float* gradients) override {
    BeforeWrite();
    const bool are_tame = ActiveKernels().all_within(gradients, ValueCount(ranges), kTameGradient);
    if (!MustTry(are_tame, ValueCount(ranges), block_.size())) {
      Apply(ranges, gradients);
      return {};
    }
    const std::vector<float> saved = Saved(ranges);
    LeftOut left_out;
    Apply(ranges, gradients);
    const float* from = saved.data();
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      const bool fits = AreFinite(offset, n);
      for (size_t i = 0; i < n && !fits; ++i) {
        if (AreFinite(offset + i, 1)) continue;
        if (left_out.n++ == 0) left_out.first = block_.begin + offset + i;
        const float* element = from + i;
        for (const PageArray<float>* array : {&values_, &slot0_, &slot1_}) {
          if (array->size() == 0) continue;
          array->data()[offset + i] = *element;
          element += n;
        }
      }
      ForEachPieceOf(offset, n, [&](const float* stored, size_t size) {
        NoteStored(stored, size);
        from += size;
      });
    });
    return left_out;
  }

  Gradients Sum(std::span<const Gradients* const> addends) const override {
    return SumDense(addends, block_);
  }

  void Assign(Selection ranges, const float* values) override {
    BeforeWrite();
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      std::memcpy(values_.data() + offset, values, n * sizeof(float));
      ForEachRow(offset, n, [this](const RowSpan& rows, size_t n_rows, size_t width, size_t) {
        rule().ResetState(rows, n_rows, width);
      });
      NoteAssigned(values, n);
      values += n;
    });
  }

  void WriteRows(ImageWriter* image) const override {
    size_t n_bytes = 2 * sizeof(uint64_t) + sizeof(uint64_t);  // the checksum follows
    for (const PageArray<float>* array : arrays()) n_bytes += array->size() * sizeof(float);
    image->Reserve(n_bytes);
    image->Put(block_.begin);
    image->Put(block_.end);
    for (const PageArray<float>* array : arrays()) {
      image->PutAll(std::span<const float>(array->data(), array->size()));
    }
  }

  bool ReadRows(ImageReader* image) override {
    ElementRange block;
    if (!image->Get(&block.begin) || !image->Get(&block.end)) return false;
    if (block.begin != block_.begin || block.end != block_.end) return false;
    size_t n_floats = 0;
    for (const PageArray<float>* array : arrays()) n_floats += array->size();
    Bytes rows;
    if (!image->Cut(n_floats, sizeof(float), &rows) || image->remaining() > 0) return false;
    // Copied to be looked at: an image's floats are not aligned.
    for (size_t i = 0; i < n_floats; ++i) {
      float each = 0;
      std::memcpy(&each, rows.data() + i * sizeof(float), sizeof(each));
      if (!std::isfinite(each)) return false;
    }
    for (const PageArray<float>* array : arrays()) {
      const size_t n_bytes = array->size() * sizeof(float);
      if (n_bytes > 0) std::memcpy(array->data(), rows.data(), n_bytes);
      rows = rows.subspan(n_bytes);
      NoteStored(array->data(), array->size());
    }
    return true;
  }

  // The first write after that copies the block, or the reading does.
  bool BeginCut(bool is_full) override {
    had_changed_ = std::exchange(has_changed_, false);
    const bool is_of_all = is_full || had_changed_;
    cut_ = std::make_unique<Cut>();
    cut_->is_open = is_of_all;
    cut_->slice.finished = true;
    cut_->slice.block = {block_.begin, is_of_all ? block_.end : block_.begin};
    return is_of_all;
  }
  void ReadCut(size_t /*n_max*/, CutSlice* slice) override {
    SaveBlock();
    *slice = std::move(cut_->slice);
    cut_.reset();
  }
  bool DropCut() override {
    has_changed_ |= had_changed_;
    cut_.reset();
    return true;
  }
  void ForgetCuts() override {
    has_changed_ = true;
    cut_.reset();
  }

  bool LoadBlock(size_t array, uint64_t begin, std::span<const float> values) override {
    if (array >= kDenseArrays) return false;
    const PageArray<float>& to = *arrays()[array];
    const uint64_t first = array < kFirstRowSlot ? block_.begin : first_row_;
    if (begin < first || begin - first > to.size() || values.size() > to.size() - (begin - first)) {
      return false;
    }
    std::ranges::copy(values, to.data() + (begin - first));
    NoteStored(values.data(), values.size());
    return true;
  }

  uint64_t Digest() const override {
    uint64_t hash = 0;
    for (const PageArray<float>* array : arrays()) {
      const size_t n_bytes = array->size() * sizeof(float);
      hash = Xxh64({reinterpret_cast<const char*>(array->data()), n_bytes}, hash);
    }
    return hash;
  }

 private:
  // In the order of an image and of a cut; those that the rule does not have are empty.
  std::array<const PageArray<float>*, kDenseArrays> arrays() const {
    return {&values_, &slot0_, &slot1_, &row_slot0_, &row_slot1_};
  }
  static constexpr size_t kFirstRowSlot = 3;

  // A cut that was not read.
  struct Cut {
    bool is_open = false;  // the block is in it as it stands: it was not written since
    CutSlice slice;
  };

  void BeforeWrite() {
    has_changed_ = true;
    if (cut_ != nullptr) SaveBlock();
  }

  // Copies the block as it is now into the cut, unless it is there. Requires: a cut is under way.
  void SaveBlock() {
    if (!std::exchange(cut_->is_open, false)) return;
    for (size_t i = 0; i < kDenseArrays; ++i) {
      const PageArray<float>& array = *arrays()[i];
      cut_->slice.arrays[i].assign(array.data(), array.data() + array.size());
    }
  }

  void Apply(Selection ranges, const float* gradients) {
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      ForEachRow(offset, n, [&](const RowSpan& rows, size_t n_rows, size_t width, size_t begin) {
        rule().ApplyBlock(rows, gradients + begin, n_rows, width);
      });
      gradients += n;
    });
  }

  bool AreAllWithin(float most) const override {
    return std::ranges::all_of(arrays(), [most](const PageArray<float>* array) {
      return ActiveKernels().all_within(array->data(), array->size(), most);
    });
  }

  // Whether values and slots of these elements are. Row slots always are: they are below 1, or
  // count.
  bool AreFinite(size_t offset, size_t n) const {
    for (const PageArray<float>* array : {&values_, &slot0_, &slot1_}) {
      if (array->size() > 0 && !AllFinite(ActiveKernels(), array->data() + offset, n)) return false;
    }
    return true;
  }

  // Calls work(floats, n) for what the rule may change of a range: values, slots, row slots.
  template <class Work>
  void ForEachPieceOf(size_t offset, size_t n, Work work) {
    for (const PageArray<float>* array : {&values_, &slot0_, &slot1_}) {
      if (array->size() > 0) work(array->data() + offset, n);
    }
    const size_t row = (block_.begin + offset) / spec().row_width - first_row_;
    const size_t last_row = (block_.begin + offset + n - 1) / spec().row_width - first_row_;
    for (const PageArray<float>* array : {&row_slot0_, &row_slot1_}) {
      if (array->size() > 0) work(array->data() + row, last_row - row + 1);
    }
  }
  template <class Work>
  void ForEachPiece(Selection ranges, Work work) {
    ForEachRange(ranges, [&](size_t offset, size_t n) { ForEachPieceOf(offset, n, work); });
  }

  std::vector<float> Saved(Selection ranges) {
    std::vector<float> saved;
    ForEachPiece(ranges, [&](float* from, size_t n) { saved.insert(saved.end(), from, from + n); });
    return saved;
  }

  uint64_t CutBytes() const {
    uint64_t n_floats = 0;
    if (cut_ != nullptr) {
      for (const std::vector<float>& array : cut_->slice.arrays) n_floats += array.size();
    }
    return n_floats * sizeof(float);
  }

  // Calls work(offset in the block, n) for each range, in order.
  template <class Work>
  void ForEachRange(Selection ranges, Work work) {
    for (size_t i = 0; i < ranges.size(); i += 2) {
      const size_t n = ranges[i + 1] - ranges[i];
      if (n > 0) work(size_t{ranges[i] - block_.begin}, n);
    }
  }

  // Whether `element` begins or ends a row's part of the block.
  bool IsRowEdge(uint64_t element) const {
    return element == block_.begin || element == block_.end || element % spec().row_width == 0;
  }

  // Calls work(rows, n_rows, width, begin) for stretches of rows of one width, the first of which
  // is `begin` elements after `offset`. Whole rows make one stretch; those that an edge of the
  // block cuts have another width. Without row slots all is one.
  template <class Work>
  void ForEachRow(size_t offset, size_t n, Work work) {
    if (rule().n_row_slots() == 0) {
      work(At(offset), 1, n, 0);
      return;
    }
    const uint64_t width = spec().row_width;
    for (size_t begin = 0; begin < n;) {
      const uint64_t element = block_.begin + offset + begin;
      const uint64_t to_row_end = width - element % width;
      if (to_row_end == width && n - begin >= width) {
        const size_t n_rows = (n - begin) / width;
        work(At(offset + begin), n_rows, width, begin);
        begin += n_rows * width;
      } else {
        const size_t size = std::min<uint64_t>(to_row_end, n - begin);
        work(At(offset + begin), 1, size, begin);
        begin += size;
      }
    }
  }

  RowSpan At(size_t offset) {
    const size_t row = (block_.begin + offset) / spec().row_width - first_row_;
    return {values_.data() + offset, AtOrNull(slot0_, offset), AtOrNull(slot1_, offset),
            AtOrNull(row_slot0_, row), AtOrNull(row_slot1_, row)};
  }

  static float* AtOrNull(PageArray<float>& slot, size_t offset) {
    return slot.data() == nullptr ? nullptr : slot.data() + offset;
  }

  const ElementRange block_;
  const uint64_t first_row_;  // the row of the block's first element
  const bool has_row_slots_;  // at every rate: Check is called without a lock
  PageArray<float> values_;
  PageArray<float> slot0_;
  PageArray<float> slot1_;
  PageArray<float> row_slot0_;  // for each row of which the block has a part
  PageArray<float> row_slot1_;
  bool has_changed_ = true;   // since the last cut
  bool had_changed_ = true;   // when the cut under way began, since the one before
  std::unique_ptr<Cut> cut_;  // null: none is under way
};

}  // namespace

std::unique_ptr<ShardData> MakeDenseShard(const TableSpec* spec, ShardId shard,
                                          std::shared_ptr<const UpdateRule> rule, PagePool* pool) {
  return std::make_unique<DenseShard>(spec, shard, std::move(rule), pool);
}

}  // namespace fastps
