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
  rule_spec_ = changed;
  rule_ = std::move(rule);
  return Code::kOk;
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
