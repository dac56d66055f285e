// Shard: the unit of locking, placement and exactly-once bookkeeping. Any thread may call any
// method; each call takes the shard's one lock once. Rows, the session's last sequence and the
// apply index change together under it.
//
// The index counts entries: writes that used a sequence, with or without effect, and those that
// came in-process. What one replica took as its entry i, the others apply as their entry i.
//
// A shard of a table under BSP keeps pushes until their round is closed. Whoever comes first after
// that, a call or FoldClosed, folds: adds the pushes up and applies one update a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/types.h"
#include "store/entry.h"
#include "store/pending_rounds.h"
#include "store/round_book.h"
#include "store/shard_cut.h"
#include "store/shard_data.h"
#include "store/shard_image.h"
#include "store/write.h"

namespace fastps {

struct PullResult {
  Code code = Code::kOk;
  bool remembered = false;
  uint64_t left_out_in = 0;  // 1 + the last round whose fold left something out; 0: none did
};

// What folds left as it was, because its update was not finite; see ShardData::PushWhatFits.
struct FoldsLeftOut {
  uint64_t n = 0;      // rows of sparse tables, elements of dense ones, in all rounds
  uint64_t round = 0;  // the last in which there was one,
  Key key = 0;         // and the first of that round: a key, or an element's number
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
  // nothing; kValueRange, with which float, when something would be stored that is not finite.
  //
  // Under BSP a push is kept for its round, or dropped when that is folded; other writes act at
  // once. A write whose time has not come gives kRetry, which uses no sequence: a push until the
  // round before the one before is folded, another write until all rounds before are.
  WriteResult Apply(const Write& write);

  // Does what the head did when it took this entry, with the head's answer. The content is checked
  // as a request's: it came from outside.
  //
  // Under BSP the rounds that were folded before must have been folded here as well: a replica
  // folds by ApplyFold alone.
  EntryFate ApplyEntry(const Entry& entry);
  EntryFate ApplyFold(const FoldEntry& entry);

  // How many floats a pull gives: kOk, or why it cannot be.
  Code CountValues(Selection selection, const KeySetUse& key_set, size_t* n_values);
  bool is_sparse() const { return data_->is_sparse(); }
  // Of a sparse row with its state.
  size_t row_floats() const { return data_->row_floats(); }

  // kOk, or kNeedKeys when left-out keys are not known.
  // Under BSP also kRetry, until all rounds before `step` are folded.
  // Requires: CountValues gave kOk before, and `values` has room for as many floats.
  PullResult Pull(Selection selection, const KeySetUse& key_set, Step step, float* values);
  void Contains(std::span<const Key> keys, uint8_t* flags);
  void Scan(uint64_t position, size_t n_max, ScanBatch* batch);

  // Whether this shard folds closed rounds by itself; else it waits to be told by ApplyFold. With
  // `logs` its folds are kept for TakeFolds, and reads make none. At first it leads and does not
  // log.
  void SetLeads(bool leads, bool logs);
  // Folds every round that is known to be closed, when it leads.
  void FoldClosed();
  // The folds since the last call: entries of the log, as writes are.
  std::vector<FoldEntry> TakeFolds();

  struct Figures {
    uint64_t rows;
    uint64_t bytes;
    ApplyIndex apply_index;
    Round folded;  // rounds below are folded
    uint64_t n_late;
    FoldsLeftOut left_out;
    float lr;  // the first constant of the rule in force
  };
  Figures figures();
  ApplyIndex apply_index();
  Round folded();

  // The whole state as bytes, and the index it is of; see shard_image.h. Key sets are left out.
  std::vector<std::byte> Image(ApplyIndex* index);
  // Takes the state of an image instead of its own. kMalformed, and nothing is changed, when the
  // bytes are no image of this shard; kConfig when the shard has entries.
  // Under BSP the shard goes on with round folded(): the book must know it, or come to know it.
  Status LoadImage(Bytes image);

  // Cuts; see shard_cut.h. One is under way at a time: BeginCut ends the one before. The cut is of
  // what changed since the cut `parent` if that is the last that was begun here, and all of it was
  // read; else it is of all rows, as without `parent`.
  // Under BSP the cut is taken when so many `rounds` are folded, if it matters: kRetry when fewer
  // are, kConfig when more.
  Status BeginCut(const CutId& id, const std::optional<CutId>& parent,
                  const std::optional<Round>& rounds, CutBegun* begun);
  // The next slice, of at most `n_max` rows where these are single. The lock is held for one slice.
  // kConfig when the cut is not under way: another was begun, or it was read to its end.
  Status ReadCut(const CutId& id, size_t n_max, CutSlice* slice);
  // Ends the cut, if it is under way.
  void DropCut(const CutId& id);

  // What cuts gave is put back, piece by piece, into a shard without entries; FinishLoad makes that
  // its first, with these rule constants. What is loaded twice replaces what was there. kConfig
  // when the shard has entries, or what is given does not fit.
  Status ReserveRows(size_t n);  // that the shard will have; loading more is slow, not wrong
  Status LoadRows(std::span<const Key> keys,
                  std::span<const float> rows);  // (keys, row_floats), as in a cut
  Status LoadRemoved(std::span<const Key> keys);
  // Elements of a dense table, or rows of its row slots: see ShardData::LoadBlock.
  Status LoadBlock(size_t array, uint64_t begin, std::span<const float> values);
  Status FinishLoad(std::span<const float> constants);

  // A hash of what replicas have in common when they have the same entries and folded the same
  // rounds: rows with their state, rule constants, pending pushes, and what is remembered of the
  // sessions for which `is_live`. The order in which rows lie does not matter.
  uint64_t Digest(const std::function<bool(SessionId)>& is_live);

  // Forgets the sequences of sessions for which `is_live` is false.
  template <class IsLive>
  void ForgetSessions(IsLive is_live) {
    MutexLock lock(mutex_);
    std::erase_if(sessions_, [&](const auto& entry) { return !is_live(entry.first); });
    data_->ForgetKeySets(is_live);
  }

 private:
  struct Answer {
    Code code = Code::kOk;
    uint64_t detail = 0;
  };
  // What a shard remembers of a session, so that a repeated write is answered, not applied.
  struct SessionRecord {
    static constexpr size_t kDetailsKept = 64;  // as many as a client may have un-acknowledged
    Sequence last;                              // >= 1; every write <= last was applied or refused
    // Answers other than {kOk, 0} of the last 64 writes, by sequence.
    std::map<uint64_t, Answer> unusual;

    Answer AnswerOf(Sequence sequence) const;
    void Remember(Sequence sequence, Answer answer);
  };

  using Sessions = std::unordered_map<SessionId, SessionRecord>;

  // Answers that use a sequence; the others ask to come again.
  static bool IsFinal(Code code) { return code == Code::kOk || code >= Code::kMalformed; }

  bool is_bsp() const { return book_ != nullptr; }
  void Fold() FASTPS_REQUIRES(mutex_);
  void FoldNext(const std::vector<RoundMember>& members) FASTPS_REQUIRES(mutex_);
  // Whether the rounds that `write` must wait for are folded.
  bool IsTimeOf(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult Take(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult Execute(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult Push(const Write& write, bool are_tame) FASTPS_REQUIRES(mutex_);
  WriteResult PushToRound(const Write& write) FASTPS_REQUIRES(mutex_);
  bool KnowsForPush(const KeySetUse& key_set) FASTPS_REQUIRES(mutex_);
  WriteResult PushKnown(const Write& write) FASTPS_REQUIRES(mutex_);
  WriteResult SetLr(const Write& write) FASTPS_REQUIRES(mutex_);
  // Whether the head can have taken this entry after those that this replica has.
  bool IsPossible(const Entry& entry) FASTPS_REQUIRES(mutex_);
  struct Checked {
    Code code = Code::kOk;
    uint64_t detail = 0;    // kValueRange: 1 + which value
    bool are_tame = false;  // gradients
  };
  Checked CheckContent(Write::Kind kind, Selection selection, std::span<const float> values)
      FASTPS_REQUIRES(mutex_);
  Checked CheckValues(Write::Kind kind, std::span<const float> values) FASTPS_REQUIRES(mutex_);
  // False, and nothing is changed, when the content does not fit.
  bool Replay(const Entry& entry) FASTPS_REQUIRES(mutex_);
  bool ReplayPush(const Entry& entry) FASTPS_REQUIRES(mutex_);

  // Takes the rate of a rule that data_ can have.
  void TakeRate(const RuleSpec& rule) FASTPS_REQUIRES(mutex_);
  // In shard_cut.cc.
  void EndCut() FASTPS_REQUIRES(mutex_);
  // No cut is under way, and changes are not counted.
  void ForgetCuts() FASTPS_REQUIRES(mutex_);
  Status BeginLoad() FASTPS_REQUIRES(mutex_);

  // In shard_image.cc.
  void WriteSessions(const std::function<bool(SessionId)>& is_live, ImageWriter* image)
      FASTPS_REQUIRES(mutex_);
  static bool ReadSessions(ImageReader* image, Sessions* sessions);
  static bool ReadSession(ImageReader* image, SessionRecord* record);

  Mutex mutex_;
  const std::unique_ptr<ShardData> data_;        // its contents are guarded by mutex_
  const std::shared_ptr<const RoundBook> book_;  // null unless under BSP
  PendingRounds pending_ FASTPS_GUARDED_BY(mutex_){Round(0)};
  bool leads_ FASTPS_GUARDED_BY(mutex_) = true;
  bool logs_folds_ FASTPS_GUARDED_BY(mutex_) = false;
  std::vector<FoldEntry> folds_ FASTPS_GUARDED_BY(mutex_);
  uint64_t n_late_ FASTPS_GUARDED_BY(mutex_) = 0;
  FoldsLeftOut left_out_ FASTPS_GUARDED_BY(mutex_);
  ApplyIndex apply_index_ FASTPS_GUARDED_BY(mutex_);
  Sessions sessions_ FASTPS_GUARDED_BY(mutex_);
  // The cut under way, and the last one that was begun: changes are counted from there.
  std::optional<CutId> cut_ FASTPS_GUARDED_BY(mutex_);
  std::optional<CutId> counted_from_ FASTPS_GUARDED_BY(mutex_);
  // While a cut is under way: what counted_from_ was before it.
  std::optional<CutId> counted_before_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
