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

  Code Check(Selection ranges) const override {
    if (ranges.size() % 2 != 0) return Code::kShapeMismatch;
    for (size_t i = 0; i < ranges.size(); i += 2) {
      if (ranges[i] < block_.begin || ranges[i] > ranges[i + 1] || ranges[i + 1] > block_.end) {
        return Code::kValueRange;
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

  void Push(Selection ranges, const float* gradients) override {
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      rule_->ApplyBlock(values_.data() + offset, At(slot0_, offset), At(slot1_, offset), gradients,
                        n);
      gradients += n;
    });
  }

  void Assign(Selection ranges, const float* values) override {
    ForEachRange(ranges, [&](size_t offset, size_t n) {
      std::memcpy(values_.data() + offset, values, n * sizeof(float));
      rule_->ResetState(values_.data() + offset, At(slot0_, offset), At(slot1_, offset), n);
      values += n;
    });
  }

 private:
  // Calls work(offset in the block, n) for each range, in order.
  template <class Work>
  void ForEachRange(Selection ranges, Work work) {
    for (size_t i = 0; i < ranges.size(); i += 2) {
      const size_t n = ranges[i + 1] - ranges[i];
      if (n > 0) work(size_t{ranges[i] - block_.begin}, n);
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
