// SGD: w = w - lr*g. Constants: [lr, weight_decay]. No slots.
#include "rules/families.h"
#include "rules/tame.h"

namespace fastps::rules {
namespace {

// Decay by up to the whole value only makes it smaller.
double TameUpdates(double size, const RuleConstants& c) {
  const double lr = RoundedUpRate(c.lr);
  const double decay = double{c.weight_decay};
  const double w = size + kTameUpdatesMax * lr * double{kTameGradient};
  const double g = double{kTameGradient} + decay * w;
  return lr * decay <= 1 && std::max({w, g, lr * g}) < kReachMax ? kTameUpdatesMax : 0;
}

}  // namespace

std::unique_ptr<const UpdateRule> MakeSgd(const RuleSpec& spec, const Kernels& kernels,
                                          Status* status) {
  const float lr = spec.constants[0];
  const float weight_decay = spec.constants[1];
  *status = CheckConstant("SGD", "lr", lr, Range::kNotNegative);
  if (status->ok()) {
    *status = CheckConstant("SGD", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("SGD", spec, 2);
  if (!status->ok()) return nullptr;
  const RuleConstants constants{.lr = lr, .weight_decay = weight_decay};
  return MakePlainRule(kernels.sgd, constants, 0, 0, TameBounds(constants, TameUpdates));
}

}  // namespace fastps::rules
