// Shard: the unit of locking, placement and exactly-once bookkeeping. Any thread may call any
// method; each call takes the shard's one lock once. Rows, the session's last sequence and the
// apply index change together under it.
//
// A shard of a table under BSP keeps pushes until their round is closed. Whoever comes first after
// that, a call or FoldClosed, folds: adds the pushes up and applies one update a row.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "base/mutex.h"
#include "base/status.h"
#include "base/types.h"
#include "store/pending_rounds.h"
#include "store/round_book.h"
#include "store/shard_data.h"

namespace fastps {

// How a call names its keys: by a key set's part, whose keys may be left out.
struct KeySetUse {
  KeySetRef ref;           // ref.part is 0 when no key set is used
  uint32_t n_omitted = 0;  // how many keys were left out; 0: they are in the selection
};

// Which step of its group a call belongs to; none: the caller is of another group, or the table is
// not under BSP, where nobody asks.
using Step = std::optional<Round>;

// One numbered change of a shard by one session.
struct Write {
  enum class Kind : uint8_t { kPush, kAssign, kRemove, kSetLr };
  Kind kind = Kind::kPush;
  SessionId session;
  Sequence sequence;  // 0: called in-process, where nothing is lost or repeated; not checked
  Selection selection;
  // Push: gradients; assign: values; set_lr: the rate; remove: none.
  std::span<const float> values;
  KeySetUse key_set;  // push only
  Step step;
};

struct WriteResult {
  Code code = Code::kOk;
  // Remove: rows removed; push: 1 when its round was folded without it; kGap: the sequence wanted.
  uint64_t detail = 0;
  bool remembered = false;  // the keys may be left out next time
};

struct PullResult {
  Code code = Code::kOk;
  bool remembered = false;
};

class Shard {
 public:
  explicit Shard(std::unique_ptr<ShardData> data) : data_(std::move(data)) {}
  // Under BSP: `book` is that of the table's group, rounds below `first` count as folded.
  Shard(std::unique_ptr<ShardData> data, std::shared_ptr<const RoundBook> book, Round first)
      : data_(std::move(data)), book_(std::move(book)), pending_(first) {}

  // Applies `write` if its sequence is the session's next. An older one gives the answer it got
  // when it was applied, a newer one kGap, and one whose left-out keys are not known kNeedKeys,
  // which uses no sequence. A write that does not fit the shard uses its sequence and changes
  // nothing.
  //
  // Under BSP a push is kept for its round, or dropped when that is folded; other writes act at
  // once. A write whose time has not come gives kRetry, which uses no sequence: a push until the
  // round before the one before is folded, another write until all rounds before are.
  WriteResult Apply(const Write& write);

  // How many floats a pull gives: kOk, or why it cannot be.
  Code CountValues(Selection selection, const KeySetUse& key_set, size_t* n_values);
  bool is_sparse() const { return data_->is_sparse(); }

  // kOk, or kNeedKeys when left-out keys are not known.
  // Under BSP also kRetry, until all rounds before `step` are folded.
  // Requires: CountValues gave kOk before, and `values` has room for as many floats.
  PullResult Pull(Selection selection, const KeySetUse& key_set, Step step, float* values);
  void Contains(std::span<const Key> keys, uint8_t* flags);
  void Scan(uint64_t position, size_t n_max, ScanBatch* batch);

  // Folds every round that is known to be closed.
  void FoldClosed();

  struct Figures {
    uint64_t rows;
    uint64_t bytes;
    ApplyIndex apply_index;
    Round folded;  // rounds below are folded
    uint64_t n_late;
  };
  Figures figures();

  // Forgets the sequences of sessions for which `is_live` is false.
  template <class IsLive>
  void ForgetSessions(IsLive is_live) {
    MutexLock lock(mutex_);
    std::erase_if(sessions_, [&](const auto& entry) { return !is_live(entry.first); });
    data_->ForgetKeySets(is_live);
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

  bool is_bsp() const { return book_ != nullptr; }
  void Fold() FASTPS_REQUIRES(mutex_);
  // Whether the rounds that `write` must wait for are folded.
  bool IsTimeOf(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult Execute(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult Push(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult PushToRound(const Write& write) FASTPS_REQUIRES(mutex_);
  bool KnowsForPush(const KeySetUse& key_set) FASTPS_REQUIRES(mutex_);
  WriteResult PushKnown(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult SetLr(const Write& write) FASTPS_REQUIRES(mutex_);

  Mutex mutex_;
  const std::unique_ptr<ShardData> data_;        // its contents are guarded by mutex_
  const std::shared_ptr<const RoundBook> book_;  // null unless under BSP
  PendingRounds pending_ FASTPS_GUARDED_BY(mutex_){Round(0)};
  uint64_t n_late_ FASTPS_GUARDED_BY(mutex_) = 0;
  ApplyIndex apply_index_ FASTPS_GUARDED_BY(mutex_);
  std::unordered_map<SessionId, SessionRecord> sessions_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
