// AdaGrad: s = s + g*g; w = w - lr * (g / (sqrt(s) + eps)).
// Constants: [lr, eps, weight_decay, lr_decay, initial_accumulator_value]. Slot 0: s.
//
// With an lr_decay the rate is lr / (1 + t * lr_decay) after t updates of the row. Row slots: t mod
// 2^24, t div 2^24. Without, there are none.
//
// eps is positive, so that a gradient of 0 on a new row divides 0 by eps and not 0 by 0.
#include <algorithm>

#include "rules/families.h"
#include "rules/tame.h"

namespace fastps::rules {
namespace {

class Adagrad final : public UpdateRule {
 public:
  Adagrad(UpdateLoops loops, const RuleConstants& constants, size_t n_row_slots, float first_sum,
          const RuleBounds& bounds)
      : UpdateRule(loops, constants, 1, n_row_slots, bounds), first_sum_(first_sum) {}

  void ResetState(const RowSpan& rows, size_t n_rows, size_t width) const override {
    std::fill_n(rows.slot0, n_rows * width, first_sum_);
    if (n_row_slots() > 0) {
      std::fill_n(rows.row_slot0, n_rows, 0.0f);
      std::fill_n(rows.row_slot1, n_rows, 0.0f);
    }
  }

 private:
  const float first_sum_;
};

double TameUpdates(double size, const RuleConstants& c) {
  const double w = size + kTameUpdatesMax * RoundedUpRate(c.lr) * QuotientReach(1, c.eps);
  const double g = double{kTameGradient} + double{c.weight_decay} * w;
  return w < kReachMax ? (kReachMax - size) / (g * g) : 0;
}

}  // namespace

std::unique_ptr<const UpdateRule> MakeAdagrad(const RuleSpec& spec, const Kernels& kernels,
                                              Status* status) {
  const float lr = spec.constants[0];
  const float eps = spec.constants[1];
  const float weight_decay = spec.constants[2];
  const float lr_decay = spec.constants[3];
  const float first_sum = spec.constants[4];
  *status = CheckConstant("AdaGrad", "lr", lr, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("AdaGrad", "eps", eps, Range::kPositive);
  if (status->ok()) {
    *status = CheckConstant("AdaGrad", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckConstant("AdaGrad", "lr_decay", lr_decay, Range::kNotNegative);
  if (status->ok()) {
    *status = CheckConstant("AdaGrad", "initial_accumulator_value", first_sum, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("AdaGrad", spec, 5);
  if (!status->ok()) return nullptr;
  const RuleConstants constants{
      .lr = lr, .eps = eps, .weight_decay = weight_decay, .lr_decay = lr_decay};
  RuleBounds bounds = TameBounds(constants, TameUpdates);
  if (first_sum > bounds.tame_max) bounds.tame_assign_max = -1.0f;
  if (weight_decay == 0.0f) bounds.gradient_max = kLargestSquared;
  const bool counts = HasRowSlots(spec);
  return std::make_unique<Adagrad>(counts ? kernels.adagrad_decay : kernels.adagrad, constants,
                                   counts ? 2 : 0, first_sum, bounds);
}

}  // namespace fastps::rules
