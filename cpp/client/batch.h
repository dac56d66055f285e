// Batch: one call's keys, grouped into messages, and the way of the values between the caller's
// arrays and these messages. Pure: no sockets, threads or clocks. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "client/shard_plan.h"
#include "wire/message.h"

namespace fastps {

// One message to be sent: parts whose keys lie side by side in the batch. Those of one shard follow
// each other. `set_part` of a part of a sparse table numbers the slices of its shard from 1: that
// follows from the list of keys alone, not from where the shards lie, so within a shard it names
// the same keys in every plan.
struct PlannedMessage {
  uint32_t lane = 0;  // index into ShardPlan::lanes
  std::vector<PartHeader> parts;
  size_t keys_begin = 0;  // into Batch::keys()
  size_t n_keys = 0;
  size_t n_values = 0;  // floats
};

class Batch {
 public:
  virtual ~Batch() = default;

  std::span<const PlannedMessage> messages() const { return messages_; }
  const Buffer& keys() const { return keys_; }
  // How many floats the caller's array of values has.
  size_t n_places() const { return n_places_; }

  // Fills the values of a push: gradients of equal keys are added left to right.
  virtual void GatherSums(size_t message, const float* gradients, float* values) const = 0;
  // Fills the values of an assign: of equal keys the last one wins.
  virtual void GatherLast(size_t message, const float* rows, float* values) const = 0;
  // Where one value of a message stood first in the caller's array, or kNoPlace when that is not
  // known any more. Requires: value < n_values.
  static constexpr size_t kNoPlace = ~size_t{0};
  virtual size_t PlaceOf(size_t message, size_t value) const = 0;
  // Spreads one message's pulled values to every place that asked for them.
  virtual void Scatter(size_t message, const float* values, float* rows) const = 0;
  // The same for one flag a key.
  virtual void ScatterFlags(size_t message, const uint8_t* flags, uint8_t* places) const = 0;

 protected:
  std::vector<PlannedMessage> messages_;
  Buffer keys_;  // uint64
  size_t n_places_ = 0;
};

// Rows of a sparse table, by key: any order, duplicates allowed.
// `keys` is used during the call only. Null, with `status`, when a part would not fit a message.
std::unique_ptr<Batch> MakeKeyBatch(const ShardPlan& plan, std::span<const Key> keys,
                                    BufferPool& buffers, Status* status);

// Elements of a dense table: all of them, in order.
std::unique_ptr<Batch> MakeWholeBatch(const ShardPlan& plan, BufferPool& buffers);

// Rows of a dense table: any order, duplicates allowed. Requires: every row < n_rows.
std::unique_ptr<Batch> MakeRowBatch(const ShardPlan& plan, std::span<const uint64_t> rows,
                                    BufferPool& buffers);

// One part without keys for every shard: stats.
std::unique_ptr<Batch> MakeShardBatch(const ShardPlan& plan);

// The same, each part with the caller's one value: set_lr.
std::unique_ptr<Batch> MakeShardValueBatch(const ShardPlan& plan);

// One part for one shard, with `cursor` as its key: a step of a scan.
std::unique_ptr<Batch> MakeScanBatch(const ShardPlan& plan, ShardId shard, uint64_t cursor,
                                     BufferPool& buffers);

}  // namespace fastps
