// Call: one operation of the user, made of messages. It takes the replies and ends when each of its
// messages has. Guarded by the client's mutex, or used by one thread alone (embedded).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "client/batch.h"
#include "client/folds_told.h"
#include "client/gate.h"
#include "client/key_set.h"
#include "wire/message.h"

namespace fastps {

constexpr Use UseOf(Op op) { return IsWrite(op) ? Use::kWrite : Use::kRead; }

// Where the caller's arrays lie. They must live until the call ends or is detached.
struct CallArrays {
  const float* values = nullptr;  // push, assign: in
  float* rows = nullptr;          // pull: out
  uint8_t* flags = nullptr;       // contains: out
};

// One shard's answer to stats.
struct ShardReport {
  ShardId shard;
  ServerId server;
  ShardStats stats;
};

// What a call brought beside the arrays it filled.
struct CallResults {
  uint64_t n_removed = 0;
  std::vector<ShardReport> shards;  // stats
  std::vector<Key> scanned_keys;    // scan
  std::vector<float> scanned_values;
  uint64_t next_cursor = kScanEnd;
};

class Call {
 public:
  // `key_set`: when the batch is that of a key set, what its calls share; else null.
  Call(Op op, std::shared_ptr<const ShardPlan> plan, std::shared_ptr<const Batch> batch,
       CallArrays arrays, std::shared_ptr<KeySetState> key_set = nullptr)
      : op_(op),
        plan_(std::move(plan)),
        batch_(std::move(batch)),
        arrays_(arrays),
        key_set_(std::move(key_set)),
        n_open_(batch_->messages().size()) {}

  Op op() const { return op_; }
  const ShardPlan& plan() const { return *plan_; }
  const std::shared_ptr<const ShardPlan>& shared_plan() const { return plan_; }
  const Batch& batch() const { return *batch_; }

  // The parts of one message, with its keys: a read's name no values.
  std::vector<PartHeader> PartsOf(size_t message) const;
  // Whether the keys of a message may be left out: the server is thought to know them.
  bool MayOmitKeys(size_t message) const {
    // A push that waits for its round needs its keys then, and one that goes on down a chain there.
    if (op_ == Op::kPush && (plan_->spec().rounds || IsReplicated())) return false;
    return key_set_ != nullptr && key_set_->worth_sending() && key_set_->IsKnown(message);
  }
  // The server does not know them after all.
  void ForgetKeySet(size_t message) {
    if (key_set_ != nullptr) key_set_->SetForgotten(message);
  }
  KeySetSignature key_set_signature() const {
    return key_set_ == nullptr ? KeySetSignature{} : key_set_->signature();
  }

  // The values of one message of a push or assign; the empty buffer for other operations.
  Buffer GatherValues(size_t message, BufferPool& buffers) const;

  enum class Verdict {
    kDone,      // the message has ended
    kAgain,     // the same content is to be sent again after a pause
    kNeedKeys,  // the same content is to be sent again at once, its keys with it
  };
  // What the reply to a message of `n_parts` parts, or to a piece of one, comes to.
  static Verdict VerdictOn(const Reply& reply, size_t n_parts);
  // Takes the reply to one message: fills arrays and results.
  Verdict OnReply(size_t message, const Reply& reply);

  // Every copy of a shard of this call is lost; `members` held it. Its message is to fail.
  void NameLost(ShardId shard, std::span<const ServerId> members);
  // Ends a message without a reply.
  void FailMessage(size_t message, const Status& status);
  // Ends all messages that are still open. Requires: one has failed.
  void FailRest() { n_open_ = 0; }

  bool done() const { return n_open_ == 0; }
  // The first thing that went wrong. Meaningful once done.
  const Status& status() const { return status_; }
  const std::vector<ShardId>& lost_shards() const { return lost_shards_; }
  const std::vector<ServerId>& lost_servers() const { return lost_servers_; }
  CallResults& results() { return results_; }

  // From now on the caller's arrays are not touched: late replies to a pull are dropped.
  // Requires, for writes: the values of every message were gathered before.
  void Detach() { detached_ = true; }

  uint64_t argument = 0;              // as in the request
  Gate gate;                          // asynchronous calls start when it opens
  uint64_t clock = 0;                 // of the step it belongs to
  std::atomic<bool> observed{false};  // somebody was told the status
  // Counts the pushes that came too late for their round, when there is one.
  std::shared_ptr<std::atomic<uint64_t>> n_late_pushes;
  // Of which folds the user was told, when it is there: a pull fails once for each that is news.
  std::shared_ptr<FoldsTold> folds_told;
  // Set when a server refuses the session, which may be before the map says that it has ended.
  std::shared_ptr<std::atomic<bool>> session_refused;

 private:
  bool IsReplicated() const { return plan_->spec().replication > 1; }
  bool NamesKeySet() const {
    // The head of a chain answers no pulls: nothing is gained there by remembering places.
    if (op_ == Op::kPush && IsReplicated()) return false;
    return key_set_ != nullptr && key_set_->worth_sending();
  }
  void CountLate(const Reply& reply);
  // Fails the call when a fold left something out and nobody was told.
  void CheckFolds(const Reply& reply);
  // What the answer to one part says.
  Status StatusOfPart(size_t message, size_t part, const PartResult& result) const;
  void TakeResults(size_t message, const Reply& reply);
  void Fail(Status status);

  const Op op_;
  const std::shared_ptr<const ShardPlan> plan_;
  const std::shared_ptr<const Batch> batch_;
  const CallArrays arrays_;
  const std::shared_ptr<KeySetState> key_set_;
  size_t n_open_;  // messages that have not ended
  bool detached_ = false;
  bool late_ = false;  // some part came too late for its round
  Status status_;
  std::vector<ShardId> lost_shards_;
  std::vector<ServerId> lost_servers_;
  CallResults results_;
};

}  // namespace fastps
