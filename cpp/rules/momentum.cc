// Momentum: v = momentum*v + g; w = w - lr*v, or with Nesterov's w = w - lr*(g + momentum*v).
// Constants: [lr, momentum, nesterov (0 or 1), weight_decay]. Slot 0: v, the velocity.
//
// PyTorch's buffer is the gradient itself at the first step; ours is momentum * 0 + g, which is the
// same.
#include "rules/families.h"

namespace fastps::rules {

std::unique_ptr<const UpdateRule> MakeMomentum(const RuleSpec& spec, const Kernels& kernels,
                                               Status* status) {
  const float lr = spec.constants[0];
  const float momentum = spec.constants[1];
  const float nesterov = spec.constants[2];
  const float weight_decay = spec.constants[3];
  *status = CheckConstant("Momentum", "lr", lr, Range::kNotNegative);
  if (status->ok()) {
    *status = CheckConstant("Momentum", "momentum", momentum, Range::kNotNegative);
  }
  if (status->ok() && nesterov != 0.0f && nesterov != 1.0f) {
    *status = {Code::kConfig, "Momentum: nesterov is neither 0 nor 1"};
  }
  if (status->ok() && nesterov == 1.0f) {
    *status = CheckConstant("Momentum", "momentum with nesterov", momentum, Range::kPositive);
  }
  if (status->ok()) {
    *status = CheckConstant("Momentum", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("Momentum", spec, 4);
  if (!status->ok()) return nullptr;
  return MakePlainRule(nesterov == 1.0f ? kernels.nesterov : kernels.momentum,
                       {.lr = lr, .momentum = momentum, .weight_decay = weight_decay}, 1);
}

}  // namespace fastps::rules
