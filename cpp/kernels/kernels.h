// Kernels: a named table of the element-wise loops, one table per CPU feature set. Each loop is
// written once (loops-inl.h) and compiled per target; all tables give equal bits, because loops are
// element-wise, -ffp-contract=off forbids fused multiply-add, and only + - * / sqrt are used.
// Tables are immutable: any thread may use them.
#pragma once

#include <cfloat>
#include <cstddef>
#include <span>
#include <string_view>

namespace fastps {

// What an update loop needs to know of its rule. Each rule names the fields it reads.
struct RuleConstants {
  float lr = 0;
  float eps = 0;
  float alpha = 0;
  float beta = 0;
  float l1 = 0;
  float l2 = 0;
};

// Updates sparse rows. rows[i] points at the row's floats: value (width), then each slot (width).
// Requires: the rows are distinct.
using UpdateRows = void (*)(float* const* rows,      // (n_rows,)
                            const float* gradients,  // (n_rows, width)
                            size_t n_rows, size_t width, const RuleConstants& constants);

// Updates a dense block, whose value and slots are arrays of their own. A rule with fewer than two
// slots ignores the rest.
using UpdateBlock = void (*)(float* values,           // (n,)
                             float* slot0,            // (n,)
                             float* slot1,            // (n,)
                             const float* gradients,  // (n,)
                             size_t n, const RuleConstants& constants);

struct UpdateLoops {
  UpdateRows rows;
  UpdateBlock block;
};

struct Kernels {
  std::string_view name;  // "baseline", "avx2"

  UpdateLoops accumulate;  // no slots
  UpdateLoops sgd;         // no slots; lr
  UpdateLoops adagrad;     // slot 0: sum of squares; lr, eps
  UpdateLoops ftrl;        // slot 0: z, slot 1: n; alpha, beta, l1, l2

  void (*add)(float* sums, const float* addends, size_t n);  // sums[i] += addends[i]
  // Whether every |values[i]| <= bound; a NaN never is. Requires: bound >= 0.
  bool (*all_within)(const float* values, size_t n, float bound);
};

// Whether no value is NaN or infinite.
inline bool AllFinite(const Kernels& kernels, const float* values, size_t n) {
  return kernels.all_within(values, n, FLT_MAX);
}

// The tables this CPU can run, slowest first. Never empty: baseline comes first.
std::span<const Kernels* const> AvailableKernels();

// The table in use: the last available one until ForceKernels is called.
const Kernels& ActiveKernels();

// Makes the named table the active one. False when it is unknown or this CPU cannot run it.
// Meant for start-up: callers that hold the former table go on with it.
bool ForceKernels(std::string_view name);

}  // namespace fastps
