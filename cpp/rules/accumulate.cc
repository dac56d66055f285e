// Accumulate: w = w + g. No constants, no slots.
#include "rules/families.h"

namespace fastps::rules {
namespace {

class Accumulate final : public UpdateRule {
 public:
  explicit Accumulate(const Kernels& kernels) : UpdateRule(kernels.accumulate, {}) {}

  size_t n_slots() const override { return 0; }
  void ResetState(const float*, float*, float*, size_t) const override {}
};

}  // namespace

std::unique_ptr<const UpdateRule> MakeAccumulate(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status) {
  *status = CheckUnused("Accumulate", spec, 0);
  if (!status->ok()) return nullptr;
  return std::make_unique<Accumulate>(kernels);
}

}  // namespace fastps::rules
