// Adam (Kingma and Ba 2015), lazy: t counts the row's own updates.
// Constants: [lr, beta1, beta2, eps, weight_decay]. Slots: m, v. Row slots: c1, c2.
//
//   c1 = beta1*c1 + (1-beta1);  c2 = beta2*c2 + (1-beta2)           once a row
//   m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g*g
//   w = w - lr/c1 * (m / (sqrt(v)/sqrt(c2) + eps))
//
// c1 and c2 are the paper's 1 - beta^t, in two floats a row: no t is stored and no power computed.
// As the sums they are, and not as 1 minus a stored product, because beta2^t is so near to 1 that
// the subtraction would leave half the digits.
#include "rules/families.h"

namespace fastps::rules {

std::unique_ptr<const UpdateRule> MakeAdam(const RuleSpec& spec, const Kernels& kernels,
                                           Status* status) {
  const float lr = spec.constants[0];
  const float beta1 = spec.constants[1];
  const float beta2 = spec.constants[2];
  const float eps = spec.constants[3];
  const float weight_decay = spec.constants[4];
  *status = CheckConstant("Adam", "lr", lr, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("Adam", "beta1", beta1, Range::kBelowOne);
  if (status->ok()) *status = CheckConstant("Adam", "beta2", beta2, Range::kBelowOne);
  if (status->ok()) *status = CheckConstant("Adam", "eps", eps, Range::kPositive);
  if (status->ok()) {
    *status = CheckConstant("Adam", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("Adam", spec, 5);
  if (!status->ok()) return nullptr;
  return MakePlainRule(
      kernels.adam,
      {.lr = lr, .eps = eps, .beta1 = beta1, .beta2 = beta2, .weight_decay = weight_decay}, 2, 2);
}

}  // namespace fastps::rules
