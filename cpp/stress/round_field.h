// RoundField: the tables under BSP that a stress run works on, and what they must hold. Any thread
// may call any method.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "stress/caller.h"
#include "stress/closer.h"
#include "stress/field.h"
#include "stress/ledger.h"

namespace fastps::stress {

inline constexpr size_t kRoundRows = 130;
inline constexpr Rank kSlots{3};  // sessions of the group that work at a time

// Accumulate, `spec.row_width` floats a row that always hold the same count.
struct RoundTable {
  explicit RoundTable(TableSpec spec_in)
      : spec(std::move(spec_in)),
        ledger(std::make_shared<Ledger>(kRoundRows, spec.rounds->first)) {}
  bool is_sparse() const { return spec.kind == TableKind::kSparse; }
  const TableSpec spec;
  const std::shared_ptr<Ledger> ledger;
};

class RoundField {
 public:
  explicit RoundField(Field& field);

  Field& field() { return field_; }
  Closer& closer() { return field_.ground->closer(); }

  // Those that stay; the first is pulled with key sets as well.
  const std::vector<std::shared_ptr<const RoundTable>>& tables() const { return tables_; }
  // One that comes and goes, and starts behind many rounds; null: none.
  std::shared_ptr<const RoundTable> passing();
  void ComeAndGo(Client& client, int64_t until_ms);

  // Whether the pulled floats of these rows are as they were when all rounds below some number were
  // closed: `from` or a later one. Each shard may have a number of its own.
  void Check(const RoundTable& table, std::span<const size_t> rows, std::span<const float> values,
             Round from);

  // When all workers of the group left: waits until servers have all rounds, then the tables hold
  // exactly what was pushed by members.
  void CheckAll(Client& client);

  TableId wild;     // AdaGrad, (2,): set, removed and pushed between rounds
  TableId foreign;  // of another group
  std::atomic<uint64_t> n_pulls{0};
  std::atomic<uint64_t> n_exact{0};  // with one possible answer
  std::atomic<uint64_t> n_pushes{0};
  std::atomic<uint64_t> n_late{0};

 private:
  // Whether all shards have folded the rounds that servers have said to have folded.
  void CheckFolded(const RoundTable& table, Caller& caller);
  std::shared_ptr<const RoundTable> Add(const TableSpec& spec);

  Field& field_;
  std::vector<std::shared_ptr<const RoundTable>> tables_;
  Mutex mutex_;
  std::shared_ptr<const RoundTable> passing_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps::stress
