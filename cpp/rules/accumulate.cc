// Accumulate: w = w + g. No constants, no slots.
#include "rules/families.h"
#include "rules/tame.h"

namespace fastps::rules {

std::unique_ptr<const UpdateRule> MakeAccumulate(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status) {
  *status = CheckUnused("Accumulate", spec, 0);
  if (!status->ok()) return nullptr;
  const auto updates = [](double, const RuleConstants&) { return kTameUpdatesMax; };
  return MakePlainRule(kernels.accumulate, {}, 0, 0, TameBounds({}, updates));
}

}  // namespace fastps::rules
