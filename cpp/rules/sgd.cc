// SGD: w = w - lr*g. Constants: [lr]. No slots.
#include "rules/families.h"

namespace fastps::rules {
namespace {

class Sgd final : public UpdateRule {
 public:
  Sgd(const Kernels& kernels, float lr) : UpdateRule(kernels.sgd, {.lr = lr}) {}

  size_t n_slots() const override { return 0; }
  void ResetState(const float*, float*, float*, size_t) const override {}
};

}  // namespace

std::unique_ptr<const UpdateRule> MakeSgd(const RuleSpec& spec, const Kernels& kernels,
                                          Status* status) {
  const float lr = spec.constants[0];
  *status = CheckConstant("SGD", "lr", lr, Range::kNotNegative);
  if (status->ok()) *status = CheckUnused("SGD", spec, 1);
  if (!status->ok()) return nullptr;
  return std::make_unique<Sgd>(kernels, lr);
}

}  // namespace fastps::rules
