// UpdateRule: how gradients change rows. One object per table, immutable after construction except
// for the loops being pure functions: any thread may call any method on rows it has exclusively.
//
// Each value carries n_slots() floats of state, and each row n_row_slots() more.
// A sparse row is [value (width) | slot 0 (width) | slot 1 (width) | row slots], all float32.
// A dense block keeps the values, each slot and each row slot in arrays of their own.
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
  UpdateRule(UpdateLoops loops, const RuleConstants& constants, size_t n_slots, size_t n_row_slots)
      : loops_(loops), constants_(constants), n_slots_(n_slots), n_row_slots_(n_row_slots) {}
  const RuleConstants& constants() const { return constants_; }

 private:
  const UpdateLoops loops_;
  const RuleConstants constants_;
  const size_t n_slots_;
  const size_t n_row_slots_;
};

// The rule of `spec`, running on `kernels`; null, with `status` saying why, when the kind or a
// constant is not legal. The order of the constants of each kind stands in its rules/<family>.cc.
std::unique_ptr<const UpdateRule> MakeUpdateRule(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status);

// The same rule with another learning rate, from the next gradient on: rows keep their state. Not
// Ok, and `changed` untouched, when the rule has none or `lr` is not legal.
Status WithLr(const RuleSpec& spec, float lr, RuleSpec* changed);

// Whether rules of this kind keep state for each row besides that of its values. Such rows must be
// pushed whole: see CheckRowParts.
constexpr bool HasRowSlots(RuleKind kind) { return kind == RuleKind::kAdam; }

// Ok when each row of a dense table, or its part in each block, can travel in one piece.
Status CheckRowParts(const TableSpec& spec);

}  // namespace fastps
