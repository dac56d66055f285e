// Dense shards: a block of consecutive elements of the table, in row-major order, with the rule's
// slots in arrays of their own, so that loops are long and a pull of the block is one copy.
#include <algorithm>
#include <cstring>

#include "rules/initializer.h"
#include "store/shard_data.h"

namespace fastps {
namespace {

class DenseShard final : public ShardData {
 public:
  DenseShard(const TableSpec* spec, ShardId shard, const UpdateRule* rule, PagePool* pool)
      : spec_(spec),
        rule_(rule),
        block_(DenseShardRange(spec->n_rows * spec->row_width, spec->num_shards, shard)),
        values_(pool, block_.size()) {
    if (rule->n_slots() > 0) slot0_ = PageArray<float>(pool, block_.size());
    if (rule->n_slots() > 1) slot1_ = PageArray<float>(pool, block_.size());
    if (block_.size() == 0) return;
    const uint64_t first_row = block_.begin / spec->row_width;
    const uint64_t last_row = (block_.end - 1) / spec->row_width;
    for (uint64_t row = first_row; row <= last_row; ++row) {
      const ElementRange part = RowWithinBlock(row, spec->row_width, block_);
      FillInitial(spec->initializer, row, part.begin - row * spec->row_width,
                  values_.data() + (part.begin - block_.begin), part.size());
    }
    rule->ResetState(values_.data(), slot0_.data(), slot1_.data(), block_.size());
  }

  uint64_t n_rows() const override {
    if (block_.size() == 0) return 0;
    // A row cut by a block's edge is counted by the block that holds its first element.
    const uint64_t width = spec_->row_width;
    return (block_.end + width - 1) / width - (block_.begin + width - 1) / width;
  }
  uint64_t bytes() const override { return values_.bytes() + slot0_.bytes() + slot1_.bytes(); }

  Code Check(const Selection& selection) const override {
    if (selection.whole) return selection.keys.empty() ? Code::kOk : Code::kShapeMismatch;
    for (const Key row : selection.keys) {
      if (row >= spec_->n_rows) return Code::kValueRange;
    }
    return Code::kOk;
  }

  size_t ValueCount(const Selection& selection) const override {
    if (selection.whole) return block_.size();
    size_t count = 0;
    for (const Key row : selection.keys) {
      count += RowWithinBlock(row, spec_->row_width, block_).size();
    }
    return count;
  }

  void Pull(const Selection& selection, float* values) override {
    ForEachRange(selection, [&](size_t offset, size_t n) {
      std::memcpy(values, values_.data() + offset, n * sizeof(float));
      values += n;
    });
  }

  void Push(const Selection& selection, const float* gradients) override {
    ForEachRange(selection, [&](size_t offset, size_t n) {
      rule_->ApplyBlock(values_.data() + offset, At(slot0_, offset), At(slot1_, offset), gradients,
                        n);
      gradients += n;
    });
  }

  void Assign(const Selection& selection, const float* values) override {
    ForEachRange(selection, [&](size_t offset, size_t n) {
      std::memcpy(values_.data() + offset, values, n * sizeof(float));
      rule_->ResetState(values_.data() + offset, At(slot0_, offset), At(slot1_, offset), n);
      values += n;
    });
  }

 private:
  // Calls work(offset in the block, n) for each stretch of the selection, in order.
  template <class Work>
  void ForEachRange(const Selection& selection, Work work) {
    if (selection.whole) {
      if (block_.size() > 0) work(size_t{0}, size_t{block_.size()});
      return;
    }
    for (const Key row : selection.keys) {
      const ElementRange part = RowWithinBlock(row, spec_->row_width, block_);
      if (part.size() > 0) work(size_t{part.begin - block_.begin}, size_t{part.size()});
    }
  }

  static float* At(const PageArray<float>& slot, size_t offset) {
    return slot.data() == nullptr ? nullptr : slot.data() + offset;
  }

  const TableSpec* const spec_;
  const UpdateRule* const rule_;
  const ElementRange block_;
  PageArray<float> values_;
  PageArray<float> slot0_;
  PageArray<float> slot1_;
};

}  // namespace

std::unique_ptr<ShardData> MakeDenseShard(const TableSpec* spec, ShardId shard,
                                          const UpdateRule* rule, PagePool* pool) {
  return std::make_unique<DenseShard>(spec, shard, rule, pool);
}

}  // namespace fastps
