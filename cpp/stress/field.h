// Field: the tables and key sets that all threads of a stress run work on, and the book of what was
// pushed to them. Immutable, or atomic: any thread may use it.
#pragma once

#include <array>
#include <atomic>
#include <cstdio>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "client/key_set.h"
#include "stress/ground.h"

namespace fastps::stress {

inline constexpr size_t kSumKeys = 2000;     // rows of sums, one column a lane
inline constexpr size_t kScalarKeys = 3000;  // rows of one float, shared by all lanes
inline constexpr size_t kDenseRows = 61;     // a prime, so that blocks cut rows
inline constexpr size_t kWildKeys = 500;
inline constexpr size_t kSetKeys = 400;
inline constexpr size_t kSets = 4;

// Keys all over the 64 bits, the greatest among them.
inline Key KeyOf(size_t i) { return ~uint64_t{i * i * i * 0x9e3779b97f4a7c15u}; }
// Rows of the scalar table that come and go.
inline Key PassingKeyOf(uint64_t i) { return uint64_t{1} << 40 | i; }

// How often each row was pushed 1.0: at most `sent`; at least `acknowledged`.
struct Book {
  explicit Book(size_t n) : sent(n), acknowledged(n) {}
  // Call before the push is started.
  void NoteSent(std::span<const size_t> rows) {
    for (const size_t row : rows) sent[row].fetch_add(1);
  }
  std::vector<std::atomic<uint32_t>> sent;
  std::vector<std::atomic<uint32_t>> acknowledged;
};

using KeySets = std::array<std::unique_ptr<KeySet>, kSets>;

struct Field {
  Field(Ground* ground, uint32_t n_lanes);

  // Key sets for one client: what is known of them holds for its session and maps.
  KeySets MakeSets() const;

  Ground* const ground;
  const uint32_t n_lanes;
  TableId sums;     // Accumulate, (n_lanes,) a row: each lane has a column
  TableId scalars;  // Accumulate, one float: lives inside the index
  TableId dense;    // Accumulate, (kDenseRows, n_lanes)
  TableId wild;     // AdaGrad, (3,): rows come, go and are set
  std::array<std::vector<size_t>, kSets> set_rows;  // what the key sets hold, with repeats
  std::deque<Book> sum_books;                       // by lane, each by row
  std::deque<Book> dense_books;                     // by lane, each by row
  Book scalar_book{kScalarKeys};
  std::atomic<uint32_t> passing_table{0};  // a table that comes and goes; 0: none
  std::atomic<uint64_t> n_failures{0};
  std::atomic<uint64_t> n_calls{0};
};

// A promise was broken: says so, and the run will fail.
#define STRESS_FAIL(field, ...)                                    \
  do {                                                             \
    if ((field).n_failures.fetch_add(1) < 20) {                    \
      std::fprintf(stderr, "stress: %s:%d: ", __FILE__, __LINE__); \
      std::fprintf(stderr, __VA_ARGS__);                           \
      std::fputc('\n', stderr);                                    \
    }                                                              \
  } while (false)

TableSpec SpecOf(const char* name, TableKind kind, RuleKind rule, uint64_t row_width,
                 uint64_t n_rows, uint32_t num_shards);

// When everybody is done and every write has ended: the tables hold exactly what the books say.
void CheckSums(Field& field, Client& client);

}  // namespace fastps::stress
