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
#include "rules/tame.h"

namespace fastps::rules {
namespace {

// By the inequality of Cauchy and Schwarz, m^2 <= v * (1-beta1)^2 / ((1-beta2) (1 - beta1^2/beta2))
// of what came in by gradients; an m that was loaded beside a small v fades with beta1.
double TameUpdates(double size, const RuleConstants& c) {
  const double beta1 = double{c.beta1}, beta2 = double{c.beta2};
  double share = 1 - beta2;
  if (beta1 > 0) {
    if (beta1 * beta1 >= beta2) return 0;
    share *= (1 - beta1 * beta1 / beta2) / ((1 - beta1) * (1 - beta1));
  }
  const double first_step = RoundedUpRate(c.lr) / (1 - beta1);
  const double w = size + kTameUpdatesMax * first_step * QuotientReach(share, c.eps) +
                   first_step / (1 - beta1) * size / double{c.eps};
  const double g = double{kTameGradient} + double{c.weight_decay} * w;
  return std::max({w, g * g + size}) < kReachMax ? kTameUpdatesMax : 0;
}

}  // namespace

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
  const RuleConstants constants{
      .lr = lr, .eps = eps, .beta1 = beta1, .beta2 = beta2, .weight_decay = weight_decay};
  RuleBounds bounds = TameBounds(constants, TameUpdates);
  if (weight_decay == 0.0f) bounds.gradient_max = kLargestSquared;
  return MakePlainRule(kernels.adam, constants, 2, 2, bounds);
}

}  // namespace fastps::rules
