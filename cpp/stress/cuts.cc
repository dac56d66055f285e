#include "stress/cuts.h"

#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <thread>
#include <unordered_set>
#include <utility>

#include "base/clock.h"
#include "server/shard_cuts.h"

namespace fastps::stress {
namespace {

constexpr int64_t kPauseMs = 4;

class Saver {
 public:
  Saver(Field& field, TableId rising, uint64_t seed)
      : field_(field), rising_(rising), random_(seed) {}

  // Whether the cut was read to its end.
  bool Cut(TableId table, ShardId shard) {
    Ground& ground = *field_.ground;
    const ShardView view = ground.ViewOf(table, shard);
    TailShard tail;
    // The server may not know of the view yet, or know the next.
    if (!FindTail(ground.HandlerOf(view.tail()), table, shard, view.number, &tail).ok()) {
      return false;
    }
    const CutId id{{random_(), random_()}};
    std::optional<CutId>& last = last_[{table, shard}];
    CutBegun begun;
    if (!tail.shard->BeginCut(id, last, {}, &begun).ok()) {
      STRESS_FAIL(field_, "a cut could not begin");
      return false;
    }
    if (random_() % 10 == 0) {
      tail.shard->DropCut(id);
      return false;
    }
    std::unordered_set<Key> keys;
    uint64_t n_rows = 0;
    for (CutSlice slice; !slice.finished;) {
      slice = {};
      if (!tail.shard->ReadCut(id, 1 + random_() % 100, &slice).ok()) return false;
      n_rows += slice.keys.size();
      for (const Key key : slice.keys) {
        if (!keys.insert(key).second) STRESS_FAIL(field_, "a cut has a row twice");
      }
      if (table == rising_) CheckRising(slice);
      if (random_() % 4 == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(random_() % kPauseMs));
      }
      if (random_() % 200 == 0) {
        tail.shard->DropCut(id);
        return false;
      }
    }
    if (tail.shard->is_sparse() && begun.is_full && n_rows != begun.n_rows) {
      STRESS_FAIL(field_, "a full cut has other rows than the shard had");
    }
    last = id;
    return true;
  }

 private:
  void CheckRising(const CutSlice& slice) {
    if (slice.keys.empty()) return;
    const size_t row_floats = slice.rows.size() / slice.keys.size();
    for (size_t i = 0; i < slice.keys.size(); ++i) {
      std::vector<float>& known = sums_[slice.keys[i]];
      known.resize(row_floats);
      for (size_t column = 0; column < row_floats; ++column) {
        const float sum = slice.rows[i * row_floats + column];
        if (sum < known[column]) STRESS_FAIL(field_, "a sum was higher in an earlier cut");
        known[column] = sum;
      }
    }
  }

  Field& field_;
  const TableId rising_;
  std::mt19937_64 random_;
  std::map<std::pair<TableId, ShardId>, std::optional<CutId>> last_;  // read to the end
  std::map<Key, std::vector<float>> sums_;                            // of rising_
};

}  // namespace

uint64_t RunCuts(Field& field, const std::vector<TableId>& tables, TableId rising, uint64_t seed,
                 int64_t until_ms) {
  Saver saver(field, rising, seed);
  std::mt19937_64 random(seed);
  uint64_t n_cuts = 0;
  while (NowMs() < until_ms) {
    const TableId table = tables[random() % tables.size()];
    const auto n_shards = field.ground->NumShards(table);
    n_cuts += saver.Cut(table, ShardId(static_cast<uint32_t>(random() % n_shards)));
  }
  return n_cuts;
}

}  // namespace fastps::stress
