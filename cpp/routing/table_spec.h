// TableSpec: what a table is, as plain values. Immutable once published; any thread may read it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "base/types.h"

namespace fastps {

// Wire values: they never change.
enum class TableKind : uint8_t { kSparse = 1, kDense = 2 };
enum class RuleKind : uint8_t {
  kAccumulate = 1,
  kSgd = 2,
  kAdagrad = 3,
  kFtrl = 4,
  kMomentum = 5,
  kRmsprop = 6,
  kAdam = 7,
};
enum class InitializerKind : uint8_t { kZeros = 1, kConstant = 2, kUniform = 3, kNormal = 4 };

inline constexpr size_t kRuleConstantsMax = 8;

// The meaning of each constant is the rule's own (see rules/<family>.cc).
struct RuleSpec {
  RuleKind kind = RuleKind::kAccumulate;
  std::array<float, kRuleConstantsMax> constants{};
  friend bool operator==(const RuleSpec&, const RuleSpec&) = default;
};

// zeros: none; constant: a; uniform: low a, high b; normal: mean a, standard deviation b.
struct InitializerSpec {
  InitializerKind kind = InitializerKind::kZeros;
  uint64_t seed = 0;
  float a = 0;
  float b = 0;
  friend bool operator==(const InitializerSpec&, const InitializerSpec&) = default;
};

// A table under BSP: the pushes of a round wait until it closes.
struct RoundsSpec {
  GroupId group;  // whose rounds count: that of the worker which created the table
  Round first;    // earlier rounds count as folded
  friend bool operator==(const RoundsSpec&, const RoundsSpec&) = default;
};

struct TableSpec {
  TableId id;
  std::string name;
  TableKind kind = TableKind::kSparse;
  uint64_t row_width = 1;  // floats of one row: the product of row_shape, or of shape[1:]
  uint64_t n_rows = 0;     // dense: shape[0], 1 for shape (); sparse: 0
  uint32_t num_shards = 1;
  uint8_t replication = 1;  // how many servers are to hold each shard
  RuleSpec rule;
  InitializerSpec initializer;
  std::optional<RoundsSpec> rounds;  // none: pushes take effect as they come
};

}  // namespace fastps
