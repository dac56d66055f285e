// Caller: the operations of a client as one thread of a stress run uses them. One thread at a time;
// the client may be shared.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "client/client.h"
#include "stress/field.h"

namespace fastps::stress {

// What a call of a worker in steps has beside its arrays.
struct Terms {
  uint64_t argument = 0;  // under BSP: the step, plus 1
  Gate gate;              // asynchronous calls wait for it
};

// A call under way, with the arrays it reads and fills.
struct OpenCall {
  std::shared_ptr<Call> call;
  std::vector<float> values;
  std::vector<uint8_t> flags;
  std::vector<size_t> rows;  // the rows that the book has as sent
  Book* book = nullptr;      // notes them as acknowledged at the end; null: not booked
};

class Caller {
 public:
  Caller(Field& field, Client& client) : field_(field), client_(client) {}

  enum class How { kWait, kAsync };
  // Null when the table is not there.
  std::unique_ptr<OpenCall> StartKeys(Op op, TableId table, std::span<const Key> keys,
                                      std::vector<float> values, How how, const Terms& terms = {});
  std::unique_ptr<OpenCall> StartSet(Op op, TableId table, KeySet& keys, std::vector<float> values,
                                     How how, const Terms& terms = {});
  // `dense_rows` empty: the whole table.
  std::unique_ptr<OpenCall> StartDense(Op op, TableId table, std::span<const uint64_t> dense_rows,
                                       std::vector<float> values, How how, const Terms& terms = {});

  // Waits, at most a minute, and returns the call's code. `may_fail` says which others are right.
  Code Finish(OpenCall& open, std::initializer_list<Code> may_fail = {});

  // Requires of these: the table is there.
  std::vector<float> PullRows(TableId table, std::span<const Key> keys);
  std::vector<float> PullDense(TableId table);
  void ScanAll(TableId table, const std::function<void(Key)>& visit);
  std::vector<ShardReport> Stats(TableId table);
  uint64_t CountRows(TableId table);

 private:
  std::unique_ptr<OpenCall> Start(Op op, std::shared_ptr<const ShardPlan> plan,
                                  std::shared_ptr<const Batch> batch,
                                  std::shared_ptr<KeySetState> state, std::vector<float> values,
                                  How how, const Terms& terms);

  Field& field_;
  Client& client_;
};

}  // namespace fastps::stress
