// Batches of dense tables, as ranges of elements: the whole table, or chosen rows. Also the two
// batches that carry no values: stats and scan.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "base/limits.h"
#include "client/batch.h"
#include "kernels/kernels.h"
#include "rules/update_rule.h"

namespace fastps {
namespace {

constexpr uint64_t kRangeFloatsGoal = limits::kMessageValuesBytesGoal / sizeof(float);

class RangeBatch final : public Batch {
 public:
  // Adds a stretch of elements that lies at `place` floats in the caller's array. `place` of every
  // occurrence of a row beside the first goes to AddDuplicate.
  void AddRange(const ShardPlan& plan, ElementRange range, uint64_t place);
  void AddDuplicate(uint64_t first_place, uint64_t place, uint64_t n) {
    duplicates_[first_place].push_back({place, n});
  }
  void Finish(const ShardPlan& plan, BufferPool& buffers);

  void GatherSums(size_t message, const float* gradients, float* values) const override {
    const Kernels& kernels = ActiveKernels();
    ForEachRange(message, [&](const Range& range, size_t offset) {
      float* const sums = values + offset;
      std::memcpy(sums, gradients + range.place, range.size * sizeof(float));
      ForEachDuplicate(range,
                       [&](uint64_t place) { kernels.add(sums, gradients + place, range.size); });
    });
  }

  void GatherLast(size_t message, const float* rows, float* values) const override {
    ForEachRange(message, [&](const Range& range, size_t offset) {
      uint64_t last = range.place;
      ForEachDuplicate(range, [&](uint64_t place) { last = place; });
      std::memcpy(values + offset, rows + last, range.size * sizeof(float));
    });
  }

  size_t PlaceOf(size_t message, size_t value) const override {
    size_t place = 0;
    ForEachRange(message, [&](const Range& range, size_t offset) {
      if (value >= offset && value - offset < range.size) place = range.place + (value - offset);
    });
    return place;
  }

  void Scatter(size_t message, const float* values, float* rows) const override {
    ForEachRange(message, [&](const Range& range, size_t offset) {
      const auto copy_to = [&](uint64_t place) {
        std::memcpy(rows + place, values + offset, range.size * sizeof(float));
      };
      copy_to(range.place);
      ForEachDuplicate(range, copy_to);
    });
  }

  void ScatterFlags(size_t, const uint8_t*, uint8_t*) const override {}

 private:
  struct Range {
    uint32_t rank;  // of its shard
    uint64_t begin;
    uint64_t size;
    uint64_t place;      // in the caller's array, floats
    uint64_t row_place;  // of the first element of its row: the key of duplicates_
  };
  struct Duplicate {
    uint64_t place;
    uint64_t n;
  };

  template <class Work>
  void ForEachRange(size_t message, Work work) const {
    size_t offset = 0;
    for (size_t i = ranges_begin_[message]; i < ranges_begin_[message + 1]; ++i) {
      work(ranges_[i], offset);
      offset += ranges_[i].size;
    }
  }

  // The places of the same elements in later occurrences of the row, in call order.
  template <class Work>
  void ForEachDuplicate(const Range& range, Work work) const {
    if (duplicates_.empty()) return;
    const auto found = duplicates_.find(range.row_place);
    if (found == duplicates_.end()) return;
    for (const Duplicate& duplicate : found->second) {
      work(duplicate.place + (range.place - range.row_place));
    }
  }

  std::vector<Range> ranges_;         // in message order once finished
  std::vector<size_t> ranges_begin_;  // per message, and the end
  std::unordered_map<uint64_t, std::vector<Duplicate>> duplicates_;
};

// The shard that holds `element`: the inverse of DenseShardRange.
ShardId ShardOfElement(uint64_t element, uint64_t n_elements, uint32_t num_shards) {
  const uint64_t shorter = n_elements / num_shards;
  const uint64_t longer = n_elements % num_shards;
  const uint64_t boundary = longer * (shorter + 1);
  const uint64_t shard =
      element < boundary ? element / (shorter + 1) : longer + (element - boundary) / shorter;
  return ShardId(static_cast<uint32_t>(shard));
}

// Where the chunk that begins at `begin` ends, at most at `end`. It ends between rows where it can.
// A rule with state for each row would count a row that came in two pieces twice: with `whole_rows`
// such rows pass the goal instead, up to the widest that a message holds (see CheckRowParts).
uint64_t ChunkEnd(uint64_t begin, uint64_t end, uint64_t row_width, bool whole_rows) {
  const uint64_t goal = begin + kRangeFloatsGoal;
  if (end <= goal) return end;
  if (const uint64_t row_begin = goal - goal % row_width; row_begin > begin) return row_begin;
  const uint64_t row_end = std::min(end, (begin / row_width + 1) * row_width);
  return whole_rows && row_end - begin <= limits::kRowWidthMax ? row_end : goal;
}

void RangeBatch::AddRange(const ShardPlan& plan, ElementRange range, uint64_t place) {
  const TableSpec& spec = plan.spec();
  const uint64_t n_elements = spec.n_rows * spec.row_width;
  const uint64_t row_place = place;
  const bool whole_rows = HasRowSlots(spec.rule);
  while (range.begin < range.end) {
    const ShardId shard = ShardOfElement(range.begin, n_elements, spec.num_shards);
    const uint64_t block_end = DenseShardRange(n_elements, spec.num_shards, shard).end;
    const uint64_t end =
        ChunkEnd(range.begin, std::min(range.end, block_end), spec.row_width, whole_rows);
    ranges_.push_back(
        {plan.rank_of_shard[shard.value], range.begin, end - range.begin, place, row_place});
    place += end - range.begin;
    range.begin = end;
  }
}

void RangeBatch::Finish(const ShardPlan& plan, BufferPool& buffers) {
  for (const Range& range : ranges_) n_places_ += range.size;
  for (const auto& [first, duplicates] : duplicates_) {
    for (const Duplicate& duplicate : duplicates) n_places_ += duplicate.n;
  }
  std::ranges::stable_sort(ranges_, {}, &Range::rank);
  keys_ = buffers.Allocate(ranges_.size() * 2 * sizeof(Key));
  const std::span<Key> keys = keys_.As<Key>();
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const Range& range = ranges_[i];
    keys[2 * i] = range.begin;
    keys[2 * i + 1] = range.begin + range.size;
    const uint32_t lane = plan.lane_of_rank[range.rank];
    const ShardId shard = plan.shard_of_rank[range.rank];
    if (messages_.empty() || messages_.back().lane != lane ||
        messages_.back().n_values + range.size > kRangeFloatsGoal ||
        messages_.back().n_keys >= 2 * limits::kMessageKeysGoal) {
      messages_.push_back({lane, {}, 2 * i, 0, 0});
      ranges_begin_.push_back(i);
    }
    PlannedMessage& message = messages_.back();
    if (message.parts.empty() || message.parts.back().shard != shard) {
      message.parts.push_back({shard, plan.route->views[shard.value].number, Sequence(0), 0, 0, 0});
    }
    message.parts.back().n_keys += 2;
    message.parts.back().n_values += static_cast<uint32_t>(range.size);
    message.n_keys += 2;
    message.n_values += range.size;
  }
  ranges_begin_.push_back(ranges_.size());
}

// Parts without values, or each with the caller's one value.
class PlainBatch final : public Batch {
 public:
  PlainBatch(std::vector<PlannedMessage> messages, Buffer keys) {
    messages_ = std::move(messages);
    keys_ = std::move(keys);
  }
  void GatherSums(size_t, const float*, float*) const override {}
  void GatherLast(size_t message, const float* rows, float* values) const override {
    std::fill_n(values, messages_[message].n_values, *rows);
  }
  size_t PlaceOf(size_t, size_t) const override { return 0; }
  void Scatter(size_t, const float*, float*) const override {}
  void ScatterFlags(size_t, const uint8_t*, uint8_t*) const override {}
};

std::vector<PlannedMessage> OnePartForEachShard(const ShardPlan& plan, uint32_t n_values) {
  std::vector<PlannedMessage> messages;
  for (size_t rank = 0; rank < plan.shard_of_rank.size(); ++rank) {
    const uint32_t lane = plan.lane_of_rank[rank];
    const ShardId shard = plan.shard_of_rank[rank];
    if (messages.empty() || messages.back().lane != lane) messages.push_back({lane, {}, 0, 0, 0});
    messages.back().parts.push_back(
        {shard, plan.route->views[shard.value].number, Sequence(0), 0, n_values, 0});
    messages.back().n_values += n_values;
  }
  return messages;
}

}  // namespace

std::unique_ptr<Batch> MakeWholeBatch(const ShardPlan& plan, BufferPool& buffers) {
  auto batch = std::make_unique<RangeBatch>();
  batch->AddRange(plan, {0, plan.spec().n_rows * plan.spec().row_width}, 0);
  batch->Finish(plan, buffers);
  return batch;
}

std::unique_ptr<Batch> MakeRowBatch(const ShardPlan& plan, std::span<const uint64_t> rows,
                                    BufferPool& buffers) {
  auto batch = std::make_unique<RangeBatch>();
  const uint64_t width = plan.spec().row_width;
  std::unordered_map<uint64_t, uint64_t> first_place_of_row;
  first_place_of_row.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const uint64_t place = i * width;
    const auto [first, is_new] = first_place_of_row.emplace(rows[i], place);
    if (is_new) {
      batch->AddRange(plan, {rows[i] * width, (rows[i] + 1) * width}, place);
    } else {
      batch->AddDuplicate(first->second, place, width);
    }
  }
  batch->Finish(plan, buffers);
  return batch;
}

std::unique_ptr<Batch> MakeShardBatch(const ShardPlan& plan) {
  return std::make_unique<PlainBatch>(OnePartForEachShard(plan, 0), Buffer());
}

std::unique_ptr<Batch> MakeShardValueBatch(const ShardPlan& plan) {
  return std::make_unique<PlainBatch>(OnePartForEachShard(plan, 1), Buffer());
}

std::unique_ptr<Batch> MakeScanBatch(const ShardPlan& plan, ShardId shard, uint64_t cursor,
                                     BufferPool& buffers) {
  Buffer keys = buffers.Allocate(sizeof(Key));
  keys.As<Key>()[0] = cursor;
  const PartHeader part{shard, plan.route->views[shard.value].number, Sequence(0), 1, 0, 0};
  const uint32_t lane = plan.lane_of_rank[plan.rank_of_shard[shard.value]];
  return std::make_unique<PlainBatch>(std::vector<PlannedMessage>{{lane, {part}, 0, 1, 0}},
                                      std::move(keys));
}

}  // namespace fastps
