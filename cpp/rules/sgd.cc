// SGD: w = w - lr*g. Constants: [lr, weight_decay]. No slots.
#include "rules/families.h"

namespace fastps::rules {

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
  return MakePlainRule(kernels.sgd, {.lr = lr, .weight_decay = weight_decay}, 0);
}

}  // namespace fastps::rules
