#include "rules/update_rule.h"

#include <cmath>
#include <cstdio>
#include <string>

#include "rules/families.h"

namespace fastps {

namespace rules {
namespace {

// Nine digits tell every float from its neighbours.
std::string Text(float value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(value));
  return text;
}

}  // namespace

Status CheckConstant(std::string_view rule, std::string_view name, float value, Range range) {
  const bool in_range = range == Range::kPositive ? value > 0.0f : value >= 0.0f;
  if (std::isfinite(value) && in_range) return {};
  return {Code::kConfig, std::string(rule) + ": " + std::string(name) + " is " + Text(value) +
                             ", needed is a finite float32 " +
                             (range == Range::kPositive ? "> 0" : ">= 0")};
}

Status CheckUnused(std::string_view rule, const RuleSpec& spec, size_t n_used) {
  for (size_t i = n_used; i < spec.constants.size(); ++i) {
    if (spec.constants[i] != 0.0f) {
      return {Code::kConfig, std::string(rule) + ": constant " + std::to_string(i) + " is " +
                                 Text(spec.constants[i]) + ", but this version knows only " +
                                 std::to_string(n_used) +
                                 " constants of this rule: run the same version everywhere"};
    }
  }
  return {};
}

}  // namespace rules

std::unique_ptr<const UpdateRule> MakeUpdateRule(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status) {
  *status = {};
  switch (spec.kind) {
    case RuleKind::kAccumulate:
      return rules::MakeAccumulate(spec, kernels, status);
    case RuleKind::kSgd:
      return rules::MakeSgd(spec, kernels, status);
    case RuleKind::kAdagrad:
      return rules::MakeAdagrad(spec, kernels, status);
    case RuleKind::kFtrl:
      return rules::MakeFtrl(spec, kernels, status);
    case RuleKind::kMomentum:
    case RuleKind::kRmsprop:
    case RuleKind::kAdam:
      break;
  }
  *status = {Code::kConfig, "update rule " + std::to_string(static_cast<int>(spec.kind)) +
                                " is not there; there are Accumulate (1), SGD (2), AdaGrad (3) and "
                                "FTRL (4)"};
  return nullptr;
}

}  // namespace fastps
