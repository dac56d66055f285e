// Kernels: a named table of the element-wise loops, one table per CPU feature set. Each loop is
// written once (loops-inl.h) and compiled per target; all tables give equal bits, because loops are
// element-wise, -ffp-contract=off forbids fused multiply-add, and only + - * / sqrt are used.
// Tables are immutable: any thread may use them.
//
// avx512 computes with the same 256-bit vectors as avx2, and masks what does not fill one. Measured
// on a Zen 4 core (nanoseconds a float, rows in the L2 cache, by width):
//
//                AdaGrad                         Adam
//                   1     3     7    16    64       1     3     7    16    64
//     baseline   1.23  1.04  0.72  0.57  0.57    3.03  2.28  1.42  0.75  0.66
//     avx2       0.91  1.03  0.71  0.28  0.28    2.07  2.23  1.33  0.46  0.35
//     avx512     0.92  0.80  0.38  0.29  0.28    2.12  1.68  0.72  0.48  0.35
//
// 512-bit vectors were at best 3 % faster for rules that divide and no faster for others, and slow
// down the clock of some CPUs: refused.
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
  float momentum = 0;
  float beta1 = 0;
  float beta2 = 0;
  float weight_decay = 0;
};

// Updates sparse rows. rows[i] points at the row's floats: value (width), then each slot (width),
// then the row slots (one float each).
// Requires: the rows are distinct.
using UpdateRows = void (*)(float* const* rows,      // (n_rows,)
                            const float* gradients,  // (n_rows, width)
                            size_t n_rows, size_t width, const RuleConstants& constants);

// Where the floats of rows that lie side by side are: value and slots in arrays of their own. What
// a rule has no use for may be null.
struct RowSpan {
  float* values;     // (n_rows, width)
  float* slot0;      // (n_rows, width)
  float* slot1;      // (n_rows, width)
  float* row_slot0;  // (n_rows,)
  float* row_slot1;  // (n_rows,)
};

// Updates a dense block of rows.
using UpdateBlock = void (*)(const RowSpan& block,
                             const float* gradients,  // (n_rows, width)
                             size_t n_rows, size_t width, const RuleConstants& constants);

struct UpdateLoops {
  UpdateRows rows;
  UpdateBlock block;
};

struct Kernels {
  std::string_view name;  // "baseline", "avx2", "avx512"

  // All but accumulate and ftrl add weight_decay * value to the gradient unless it is 0.
  UpdateLoops accumulate;  // no slots
  UpdateLoops sgd;         // no slots; lr
  UpdateLoops adagrad;     // slot 0: sum of squares; lr, eps
  UpdateLoops ftrl;        // slot 0: z, slot 1: n; alpha, beta, l1, l2
  UpdateLoops momentum;    // slot 0: velocity; lr, momentum
  UpdateLoops nesterov;    // the same
  UpdateLoops rmsprop;     // slot 0: mean of squares; lr, alpha, eps
  UpdateLoops adam;        // slots 0, 1: m, v; row slots 0, 1: their weights; lr, beta1, beta2, eps

  void (*add)(float* sums, const float* addends, size_t n);  // sums[i] += addends[i]

  // Sums what several workers pushed, from left to right: sums = ((a0 + a1) + a2) + ...
  // Requires: n_addends >= 1; sums overlaps no addend.
  void (*sum_blocks)(float* sums,                  // (n,)
                     const float* const* addends,  // (n_addends,) arrays of (n,)
                     size_t n_addends, size_t n);
  // The same for rows that not all workers pushed: row i sums the addends from begins[i] to
  // begins[i + 1], end excluded. Requires: every row has at least one.
  void (*sum_rows)(float* sums,                  // (n_rows, width)
                   const float* const* addends,  // (begins[n_rows],) arrays of (width,)
                   const size_t* begins,         // (n_rows + 1,)
                   size_t n_rows, size_t width);

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
