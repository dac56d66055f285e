#include "stress/worker.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/clock.h"

namespace fastps::stress {
namespace {

constexpr size_t kOpenMax = 6;

using How = Caller::How;

std::vector<Key> KeysOf(std::span<const size_t> rows) {
  std::vector<Key> keys;
  for (const size_t row : rows) keys.push_back(KeyOf(row));
  return keys;
}

std::vector<uint32_t> Acknowledged(const Book& book, std::span<const size_t> rows) {
  std::vector<uint32_t> counts;
  for (const size_t row : rows) counts.push_back(book.acknowledged[row]);
  return counts;
}

}  // namespace

void Worker::Step() {
  switch (Random(16)) {
    case 0:
    case 1:
      return PushSums();
    case 2:
    case 3:
      return PushSet();
    case 4:
    case 5:
      return PushScalars();
    case 6:
      return PushDense();
    case 7:
      return PullSums();
    case 8:
      return PullSet();
    case 9:
      return PullScalars();
    case 10:
      return PullDense();
    case 11:
      return PassThrough();
    case 12:
    case 13:
      return Wild();
    case 14:
      return Transient();
    case 15:
      if (Random(20) == 0 && !client_.WaitForWrites(NowMs() + 60'000)) {
        STRESS_FAIL(field_, "writes have not ended");
      }
      (void)caller_.CountRows(Random(2) == 0 ? field_.dense : field_.scalars);
      return;
  }
}

void Worker::Finish() {
  for (const auto& open : open_) caller_.Finish(*open, {Code::kTableNotFound});
  open_.clear();
}

std::vector<size_t> Worker::RandomRows(size_t n_max, size_t n_rows) {
  std::vector<size_t> rows(1 + Random(n_max));
  for (size_t& row : rows) row = Random(n_rows);
  return rows;
}

std::vector<float> Worker::OnesOfLane(size_t n_rows) const {
  std::vector<float> ones(n_rows * field_.n_lanes);
  for (size_t i = 0; i < n_rows; ++i) ones[i * field_.n_lanes + lane_] = 1.0f;
  return ones;
}

void Worker::Settle(std::unique_ptr<OpenCall> open) {
  if (open == nullptr) {
    STRESS_FAIL(field_, "a table is gone");
    return;
  }
  if (Random(8) == 0) {
    // Given up early: it takes effect all the same.
    if (client_.Wait(*open->call, NowMs() + static_cast<int64_t>(Random(3)))) {
      caller_.Finish(*open);
    } else {
      client_.Detach(*open->call);
    }
    return;
  }
  if (Random(2) == 0) {
    caller_.Finish(*open);
    return;
  }
  open_.push_back(std::move(open));
  if (open_.size() <= kOpenMax) return;
  (void)client_.IsDone(*open_.front()->call);
  caller_.Finish(*open_.front(), {Code::kTableNotFound});
  open_.erase(open_.begin());
}

void Worker::PushSums() {
  std::vector<size_t> rows = RandomRows(60, kSumKeys);
  Book& book = field_.sum_books[lane_];
  book.NoteSent(rows);
  auto open = caller_.StartKeys(Op::kPush, field_.sums, KeysOf(rows), OnesOfLane(rows.size()),
                                Random(2) == 0 ? How::kAsync : How::kWait);
  if (open != nullptr) {
    open->rows = std::move(rows);
    open->book = &book;
  }
  Settle(std::move(open));
}

void Worker::PushSet() {
  const size_t set = Random(kSets);
  const std::vector<size_t>& rows = field_.set_rows[set];
  const bool scalar = Random(2) == 0;
  Book& book = scalar ? field_.scalar_book : field_.sum_books[lane_];
  book.NoteSent(rows);
  auto open =
      caller_.StartSet(Op::kPush, scalar ? field_.scalars : field_.sums, *sets_[set],
                       scalar ? std::vector<float>(rows.size(), 1.0f) : OnesOfLane(rows.size()),
                       Random(2) == 0 ? How::kAsync : How::kWait);
  if (open != nullptr) {
    open->rows = rows;
    open->book = &book;
  }
  Settle(std::move(open));
}

void Worker::PushScalars() {
  std::vector<size_t> rows = RandomRows(100, kScalarKeys);
  field_.scalar_book.NoteSent(rows);
  auto open = caller_.StartKeys(Op::kPush, field_.scalars, KeysOf(rows),
                                std::vector<float>(rows.size(), 1.0f),
                                Random(2) == 0 ? How::kAsync : How::kWait);
  if (open != nullptr) {
    open->rows = std::move(rows);
    open->book = &field_.scalar_book;
  }
  Settle(std::move(open));
}

void Worker::PushDense() {
  std::vector<size_t> rows;
  if (Random(4) == 0) {
    for (size_t row = 0; row < kDenseRows; ++row) rows.push_back(row);
  } else {
    rows = RandomRows(20, kDenseRows);
  }
  const bool whole = rows.size() == kDenseRows;
  Book& book = field_.dense_books[lane_];
  book.NoteSent(rows);
  const std::vector<uint64_t> dense_rows(rows.begin(), rows.end());
  auto open =
      caller_.StartDense(Op::kPush, field_.dense, whole ? std::span<const uint64_t>() : dense_rows,
                         OnesOfLane(rows.size()), Random(2) == 0 ? How::kAsync : How::kWait);
  if (open != nullptr) {
    open->rows = std::move(rows);
    open->book = &book;
  }
  Settle(std::move(open));
}

void Worker::CheckLane(std::span<const size_t> rows, std::span<const float> values,
                       const Book& book, std::span<const uint32_t> at_least) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const float value = values[i * field_.n_lanes + lane_];
    const uint32_t at_most = book.sent[rows[i]];
    if (value < static_cast<float>(at_least[i]) || value > static_cast<float>(at_most)) {
      STRESS_FAIL(field_, "row %zu, lane %u: pulled %.0f, acknowledged %u, sent %u", rows[i], lane_,
                  value, at_least[i], at_most);
    }
  }
}

void Worker::PullSums() {
  const std::vector<size_t> rows = RandomRows(60, kSumKeys);
  const Book& book = field_.sum_books[lane_];
  const std::vector<uint32_t> at_least = Acknowledged(book, rows);
  CheckLane(rows, caller_.PullRows(field_.sums, KeysOf(rows)), book, at_least);
}

void Worker::PullSet() {
  const size_t set = Random(kSets);
  const std::vector<size_t>& rows = field_.set_rows[set];
  const Book& book = field_.sum_books[lane_];
  const std::vector<uint32_t> at_least = Acknowledged(book, rows);
  const auto open = caller_.StartSet(Op::kPull, field_.sums, *sets_[set], {}, How::kWait);
  if (open == nullptr || caller_.Finish(*open) != Code::kOk) return;
  CheckLane(rows, open->values, book, at_least);
}

void Worker::PullScalars() {
  const std::vector<size_t> rows = RandomRows(100, kScalarKeys);
  const Book& book = field_.scalar_book;
  const std::vector<uint32_t> at_least = Acknowledged(book, rows);
  const std::vector<float> values = caller_.PullRows(field_.scalars, KeysOf(rows));
  for (size_t i = 0; i < rows.size(); ++i) {
    if (values[i] < static_cast<float>(at_least[i]) ||
        values[i] > static_cast<float>(book.sent[rows[i]])) {
      STRESS_FAIL(field_, "scalar row %zu: pulled %.0f, acknowledged %u", rows[i], values[i],
                  at_least[i]);
    }
  }
}

void Worker::PullDense() {
  std::vector<size_t> rows = RandomRows(20, kDenseRows);
  const Book& book = field_.dense_books[lane_];
  const std::vector<uint32_t> at_least = Acknowledged(book, rows);
  const std::vector<uint64_t> dense_rows(rows.begin(), rows.end());
  const auto open = caller_.StartDense(Op::kPull, field_.dense, dense_rows, {}, How::kAsync);
  if (open == nullptr || caller_.Finish(*open) != Code::kOk) return;
  CheckLane(rows, open->values, book, at_least);
}

void Worker::PassThrough() {
  std::vector<Key> keys;
  for (size_t i = 0; i < 30; ++i) keys.push_back(PassingKeyOf(Random(20'000)));
  const auto push = caller_.StartKeys(Op::kPush, field_.scalars, keys,
                                      std::vector<float>(keys.size(), 1.0f), How::kWait);
  caller_.Finish(*push);
  if (Random(3) == 0) return;
  const auto remove = caller_.StartKeys(Op::kRemove, field_.scalars, keys, {}, How::kWait);
  caller_.Finish(*remove);
}

void Worker::Wild() {
  const std::vector<size_t> rows = RandomRows(40, kWildKeys);
  const std::vector<Key> keys = KeysOf(rows);
  const auto start = [&](Op op, std::vector<float> values) {
    return caller_.StartKeys(op, field_.wild, keys, std::move(values), How::kWait);
  };
  switch (Random(6)) {
    case 0:
      return Settle(start(Op::kAssign, std::vector<float>(keys.size() * 3, 0.5f)));
    case 1:
      return Settle(start(Op::kRemove, {}));
    case 2: {
      const auto open = start(Op::kContains, {});
      caller_.Finish(*open);
      if (std::ranges::any_of(open->flags, [](uint8_t flag) { return flag > 1; })) {
        STRESS_FAIL(field_, "contains says neither yes nor no");
      }
      return;
    }
    case 3:
      return caller_.ScanAll(field_.wild, [](Key) {});
    case 4: {
      const std::vector<float> values = caller_.PullRows(field_.wild, keys);
      if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
        STRESS_FAIL(field_, "a pulled value is not finite");
      }
      return;
    }
    default:
      return Settle(start(Op::kPush, std::vector<float>(keys.size() * 3, -1.0f)));
  }
}

void Worker::Transient() {
  const uint32_t table = field_.passing_table.load();
  if (table == 0) return;
  const std::vector<Key> keys = KeysOf(RandomRows(40, kWildKeys));
  auto open =
      caller_.StartKeys(Op::kPush, TableId(table), keys, std::vector<float>(keys.size(), 1.0f),
                        Random(2) == 0 ? How::kAsync : How::kWait);
  if (open != nullptr) caller_.Finish(*open, {Code::kTableNotFound});
  for (const auto& failure : client_.TakeUnobservedFailures()) {
    if (failure->status().code() == Code::kTableNotFound) continue;
    STRESS_FAIL(field_, "a write failed unseen: %s", failure->status().message().c_str());
  }
}

}  // namespace fastps::stress
