// KeySet: a list of keys prepared once for many calls. It keeps the batch made of it for each
// table, and which of the batch's messages the servers remember, so that their keys may be left
// out. Any thread may call any method.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/types.h"
#include "client/batch.h"
#include "client/shard_plan.h"

namespace fastps {

// What calls with one key set on one table share. Holds for one plan.
class KeySetState {
 public:
  KeySetState(KeySetSignature signature, std::shared_ptr<const ShardPlan> plan,
              std::shared_ptr<const Batch> batch);

  const KeySetSignature& signature() const { return signature_; }
  const std::shared_ptr<const ShardPlan>& plan() const { return plan_; }
  const std::shared_ptr<const Batch>& batch() const { return batch_; }

  // Whether the server is thought to know the keys of a message. May be wrong: it then asks.
  bool IsKnown(size_t message) const { return known_[message].load(std::memory_order_relaxed); }
  void SetKnown(size_t message) { known_[message].store(true, std::memory_order_relaxed); }
  // The server asked for the keys. A set that is asked for again and again is sent whole from then
  // on: its rows come and go, or there is no room to remember it.
  void SetForgotten(size_t message);
  bool worth_sending() const {
    return n_forgotten_.load(std::memory_order_relaxed) < kForgottenMax;
  }

 private:
  static constexpr uint32_t kForgottenMax = 64;

  const KeySetSignature signature_;
  const std::shared_ptr<const ShardPlan> plan_;
  const std::shared_ptr<const Batch> batch_;
  std::vector<std::atomic<bool>> known_;
  std::atomic<uint32_t> n_forgotten_{0};
};

class KeySet {
 public:
  KeySet(std::vector<Key> keys, KeySetSignature signature)
      : keys_(std::move(keys)), signature_(signature) {}

  const std::vector<Key>& keys() const { return keys_; }

  // What calls on the table and of the use of `plan` share; made when it is asked for first and
  // when the plan is another than before. Null, with `status`, as MakeKeyBatch.
  std::shared_ptr<KeySetState> StateOn(const std::shared_ptr<const ShardPlan>& plan,
                                       BufferPool& buffers, Status* status);

 private:
  const std::vector<Key> keys_;
  const KeySetSignature signature_;
  Mutex mutex_;
  std::map<std::pair<TableId, Use>, std::shared_ptr<KeySetState>> states_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
