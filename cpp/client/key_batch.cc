// Batches of keys of sparse tables. A counting sort groups the keys by bin: a bin is a shard, or an
// equal slice of one when the batch is large, so that a bin and its part of the values stay in the
// cache. Equal keys fall into one bin, where a small hash table finds them.
#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/hash.h"
#include "base/limits.h"
#include "client/batch.h"
#include "kernels/kernels.h"

namespace fastps {
namespace {

// What one part may carry at most; the goal is far below.
constexpr size_t kPartValuesBytesMax = limits::kFrameBytesMax / 2;
constexpr uint32_t kBinsPerShardMax = 4096;

// The distinct keys of one bin, numbered in order of first occurrence.
class BinDeduper {
 public:
  // Writes the distinct keys to `unique` and each key's number, from `first` on, to `numbers`.
  // Returns how many are distinct.
  size_t Run(std::span<const Key> keys, uint32_t first, Key* unique, uint32_t* numbers) {
    const size_t n_slots = std::bit_ceil(keys.size() * 2 + 1);
    if (slots_.size() < n_slots) slots_.resize(n_slots);
    std::fill_n(slots_.begin(), n_slots, kEmpty);
    const uint64_t mask = n_slots - 1;
    uint32_t n_unique = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      // The upper bits chose the bin; the lower ones tell its keys apart.
      uint64_t slot = MixKey(keys[i]) & mask;
      while (slots_[slot] != kEmpty && unique[slots_[slot]] != keys[i]) slot = (slot + 1) & mask;
      if (slots_[slot] == kEmpty) {
        slots_[slot] = n_unique;
        unique[n_unique++] = keys[i];
      }
      numbers[i] = first + slots_[slot];
    }
    return n_unique;
  }

 private:
  static constexpr uint32_t kEmpty = ~uint32_t{0};
  std::vector<uint32_t> slots_;
};

class KeyBatch final : public Batch {
 public:
  explicit KeyBatch(size_t width) : width_(width) {}

  Status Group(const ShardPlan& plan, std::span<const Key> keys, BufferPool& buffers);

  void GatherSums(size_t message, const float* gradients, float* values) const override {
    const Kernels& kernels = ActiveKernels();
    ForEachPlace(message, [&](size_t place, size_t number, bool is_first) {
      const float* const gradient = gradients + place * width_;
      float* const sum = values + number * width_;
      if (is_first) {
        CopyRow(gradient, sum);
      } else if (width_ == 1) {
        *sum += *gradient;
      } else {
        kernels.add(sum, gradient, width_);
      }
    });
  }

  void GatherLast(size_t message, const float* rows, float* values) const override {
    ForEachPlace(message, [&](size_t place, size_t number, bool) {
      CopyRow(rows + place * width_, values + number * width_);
    });
  }

  size_t PlaceOf(size_t message, size_t value) const override {
    size_t first = 0;
    ForEachPlace(message, [&](size_t place, size_t number, bool is_first) {
      if (is_first && number == value / width_) first = place;
    });
    return first * width_ + value % width_;
  }

  void Scatter(size_t message, const float* values, float* rows) const override {
    ForEachPlace(message, [&](size_t place, size_t number, bool) {
      CopyRow(values + number * width_, rows + place * width_);
    });
  }

  void ScatterFlags(size_t message, const uint8_t* flags, uint8_t* places) const override {
    ForEachPlace(message,
                 [&](size_t place, size_t number, bool) { places[place] = flags[number]; });
  }

 private:
  // kShapeMismatch when a part would be too large for a message.
  Status GroupInto(uint32_t bins_per_shard, size_t keys_goal, const ShardPlan& plan,
                   std::span<const Key> keys, BufferPool& buffers);

  void CopyRow(const float* from, float* to) const {
    if (width_ == 1) {
      *to = *from;
    } else {
      std::memcpy(to, from, width_ * sizeof(float));
    }
  }

  // Calls work(place in the caller's arrays, number of the key in the message, whether it is the
  // key's first occurrence) in call order within each bin.
  template <class Work>
  void ForEachPlace(size_t message, Work work) const {
    const size_t keys_begin = messages_[message].keys_begin;
    size_t n_seen = 0;
    for (size_t i = entries_begin_[message]; i < entries_begin_[message + 1]; ++i) {
      const size_t number = (numbers_.empty() ? i : numbers_[i]) - keys_begin;
      const bool is_first = number == n_seen;
      n_seen += is_first;
      work(places_[i], number, is_first);
    }
  }

  const size_t width_;
  // Entries are the caller's keys in bin order; messages cover them one after the other.
  std::vector<uint32_t> places_;       // where each entry stood in the caller's keys
  std::vector<uint32_t> numbers_;      // its distinct key; empty: all are distinct, the same as i
  std::vector<size_t> entries_begin_;  // per message, and the end
};

// Keys in bin order: a stable counting sort.
struct Bins {
  uint32_t per_shard = 1;
  std::vector<uint32_t> begin;  // per bin, and the end
  std::vector<Key> keys;
  std::vector<uint32_t> places;

  void Sort(const ShardPlan& plan, std::span<const Key> batch);
};

void Bins::Sort(const ShardPlan& plan, std::span<const Key> batch) {
  const uint32_t num_shards = plan.spec().num_shards;
  const uint32_t n_bins = num_shards * per_shard;
  std::vector<uint32_t> bin_of(batch.size());
  begin.assign(n_bins + 1, 0);
  // Slices of a shard are slices of the hash, because ReduceRange keeps order:
  // ReduceRange(h, shards * per_shard) / per_shard == ReduceRange(h, shards).
  for (size_t i = 0; i < batch.size(); ++i) {
    const uint64_t slice = ReduceRange(MixKey(batch[i]), n_bins);
    uint32_t bin = static_cast<uint32_t>(slice);
    if (per_shard == 1) {
      bin = plan.rank_of_shard[slice];
    } else {
      const uint64_t shard = slice / per_shard;
      bin = static_cast<uint32_t>(plan.rank_of_shard[shard] * per_shard + slice % per_shard);
    }
    bin_of[i] = bin;
    ++begin[bin + 1];
  }
  for (uint32_t bin = 0; bin < n_bins; ++bin) begin[bin + 1] += begin[bin];
  std::vector<uint32_t> next(begin.begin(), begin.end() - 1);
  keys.resize(batch.size());
  places.resize(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    const uint32_t at = next[bin_of[i]]++;
    keys[at] = batch[i];
    places[at] = static_cast<uint32_t>(i);
  }
}

Status KeyBatch::Group(const ShardPlan& plan, std::span<const Key> keys, BufferPool& buffers) {
  const size_t row_bytes = width_ * sizeof(float);
  const size_t keys_goal =
      std::clamp<size_t>(limits::kMessageValuesBytesGoal / row_bytes, 1, limits::kMessageKeysGoal);
  const uint32_t num_shards = plan.spec().num_shards;
  if (keys.size() >= ~uint32_t{0}) {
    return Status(Code::kValueRange, "a batch of " + std::to_string(keys.size()) +
                                         " keys; at most 2^32 - 2 keys go into one call");
  }
  const size_t slices = (keys.size() / num_shards + keys_goal - 1) / keys_goal;
  const uint32_t per_shard = static_cast<uint32_t>(std::clamp<size_t>(slices, 1, kBinsPerShardMax));
  Status status = GroupInto(per_shard, keys_goal, plan, keys, buffers);
  // A few very long rows may fall into one slice by chance.
  if (status.code() == Code::kShapeMismatch && per_shard < kBinsPerShardMax) {
    status = GroupInto(kBinsPerShardMax, keys_goal, plan, keys, buffers);
  }
  return status;
}

Status KeyBatch::GroupInto(uint32_t bins_per_shard, size_t keys_goal, const ShardPlan& plan,
                           std::span<const Key> keys, BufferPool& buffers) {
  const size_t row_bytes = width_ * sizeof(float);
  Bins bins;
  bins.per_shard = bins_per_shard;
  bins.Sort(plan, keys);
  places_ = std::move(bins.places);
  n_places_ = keys.size() * width_;
  messages_.clear();
  entries_begin_.clear();

  keys_ = buffers.Allocate(keys.size() * sizeof(Key));
  const std::span<Key> unique = keys_.As<Key>();
  numbers_.resize(keys.size());
  BinDeduper deduper;
  size_t n_unique = 0;
  ShardId last_shard(~uint32_t{0});
  uint32_t parts_of_shard = 0;  // that the message being planned has for last_shard
  const uint32_t n_bins = static_cast<uint32_t>(bins.begin.size() - 1);
  for (uint32_t bin = 0; bin < n_bins; ++bin) {
    const size_t begin = bins.begin[bin], n = bins.begin[bin + 1] - begin;
    if (n == 0) continue;
    const size_t n_distinct =
        deduper.Run({bins.keys.data() + begin, n}, static_cast<uint32_t>(n_unique),
                    unique.data() + n_unique, numbers_.data() + begin);
    if (n_distinct * row_bytes > kPartValuesBytesMax) {
      return Status(Code::kShapeMismatch,
                    std::to_string(n_distinct) +
                        " keys of one batch fall into one slice of a "
                        "shard; with " +
                        std::to_string(row_bytes) +
                        " bytes a row they pass the largest message. Split the batch");
    }
    const uint32_t rank = bin / bins.per_shard;
    const uint32_t lane = plan.lane_of_rank[rank];
    const ShardId shard = plan.shard_of_rank[rank];
    parts_of_shard = shard == last_shard ? parts_of_shard + 1 : 1;
    last_shard = shard;
    const bool starts_message = messages_.empty() || messages_.back().lane != lane ||
                                messages_.back().n_keys + n_distinct > keys_goal ||
                                parts_of_shard > limits::kPartsPerShardInMessageMax;
    if (starts_message) {
      parts_of_shard = 1;
      messages_.push_back({lane, {}, n_unique, 0, 0});
      entries_begin_.push_back(begin);
    }
    PlannedMessage& message = messages_.back();
    message.parts.push_back({shard, plan.route->views[shard.value].number, Sequence(0),
                             static_cast<uint32_t>(n_distinct),
                             static_cast<uint32_t>(n_distinct * width_), bin % bins.per_shard + 1});
    message.n_keys += n_distinct;
    message.n_values += n_distinct * width_;
    n_unique += n_distinct;
  }
  entries_begin_.push_back(keys.size());
  keys_.Truncate(n_unique * sizeof(Key));
  if (n_unique == keys.size()) numbers_.clear();
  return {};
}

}  // namespace

std::unique_ptr<Batch> MakeKeyBatch(const ShardPlan& plan, std::span<const Key> keys,
                                    BufferPool& buffers, Status* status) {
  auto batch = std::make_unique<KeyBatch>(plan.spec().row_width);
  *status = batch->Group(plan, keys, buffers);
  if (!status->ok()) return nullptr;
  return batch;
}

}  // namespace fastps
