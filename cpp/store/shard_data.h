// ShardData: the rows of one shard, sparse or dense, behind one interface. No locks: Shard holds
// one around every call. Nothing here knows of messages, sessions or threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "kernels/kernels.h"
#include "routing/cluster_map.h"
#include "routing/table_spec.h"
#include "rules/initializer.h"
#include "rules/update_rule.h"
#include "store/gradient_sum.h"
#include "store/key_set_memory.h"
#include "store/page_pool.h"
#include "store/shard_cut.h"
#include "store/shard_image.h"

namespace fastps {

// Which elements of a shard a call is about. Sparse: keys of rows. Dense: pairs (begin, end) of
// element numbers of the table in row-major order, end excluded, each range within the block.
using Selection = std::span<const Key>;

// What a fold left as it was: how many rows or elements, and the first by key or number.
struct LeftOut {
  uint64_t n = 0;
  Key first = 0;
};

struct ScanBatch {
  std::vector<Key> keys;
  std::vector<float> values;  // (keys, row_width)
  uint64_t next_position = 0;
  bool finished = false;
};

class ShardData {
 public:
  virtual ~ShardData() = default;

  const TableSpec& spec() const { return *spec_; }
  const UpdateRule& rule() const { return *rule_; }
  const RuleSpec& rule_spec() const { return rule_spec_; }  // of rule(): with the rate in force

  // Another learning rate, from the next gradient on. kConfig, and no change, when the rule has
  // none or `lr` is not legal.
  Code SetLr(float lr);

  // Whether a shard of this table can come to have these constants: those in force, but for another
  // legal rate.
  bool CanHave(const RuleSpec& rule) const;

  // kOk when the selection fits this shard, else kShapeMismatch or kValueRange.
  virtual Code Check(Selection selection) const = 0;
  virtual size_t row_width() const = 0;
  size_t row_floats() const { return row_floats_; }  // of a sparse row with its state
  // How many floats the selection spans here. Requires: Check gave kOk.
  virtual size_t ValueCount(Selection selection) const = 0;

  // The rest requires that Check gave kOk and that arrays have ValueCount floats.
  // Reads values; an absent row gives its initial value and is not created.
  virtual void Pull(Selection selection, float* values) = 0;
  // Applies the rule once per selected row, in order; absent rows are created first. When that
  // would store what is not finite, nothing is changed, and it returns which of the gradients is
  // the first that could not be taken. `are_tame` says that each gradient is.
  virtual std::optional<uint64_t> Push(Selection selection, const float* gradients,
                                       bool are_tame) = 0;
  // The same for a fold, which nobody could be refused: what would not be finite is left as it is.
  // The unit must not depend on how the table lies in shards: sparse rows, which lie in one, and
  // elements of dense tables. Row slots of dense rows count the update also when all is left out.
  virtual LeftOut PushWhatFits(Selection selection, const float* gradients) = 0;
  // Adds up gradients that were pushed to this shard; see gradient_sum.h.
  virtual Gradients Sum(std::span<const Gradients* const> addends) const = 0;
  // Sets values and resets the rule's state; of equal keys the last one wins.
  virtual void Assign(Selection selection, const float* values) = 0;

  // Sparse tables only. Requires: is_sparse().
  virtual bool is_sparse() const { return false; }
  virtual void Contains(std::span<const Key>, uint8_t*) {}
  virtual uint64_t Remove(std::span<const Key>) { return 0; }
  virtual void Scan(uint64_t, size_t, ScanBatch*) {}

  // Key sets, sparse tables only: see KeySetMemory. Knows says whether the places of `n_keys` keys
  // are known under `ref`; PullKnown and PushKnown require that. Remember is given the keys after
  // they were pulled or pushed, and returns whether they are known from now on.
  virtual bool Knows(const KeySetRef&, size_t /*n_keys*/) { return false; }
  virtual void PullKnown(const KeySetRef&, float*) {}
  virtual std::optional<uint64_t> PushKnown(const KeySetRef&, const float*, bool /*are_tame*/) {
    return {};
  }
  virtual bool Remember(const KeySetRef&, Selection) { return false; }
  virtual void ForgetKeySets(const std::function<bool(SessionId)>& /*is_live*/) {}

  // The part of the rows in an image; see shard_image.h. ReadRows is false, and the shard stays as
  // it was, when they do not fit, are not finite or are not all that is left of the image. Requires
  // for it: no write was applied.
  virtual void WriteRows(ImageWriter* image) const = 0;
  virtual bool ReadRows(ImageReader* image) = 0;
  // Cuts; see shard_cut.h. BeginCut begins a cut of all rows, or of those that changed since the
  // last; true when it is of all. Requires: no cut is under way. The next two require that one is.
  virtual bool BeginCut(bool is_full) = 0;
  // The next slice, of at most `n_max` rows where these are single. Requires: n_max > 0.
  virtual void ReadCut(size_t n_max, CutSlice* slice) = 0;
  // Ends the cut. True when nothing of it was read: changes are counted from the cut before.
  virtual bool DropCut() = 0;
  // Ends the cut that may be under way; changes are not counted until the next.
  virtual void ForgetCuts() = 0;

  // What a cut gave is put back. Sparse tables only: whole rows, each in the place of one that may
  // be there. Requires: is_sparse(), and `rows` is (keys, row_floats()).
  virtual void LoadRows(std::span<const Key>, const float*) {}
  // Makes room for so many rows in all, before they are loaded. Cuts give rows in the order of the
  // index: put into a smaller one they would all want the same few buckets, and take quadratic
  // time.
  virtual void ReserveRows(size_t) {}
  // Dense tables only: elements of the table's values or slots, or rows of its row slots, from
  // `begin` on, in the array of that number. False when they are not all here.
  virtual bool LoadBlock(size_t /*array*/, uint64_t /*begin*/, std::span<const float>) {
    return false;
  }

  // A hash of keys, values and state, which does not depend on the order in which rows lie.
  virtual uint64_t Digest() const = 0;

  virtual uint64_t n_rows() const = 0;
  virtual uint64_t bytes() const = 0;

 protected:
  ShardData(const TableSpec* spec, std::shared_ptr<const UpdateRule> rule)
      : spec_(spec),
        rule_spec_(spec->rule),
        rule_(std::move(rule)),
        row_floats_(rule_->row_floats(spec->row_width)),
        is_initial_tame_(InitialReach(spec->initializer) <= rule_->bounds().tame_assign_max),
        n_sure_(is_initial_tame_ ? rule_->bounds().tame_updates : 0) {}

  // Whether the next push, to `n` of all units (rows or elements), must be tried before it may be
  // stored. Else it is sure that nothing becomes infinite by it: see RuleBounds. Looks at all there
  // is when that may have changed, which takes no longer than what was pushed since the last look.
  bool MustTry(bool are_gradients_tame, size_t n, size_t n_all);
  // What was loaded or assigned, or stored by a push that was tried.
  void NoteStored(const float* floats, size_t n) {
    if (n_sure_ > 0 && !ActiveKernels().all_within(floats, n, rule_->bounds().tame_max)) {
      n_sure_ = 0;
    }
  }
  void NoteAssigned(const float* values, size_t n) {
    if (n_sure_ > 0 && !ActiveKernels().all_within(values, n, rule_->bounds().tame_assign_max)) {
      n_sure_ = 0;
    }
  }
  // Whether every float, slots included, is up to `most` in size.
  virtual bool AreAllWithin(float most) const = 0;

 private:
  const TableSpec* const spec_;
  RuleSpec rule_spec_;  // of rule_
  std::shared_ptr<const UpdateRule> rule_;
  const size_t row_floats_;  // the same for every rate, and so read without a lock
  // For how many updates every row is sure to stay finite; replicas need not agree on it.
  const bool is_initial_tame_;
  uint64_t n_sure_;
  uint64_t n_since_look_ = 0;  // units pushed
};

// `rule` is that of `spec`, shared by the table's shards until one of them gets another rate. The
// pointers must outlive the shard.
std::unique_ptr<ShardData> MakeSparseShard(const TableSpec* spec,
                                           std::shared_ptr<const UpdateRule> rule, PagePool* pool);
std::unique_ptr<ShardData> MakeDenseShard(const TableSpec* spec, ShardId shard,
                                          std::shared_ptr<const UpdateRule> rule, PagePool* pool);

}  // namespace fastps
