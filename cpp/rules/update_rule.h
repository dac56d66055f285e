// UpdateRule: how gradients change rows. One object per table, immutable after construction except
// for the loops being pure functions: any thread may call any method on rows it has exclusively.
//
// A sparse row is [value (width) | slot 0 (width) | slot 1 (width) ...], all float32.
// A dense block keeps value and each slot in arrays of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "kernels/kernels.h"
#include "routing/table_spec.h"

namespace fastps {

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;

  // How many floats of state each value carries (0, 1 or 2).
  virtual size_t n_slots() const = 0;

  // Applies one gradient row to each of `n_rows` distinct rows.
  void ApplyRows(float* const* rows,      // (n_rows,)
                 const float* gradients,  // (n_rows, width)
                 size_t n_rows, size_t width) const {
    loops_.rows(rows, gradients, n_rows, width, constants_);
  }

  // Applies a gradient to a dense block. slot0 and slot1 may be null where n_slots() is less.
  void ApplyBlock(float* values, float* slot0, float* slot1, const float* gradients,
                  size_t n) const {
    loops_.block(values, slot0, slot1, gradients, n, constants_);
  }

  // Resets the state to that of elements whose values were just set: so that the rule's own
  // arithmetic agrees with them (FTRL: z such that w equals the value).
  virtual void ResetState(const float* values, float* slot0, float* slot1, size_t n) const = 0;

 protected:
  UpdateRule(UpdateLoops loops, RuleConstants constants) : loops_(loops), constants_(constants) {}
  const RuleConstants& constants() const { return constants_; }

 private:
  const UpdateLoops loops_;
  const RuleConstants constants_;
};

// The rule of `spec`, running on `kernels`; null, with `status` saying why, when the kind or a
// constant is not legal. The order of the constants of each kind stands in its rules/<family>.cc.
std::unique_ptr<const UpdateRule> MakeUpdateRule(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status);

}  // namespace fastps
