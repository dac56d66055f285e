// UpdateRule: how gradients change rows. One object per table, immutable after construction except
// for the loops being pure functions: any thread may call any method on rows it has exclusively.
//
// Each value carries n_slots() floats of state, and each row n_row_slots() more.
// A sparse row is [value (width) | slot 0 (width) | slot 1 (width) | row slots], all float32.
// A dense block keeps the values, each slot and each row slot in arrays of their own.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "kernels/kernels.h"
#include "routing/table_spec.h"

namespace fastps {

// Gradients up to this are tame: what they can do to a row is bounded; see rules/tame.h.
inline constexpr float kTameGradient = 0x1p20f;

// What a rule can take without storing what is not finite.
struct RuleBounds {
  float gradient_max = FLT_MAX;  // larger ones are refused, whatever the row holds
  float assign_max = FLT_MAX;    // larger values have a state beyond float32
  // Rows whose floats are all up to tame_max stay finite for so many updates with tame gradients;
  // 0: for none that is sure. Values up to tame_assign_max make such rows; < 0: none do.
  float tame_max = 0;
  uint64_t tame_updates = 0;
  float tame_assign_max = 0;
};

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;

  const RuleBounds& bounds() const { return bounds_; }

  size_t n_slots() const { return n_slots_; }          // 0, 1 or 2
  size_t n_row_slots() const { return n_row_slots_; }  // 0 or 2
  size_t row_floats(size_t width) const { return width * (1 + n_slots_) + n_row_slots_; }

  // Applies one gradient row to each of `n_rows` distinct rows.
  void ApplyRows(float* const* rows,      // (n_rows,)
                 const float* gradients,  // (n_rows, width)
                 size_t n_rows, size_t width) const {
    loops_.rows(rows, gradients, n_rows, width, constants_);
  }

  // Applies one gradient row to each of the rows of a dense block. Without row slots only the
  // product of n_rows and width matters.
  void ApplyBlock(const RowSpan& rows,
                  const float* gradients,  // (n_rows, width)
                  size_t n_rows, size_t width) const {
    loops_.block(rows, gradients, n_rows, width, constants_);
  }

  // Resets the state to that of rows whose values were just set: so that the rule's own arithmetic
  // agrees with them (FTRL: z such that w equals the value). Values are read only.
  virtual void ResetState(const RowSpan& rows, size_t n_rows, size_t width) const = 0;

 protected:
  UpdateRule(UpdateLoops loops, const RuleConstants& constants, size_t n_slots, size_t n_row_slots,
             const RuleBounds& bounds)
      : loops_(loops),
        constants_(constants),
        n_slots_(n_slots),
        n_row_slots_(n_row_slots),
        bounds_(bounds) {}
  const RuleConstants& constants() const { return constants_; }

 private:
  const UpdateLoops loops_;
  const RuleConstants constants_;
  const size_t n_slots_;
  const size_t n_row_slots_;
  const RuleBounds bounds_;
};

// The rule of `spec`, running on `kernels`; null, with `status` saying why, when the kind or a
// constant is not legal. The order of the constants of each kind stands in its rules/<family>.cc.
std::unique_ptr<const UpdateRule> MakeUpdateRule(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status);

// Whether rules of this kind have a learning rate, which WithLr changes.
constexpr bool HasRate(RuleKind kind) {
  return kind != RuleKind::kAccumulate && kind != RuleKind::kFtrl;
}

// The same rule with another learning rate, from the next gradient on: rows keep their state. Not
// Ok, and `changed` untouched, when the rule has none or `lr` is not legal.
Status WithLr(const RuleSpec& spec, float lr, RuleSpec* changed);

// Whether this rule keeps state for each row besides that of its values. Such rows must be pushed
// whole: see CheckRowParts.
constexpr bool HasRowSlots(const RuleSpec& rule) {
  return rule.kind == RuleKind::kAdam ||
         (rule.kind == RuleKind::kAdagrad && rule.constants[3] != 0.0f);
}

// The bounds of the legal rule `spec`.
RuleBounds BoundsOf(const RuleSpec& spec);

// Ok when rows with these initial values have a finite state under this rule.
Status CheckInitialState(const InitializerSpec& initializer, const RuleSpec& rule);

// Ok when each row of a dense table, or its part in each block, can travel in one piece.
Status CheckRowParts(const TableSpec& spec);

}  // namespace fastps
