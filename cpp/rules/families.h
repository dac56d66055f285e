// The families of update rules, one file each, and what they share. Only update_rule.cc chooses
// between them. Pure functions: any thread.
#pragma once

#include <memory>
#include <string_view>

#include "base/status.h"
#include "kernels/kernels.h"
#include "routing/table_spec.h"
#include "rules/update_rule.h"

namespace fastps::rules {

// Each returns null and sets `status` when a constant is not legal.
std::unique_ptr<const UpdateRule> MakeAccumulate(const RuleSpec& spec, const Kernels& kernels,
                                                 Status* status);
std::unique_ptr<const UpdateRule> MakeSgd(const RuleSpec& spec, const Kernels& kernels,
                                          Status* status);
std::unique_ptr<const UpdateRule> MakeMomentum(const RuleSpec& spec, const Kernels& kernels,
                                               Status* status);
std::unique_ptr<const UpdateRule> MakeAdagrad(const RuleSpec& spec, const Kernels& kernels,
                                              Status* status);
std::unique_ptr<const UpdateRule> MakeRmsprop(const RuleSpec& spec, const Kernels& kernels,
                                              Status* status);
std::unique_ptr<const UpdateRule> MakeAdam(const RuleSpec& spec, const Kernels& kernels,
                                           Status* status);
std::unique_ptr<const UpdateRule> MakeFtrl(const RuleSpec& spec, const Kernels& kernels,
                                           Status* status);

// A rule of which nothing needs to be known but its loops and how much state it has: all of it is 0
// at first and after an assign.
std::unique_ptr<const UpdateRule> MakePlainRule(UpdateLoops loops, const RuleConstants& constants,
                                                size_t n_slots, size_t n_row_slots,
                                                const RuleBounds& bounds);

// The largest float for which `holds`, which holds up to some float and not beyond; -1: for none.
float LargestOf(bool (*holds)(float value, const float* constants), const float* constants);

// What a constant must be, besides finite.
enum class Range { kNotNegative, kPositive, kBelowOne };  // kBelowOne: 0 <= constant < 1

// Ok, or which constant of which rule is `value` and what it must be.
Status CheckConstant(std::string_view rule, std::string_view name, float value, Range range);

// Ok when the constants from `n_used` on are 0. Others come from a version that knows more of this
// rule than we do: to leave them out would be another rule.
Status CheckUnused(std::string_view rule, const RuleSpec& spec, size_t n_used);

}  // namespace fastps::rules
