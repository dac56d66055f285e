#include "rules/update_rule.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <string>

#include "base/limits.h"
#include "rules/families.h"
#include "rules/initializer.h"

namespace fastps {

namespace rules {
namespace {

// Nine digits tell every float from its neighbours.
std::string Text(float value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(value));
  return text;
}

class PlainRule final : public UpdateRule {
 public:
  PlainRule(UpdateLoops loops, const RuleConstants& constants, size_t n_slots, size_t n_row_slots,
            const RuleBounds& bounds)
      : UpdateRule(loops, constants, n_slots, n_row_slots, bounds) {}

  void ResetState(const RowSpan& rows, size_t n_rows, size_t width) const override {
    if (n_slots() > 0) std::fill_n(rows.slot0, n_rows * width, 0.0f);
    if (n_slots() > 1) std::fill_n(rows.slot1, n_rows * width, 0.0f);
    if (n_row_slots() > 0) {
      std::fill_n(rows.row_slot0, n_rows, 0.0f);
      std::fill_n(rows.row_slot1, n_rows, 0.0f);
    }
  }
};

}  // namespace

std::unique_ptr<const UpdateRule> MakePlainRule(UpdateLoops loops, const RuleConstants& constants,
                                                size_t n_slots, size_t n_row_slots,
                                                const RuleBounds& bounds) {
  return std::make_unique<PlainRule>(loops, constants, n_slots, n_row_slots, bounds);
}

float LargestOf(bool (*holds)(float value, const float* constants), const float* constants) {
  // Floats without sign are ordered as their bits are.
  uint32_t least = 0, most = std::bit_cast<uint32_t>(FLT_MAX);
  if (!holds(0.0f, constants)) return -1.0f;
  while (least < most) {
    const uint32_t middle = most - (most - least) / 2;
    if (holds(std::bit_cast<float>(middle), constants)) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return std::bit_cast<float>(least);
}

Status CheckConstant(std::string_view rule, std::string_view name, float value, Range range) {
  const bool in_range = range == Range::kPositive   ? value > 0.0f
                        : range == Range::kBelowOne ? value >= 0.0f && value < 1.0f
                                                    : value >= 0.0f;
  if (std::isfinite(value) && in_range) return {};
  return {Code::kConfig, std::string(rule) + ": " + std::string(name) + " is " + Text(value) +
                             ", needed is a finite float32 " +
                             (range == Range::kPositive   ? "> 0"
                              : range == Range::kBelowOne ? ">= 0 and < 1"
                                                          : ">= 0")};
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
      return rules::MakeMomentum(spec, kernels, status);
    case RuleKind::kRmsprop:
      return rules::MakeRmsprop(spec, kernels, status);
    case RuleKind::kAdam:
      return rules::MakeAdam(spec, kernels, status);
  }
  *status = {Code::kConfig, "update rule " + std::to_string(static_cast<int>(spec.kind)) +
                                " is not there; there are Accumulate (1), SGD (2), AdaGrad (3), "
                                "FTRL (4), Momentum (5), RMSProp (6) and Adam (7)"};
  return nullptr;
}

Status WithLr(const RuleSpec& spec, float lr, RuleSpec* changed) {
  if (spec.kind == RuleKind::kAccumulate) {
    return {Code::kConfig, "Accumulate has no lr that could be set: it adds what is pushed"};
  }
  if (spec.kind == RuleKind::kFtrl) {
    // w follows from z and n by alpha: another alpha would rescale every value at its next push.
    return {Code::kConfig,
            "FTRL has no lr that could be set: its state depends on its alpha. Create another "
            "table with the alpha that is wanted"};
  }
  RuleSpec wanted = spec;
  wanted.constants[0] = lr;  // of every other kind
  Status status;
  if (MakeUpdateRule(wanted, ActiveKernels(), &status) == nullptr) return status;
  *changed = wanted;
  return {};
}

RuleBounds BoundsOf(const RuleSpec& spec) {
  Status status;
  const std::unique_ptr<const UpdateRule> rule = MakeUpdateRule(spec, ActiveKernels(), &status);
  return rule == nullptr ? RuleBounds{} : rule->bounds();
}

Status CheckInitialState(const InitializerSpec& initializer, const RuleSpec& rule) {
  const float reach = InitialReach(initializer);
  const float most = BoundsOf(rule).assign_max;
  if (reach <= most) return {};
  return {Code::kConfig, "initial values reach " + rules::Text(reach) +
                             ", and the optimizer has a finite state up to " + rules::Text(most) +
                             " (FTRL: |w| * (beta / alpha + l2) + l1 must fit float32): take "
                             "smaller values or a larger alpha"};
}

Status CheckRowParts(const TableSpec& spec) {
  if (spec.kind != TableKind::kDense || !HasRowSlots(spec.rule)) return {};
  const uint64_t n_elements = spec.n_rows * spec.row_width;
  const uint64_t block = (n_elements + spec.num_shards - 1) / spec.num_shards;
  const uint64_t part = std::min(spec.row_width, block);
  if (part <= limits::kRowWidthMax) return {};
  return {Code::kConfig,
          "table '" + spec.name + "': one shard would hold " + std::to_string(part) +
              " floats of one row; with a rule that counts the updates of a row (Adam, AdaGrad "
              "with lr_decay) it may hold " +
              std::to_string(limits::kRowWidthMax) + ": raise num_shards from " +
              std::to_string(spec.num_shards) + " to at least " +
              std::to_string((n_elements + limits::kRowWidthMax - 1) / limits::kRowWidthMax)};
}

}  // namespace fastps
