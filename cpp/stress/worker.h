// Worker: what one thread of a stress run does, at random: every operation on every table, waited
// for, asynchronous and given up. It pushes 1.0 only, so that sums are exact, and it checks with
// each pull of its own lane that no push is missing and none is there twice.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "stress/caller.h"
#include "stress/field.h"

namespace fastps::stress {

class Worker {
 public:
  // `client` and `sets` may be shared with other workers, `lane` is this one's alone.
  Worker(Field& field, Client& client, KeySets& sets, uint32_t lane, uint64_t seed)
      : field_(field),
        client_(client),
        sets_(sets),
        lane_(lane),
        random_(seed),
        caller_(field, client) {}

  void Step();    // one random operation
  void Finish();  // waits for what is under way

 private:
  size_t Random(size_t n) { return random_() % n; }
  std::vector<size_t> RandomRows(size_t n_max, size_t n_rows);
  // 1.0 in this lane's column of each row.
  std::vector<float> OnesOfLane(size_t n_rows) const;
  // Waits for `open`, keeps it for later, or gives it up.
  void Settle(std::unique_ptr<OpenCall> open);

  void PushSums();
  void PushSet();
  void PushScalars();
  void PushDense();
  void PullSums();
  void PullSet();
  void PullScalars();
  void PullDense();
  void PassThrough();  // rows of the scalar table that come and go: places move, sets are forgotten
  void Wild();
  void Transient();  // a table that may be dropped at any time

  void CheckLane(std::span<const size_t> rows, std::span<const float> values, const Book& book,
                 std::span<const uint32_t> at_least);

  Field& field_;
  Client& client_;
  KeySets& sets_;
  const uint32_t lane_;
  std::mt19937_64 random_;
  Caller caller_;
  std::vector<std::unique_ptr<OpenCall>> open_;
};

}  // namespace fastps::stress
