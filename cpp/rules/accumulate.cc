// Accumulate: w = w + g. No constants, no slots.
#include "rules/families.h"

namespace fastps::rules {

std::unique_ptr<const UpdateRule> MakeAccumulate(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status) {
  *status = CheckUnused("Accumulate", spec, 0);
  if (!status->ok()) return nullptr;
  return MakePlainRule(kernels.accumulate, {}, 0);
}

}  // namespace fastps::rules
