// FTRL-proximal (McMahan et al. 2013, "Ad click prediction: a view from the trenches", Algorithm
// 1). Constants: [alpha, beta, l1, l2]. Slot 0: z, slot 1: n.
//
//   n2 = n + g*g;  sigma = (sqrt(n2) - sqrt(n)) / alpha;  z = (z + g) - sigma*w;  n = n2
//   w = 0 if |z| <= l1, else -(z - sign(z)*l1) / ((beta + sqrt(n2))/alpha + l2)
//
// The paper keeps only z and n and computes w when it is read. Here the row stores w as well: a
// pull is a copy, and an assigned value is exact.
#include <algorithm>
#include <cmath>

#include "rules/families.h"
#include "rules/tame.h"

namespace fastps::rules {
namespace {

class Ftrl final : public UpdateRule {
 public:
  Ftrl(const Kernels& kernels, const RuleConstants& constants, const RuleBounds& bounds)
      : UpdateRule(kernels.ftrl, constants, 2, 0, bounds) {}

  // n = 0, and z solves the formula above for the given w. 0 (of either sign) has z = 0.
  void ResetState(const RowSpan& rows, size_t n_rows, size_t width) const override {
    const float l1 = constants().l1;
    const float denominator = constants().beta / constants().alpha + constants().l2;
    for (size_t i = 0; i < n_rows * width; ++i) {
      const float w = rows.values[i];
      rows.slot0[i] = w == 0.0f ? 0.0f : -(w * denominator + std::copysign(l1, w));
      rows.slot1[i] = 0.0f;
    }
  }
};

// |z| of a value that was just assigned.
float AssignedZ(float w, float denominator, float l1) { return w * denominator + l1; }

// |z| / (beta + sqrt(n)) grows by at most |g| / sqrt(n2) <= 1 an update, and |w| is at most alpha
// times that: sigma * w cannot add more to |z| than the growth of sqrt(n) takes away again.
double TameUpdates(double size, const RuleConstants& c) {
  if (c.beta == 0.0f) return 0;  // without it nothing bounds the first quotient
  constexpr double kUpdates = 0x1p23, kRounding = 0x1p12;  // (1 + 2^-20) ^ kUpdates
  const double alpha = double{c.alpha}, beta = double{c.beta}, g = double{kTameGradient};
  const double z = size + g + g / alpha * size;  // after the first, whatever w was
  const double n = size + kUpdates * g * g;
  const double root = beta + std::sqrt(n);
  const double quotient = kRounding * (z / beta + kUpdates);
  const bool is_finite = std::max({n, quotient * root, quotient * alpha, root / alpha}) < kReachMax;
  return is_finite ? kUpdates : 0;
}

RuleBounds FtrlBounds(const RuleConstants& c) {
  RuleBounds bounds = TameBounds(c, TameUpdates);
  bounds.gradient_max = kLargestSquared;
  const auto largest_with = [&](float most) {
    const float constants[] = {c.beta / c.alpha + c.l2, c.l1, most};
    return LargestOf(
        [](float w, const float* given) {
          return w <= given[2] && AssignedZ(w, given[0], given[1]) <= given[2];
        },
        constants);
  };
  bounds.assign_max = std::max(0.0f, largest_with(FLT_MAX));
  bounds.tame_assign_max = bounds.tame_updates > 0 ? largest_with(bounds.tame_max) : -1.0f;
  return bounds;
}

}  // namespace

std::unique_ptr<const UpdateRule> MakeFtrl(const RuleSpec& spec, const Kernels& kernels,
                                           Status* status) {
  const float alpha = spec.constants[0];
  const float beta = spec.constants[1];
  const float l1 = spec.constants[2];
  const float l2 = spec.constants[3];
  *status = CheckConstant("FTRL", "alpha", alpha, Range::kPositive);
  if (status->ok()) *status = CheckConstant("FTRL", "beta", beta, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("FTRL", "l1", l1, Range::kNotNegative);
  if (status->ok()) *status = CheckConstant("FTRL", "l2", l2, Range::kNotNegative);
  if (status->ok()) {
    *status = CheckConstant("FTRL", "beta / alpha + l2", beta / alpha + l2, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("FTRL", spec, 4);
  if (!status->ok()) return nullptr;
  const RuleConstants constants{.alpha = alpha, .beta = beta, .l1 = l1, .l2 = l2};
  return std::make_unique<Ftrl>(kernels, constants, FtrlBounds(constants));
}

}  // namespace fastps::rules
