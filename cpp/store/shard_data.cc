#include "store/shard_data.h"

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

}  // namespace fastps
