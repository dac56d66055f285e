#include "stress/field.h"

#include <random>
#include <unordered_set>

#include "stress/caller.h"

namespace fastps::stress {

TableSpec SpecOf(const char* name, TableKind kind, RuleKind rule, uint64_t row_width,
                 uint64_t n_rows, uint32_t num_shards) {
  TableSpec spec;
  spec.name = name;
  spec.kind = kind;
  spec.row_width = row_width;
  spec.n_rows = n_rows;
  spec.num_shards = num_shards;
  spec.rule.kind = rule;
  if (rule == RuleKind::kAdagrad) spec.rule.constants = {0.1f, 1e-6f};
  return spec;
}

Field::Field(Ground* ground_in, uint32_t n_lanes_in) : ground(ground_in), n_lanes(n_lanes_in) {
  const auto add = [&](const TableSpec& spec) { return ground->AddTable(spec).id; };
  sums = add(SpecOf("sums", TableKind::kSparse, RuleKind::kAccumulate, n_lanes, 0, 16));
  scalars = add(SpecOf("scalars", TableKind::kSparse, RuleKind::kAccumulate, 1, 0, 8));
  dense = add(SpecOf("dense", TableKind::kDense, RuleKind::kAccumulate, n_lanes, kDenseRows, 5));
  wild = add(SpecOf("wild", TableKind::kSparse, RuleKind::kAdagrad, 3, 0, 8));
  std::mt19937_64 random(1);
  for (size_t set = 0; set < kSets; ++set) {
    for (size_t i = 0; i < kSetKeys; ++i) set_rows[set].push_back(random() % kSumKeys);
  }
  for (uint32_t lane = 0; lane < n_lanes; ++lane) {
    sum_books.emplace_back(kSumKeys);
    dense_books.emplace_back(kDenseRows);
  }
}

KeySets Field::MakeSets() const {
  KeySets sets;
  for (size_t set = 0; set < kSets; ++set) {
    std::vector<Key> keys;
    for (const size_t row : set_rows[set]) keys.push_back(KeyOf(row));
    sets[set] = std::make_unique<KeySet>(std::move(keys), KeySetSignature{{set + 1, 7}});
  }
  return sets;
}

void CheckSums(Field& field, Client& client) {
  Caller caller(field, client);
  std::vector<Key> keys;
  for (size_t i = 0; i < kSumKeys; ++i) keys.push_back(KeyOf(i));
  const std::vector<float> sums = caller.PullRows(field.sums, keys);
  for (size_t row = 0; row < kSumKeys; ++row) {
    for (uint32_t lane = 0; lane < field.n_lanes; ++lane) {
      const float found = sums[row * field.n_lanes + lane];
      const uint32_t wanted = field.sum_books[lane].sent[row];
      if (found != static_cast<float>(wanted)) {
        STRESS_FAIL(field, "sums: row %zu, lane %u: %.0f, pushed %u", row, lane, found, wanted);
      }
    }
  }
  const std::vector<float> dense = caller.PullDense(field.dense);
  for (size_t row = 0; row < kDenseRows; ++row) {
    for (uint32_t lane = 0; lane < field.n_lanes; ++lane) {
      const float found = dense[row * field.n_lanes + lane];
      const uint32_t wanted = field.dense_books[lane].sent[row];
      if (found != static_cast<float>(wanted)) {
        STRESS_FAIL(field, "dense: row %zu, lane %u: %.0f, pushed %u", row, lane, found, wanted);
      }
    }
  }
  keys.clear();
  for (size_t i = 0; i < kScalarKeys; ++i) keys.push_back(KeyOf(i));
  const std::vector<float> scalars = caller.PullRows(field.scalars, keys);
  for (size_t row = 0; row < kScalarKeys; ++row) {
    const uint32_t wanted = field.scalar_book.sent[row];
    if (scalars[row] != static_cast<float>(wanted)) {
      STRESS_FAIL(field, "scalars: row %zu: %.0f, pushed %u", row, scalars[row], wanted);
    }
  }
  // Scans meet each row once, and stats count as many.
  std::unordered_set<Key> scanned;
  caller.ScanAll(field.sums, [&](Key key) {
    if (!scanned.insert(key).second) STRESS_FAIL(field, "a scan met a key twice");
  });
  const uint64_t n_rows = caller.CountRows(field.sums);
  if (n_rows != scanned.size()) {
    STRESS_FAIL(field, "scans met %zu rows, stats say %zu", scanned.size(), size_t{n_rows});
  }
}

}  // namespace fastps::stress
