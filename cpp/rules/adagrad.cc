// AdaGrad: s = s + g*g; w = w - lr * (g / (sqrt(s) + eps)). Constants: [lr, eps, weight_decay].
// Slot 0: s.
//
// eps is positive, so that a gradient of 0 on a new row divides 0 by eps and not 0 by 0.
#include "rules/families.h"

namespace fastps::rules {

std::unique_ptr<const UpdateRule> MakeAdagrad(const RuleSpec& spec, const Kernels& kernels,
                                              Status* status) {
  const float lr = spec.constants[0];
  const float eps = spec.constants[1];
  const float weight_decay = spec.constants[2];
  *status = CheckConstant("AdaGrad", "lr", lr, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("AdaGrad", "eps", eps, Range::kPositive);
  if (status->ok()) {
    *status = CheckConstant("AdaGrad", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("AdaGrad", spec, 3);
  if (!status->ok()) return nullptr;
  return MakePlainRule(kernels.adagrad, {.lr = lr, .eps = eps, .weight_decay = weight_decay}, 1);
}

}  // namespace fastps::rules
