#include "store/shard_data.h"

#include <cstring>

#include "kernels/kernels.h"

namespace fastps {

Code ShardData::SetLr(float lr) {
  RuleSpec changed;
  Status status = WithLr(rule_spec_, lr, &changed);
  if (!status.ok()) return status.code();
  std::shared_ptr<const UpdateRule> rule = MakeUpdateRule(changed, ActiveKernels(), &status);
  if (rule == nullptr) return status.code();
  const RuleBounds& before = rule_->bounds();
  const RuleBounds& after = rule->bounds();
  if (before.tame_max != after.tame_max || before.tame_updates != after.tame_updates) n_sure_ = 0;
  rule_spec_ = changed;
  rule_ = std::move(rule);
  return Code::kOk;
}

bool ShardData::MustTry(bool are_gradients_tame, size_t n, size_t n_all) {
  const RuleBounds& bounds = rule_->bounds();
  n_since_look_ += n;
  if (!are_gradients_tame || !is_initial_tame_ || bounds.tame_updates == 0) return true;
  if (n_sure_ == 0 && n_since_look_ >= n_all) {
    n_since_look_ = 0;
    if (AreAllWithin(bounds.tame_max)) n_sure_ = bounds.tame_updates;
  }
  if (n_sure_ == 0) return true;
  --n_sure_;
  return false;
}

// By bits: -0 is another rate than 0 when states are compared.
bool ShardData::CanHave(const RuleSpec& rule) const {
  const auto are_same = [](const RuleSpec& a, const RuleSpec& b) {
    return a.kind == b.kind &&
           std::memcmp(a.constants.data(), b.constants.data(), sizeof(a.constants)) == 0;
  };
  RuleSpec changed;
  return are_same(rule, rule_spec_) ||
         (WithLr(rule_spec_, rule.constants[0], &changed).ok() && are_same(rule, changed));
}

}  // namespace fastps
