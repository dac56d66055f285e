// AdaGrad: s = s + g*g; w = w - lr * (g / (sqrt(s) + eps)). Constants: [lr, eps]. Slot 0: s.
//
// eps is positive, so that a gradient of 0 on a new row divides 0 by eps and not 0 by 0.
#include <algorithm>

#include "rules/families.h"

namespace fastps::rules {
namespace {

class Adagrad final : public UpdateRule {
 public:
  Adagrad(const Kernels& kernels, float lr, float eps)
      : UpdateRule(kernels.adagrad, {.lr = lr, .eps = eps}) {}

  size_t n_slots() const override { return 1; }
  void ResetState(const float*, float* slot0, float*, size_t n) const override {
    std::fill_n(slot0, n, 0.0f);
  }
};

}  // namespace

std::unique_ptr<const UpdateRule> MakeAdagrad(const RuleSpec& spec, const Kernels& kernels,
                                              Status* status) {
  const float lr = spec.constants[0];
  const float eps = spec.constants[1];
  *status = CheckConstant("AdaGrad", "lr", lr, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("AdaGrad", "eps", eps, Range::kPositive);
  if (status->ok()) *status = CheckUnused("AdaGrad", spec, 2);
  if (!status->ok()) return nullptr;
  return std::make_unique<Adagrad>(kernels, lr, eps);
}

}  // namespace fastps::rules
