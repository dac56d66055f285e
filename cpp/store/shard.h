// Shard: the unit of locking, placement and exactly-once bookkeeping. Any thread may call any
// method; each call takes the shard's one lock once. Rows, the session's last sequence and the
// apply index change together under it.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/mutex.h"
#include "base/status.h"
#include "base/types.h"
#include "store/shard_data.h"

namespace fastps {

// One numbered change of a shard by one session.
struct Write {
  enum class Kind : uint8_t { kPush, kAssign, kRemove };
  Kind kind = Kind::kPush;
  SessionId session;
  Sequence sequence;  // 0: called in-process, where nothing is lost or repeated; not checked
  Selection selection;
  std::span<const float> values;  // push: gradients; assign: values; remove: empty
};

struct WriteResult {
  Code code = Code::kOk;
  uint64_t detail = 0;  // remove: rows removed; kGap: the sequence wanted
};

class Shard {
 public:
  explicit Shard(std::unique_ptr<ShardData> data) : data_(std::move(data)) {}

  // Applies `write` if its sequence is the session's next. An older one gives the answer it got
  // when it was applied, a newer one kGap. A write that does not fit the shard uses its sequence
  // and changes nothing.
  WriteResult Apply(const Write& write);

  // Reads: Check, then ValueCount floats, then Pull, all about the same selection. A dense block's
  // shape and a sparse row's width never change, so the three need not be one step.
  Code Check(Selection selection) const { return data_->Check(selection); }
  size_t ValueCount(Selection selection) const { return data_->ValueCount(selection); }
  bool is_sparse() const { return data_->is_sparse(); }

  void Pull(Selection selection, float* values);
  void Contains(std::span<const Key> keys, uint8_t* flags);
  void Scan(uint64_t position, size_t n_max, ScanBatch* batch);

  struct Figures {
    uint64_t rows;
    uint64_t bytes;
    ApplyIndex apply_index;
  };
  Figures figures();

  // Forgets the sequences of sessions for which `is_live` is false.
  template <class IsLive>
  void ForgetSessions(IsLive is_live) {
    MutexLock lock(mutex_);
    std::erase_if(sessions_, [&](const auto& entry) { return !is_live(entry.first); });
  }

 private:
  // What a shard remembers of a session, so that a repeated write is answered, not applied.
  struct SessionRecord {
    static constexpr size_t kDetailsKept = 64;  // as many as a client may have un-acknowledged
    Sequence last;                              // every write <= last was applied or refused
    std::unordered_map<uint64_t, WriteResult> unusual;  // answers other than {kOk, 0}, the last 64

    WriteResult AnswerOf(Sequence sequence) const;
    void Remember(Sequence sequence, const WriteResult& result);
  };

  WriteResult Execute(const Write& write) FASTPS_REQUIRES(mutex_);

  Mutex mutex_;
  const std::unique_ptr<ShardData> data_;  // its contents are guarded by mutex_
  ApplyIndex apply_index_ FASTPS_GUARDED_BY(mutex_);
  std::unordered_map<SessionId, SessionRecord> sessions_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
