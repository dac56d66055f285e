// Kernels: a named table of the element-wise loops, one table per CPU feature set. Each loop is
// written once (loops-inl.h) and compiled per target; all tables give equal bits, because loops are
// element-wise, -ffp-contract=off forbids fused multiply-add, and only + - * / sqrt are used.
// Tables are immutable: any thread may use them.
//
// Each loop runs on the widest vectors that pay for its rule and width. Nanoseconds a float on a
// Zen 4 core, rows anywhere in the L2 cache, by width:
//
//              AdaGrad                     FTRL                        Adam
//                 1     3     7    64         1     3     7    64         1     3     7    64
//   one by one 2.33  2.28  2.27     -      5.67  5.56  5.55     -      5.50  3.37  2.79     -
//   baseline   1.22  1.09  0.71  0.57      2.62  3.48  2.14  1.42      3.06  2.99  1.67  0.65
//   avx2       0.88  1.03  0.64  0.28      1.55  2.31  1.24  0.70      2.07  2.24  1.18  0.34
//   avx512     as avx2                     as avx2            0.66     as avx2            0.32
//
// avx512 is avx2 but for FTRL and Adam from width 64 on: there 512 bits win 5 to 9 %, elsewhere at
// most 3 %, and they lose up to a quarter on narrow rows of Adam. Its masks are not used: they
// halve the time of widths 5 to 7 where rows lie apart, but a masked load waits for the stores to
// the row before it, which made rows that lie side by side 2 to 4 times slower.
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
  float lr_decay = 0;
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
  UpdateLoops accumulate;     // no slots
  UpdateLoops sgd;            // no slots; lr
  UpdateLoops adagrad;        // slot 0: sum of squares; lr, eps
  UpdateLoops adagrad_decay;  // the same; row slots: updates of the row, low and high; lr_decay
  UpdateLoops ftrl;           // slot 0: z, slot 1: n; alpha, beta, l1, l2
  UpdateLoops momentum;       // slot 0: velocity; lr, momentum
  UpdateLoops nesterov;       // the same
  UpdateLoops rmsprop;        // slot 0: mean of squares; lr, alpha, eps
  UpdateLoops adam;  // slots 0, 1: m, v; row slots 0, 1: their weights; lr, beta1, beta2, eps

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
