// RMSProp: s = alpha*s + (1-alpha)*g*g; w = w - lr * (g / (sqrt(s) + eps)).
// Constants: [lr, alpha, eps, weight_decay]. Slot 0: s.
#include "rules/families.h"
#include "rules/tame.h"

namespace fastps::rules {
namespace {

double TameUpdates(double size, const RuleConstants& c) {
  const double w =
      size + kTameUpdatesMax * RoundedUpRate(c.lr) * QuotientReach(1 - double{c.alpha}, c.eps);
  const double g = double{kTameGradient} + double{c.weight_decay} * w;
  return std::max({w, g * g + size}) < kReachMax ? kTameUpdatesMax : 0;
}

}  // namespace

std::unique_ptr<const UpdateRule> MakeRmsprop(const RuleSpec& spec, const Kernels& kernels,
                                              Status* status) {
  const float lr = spec.constants[0];
  const float alpha = spec.constants[1];
  const float eps = spec.constants[2];
  const float weight_decay = spec.constants[3];
  *status = CheckConstant("RMSProp", "lr", lr, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("RMSProp", "alpha", alpha, Range::kBelowOne);
  if (status->ok()) *status = CheckConstant("RMSProp", "eps", eps, Range::kPositive);
  if (status->ok()) {
    *status = CheckConstant("RMSProp", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("RMSProp", spec, 4);
  if (!status->ok()) return nullptr;
  const RuleConstants constants{.lr = lr, .eps = eps, .alpha = alpha, .weight_decay = weight_decay};
  RuleBounds bounds = TameBounds(constants, TameUpdates);
  if (weight_decay == 0.0f) bounds.gradient_max = kLargestSquared;
  return MakePlainRule(kernels.rmsprop, constants, 1, 0, bounds);
}

}  // namespace fastps::rules
