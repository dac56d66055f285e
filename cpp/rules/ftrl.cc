// FTRL-proximal (McMahan et al. 2013, "Ad click prediction: a view from the trenches", Algorithm
// 1). Constants: [alpha, beta, l1, l2]. Slot 0: z, slot 1: n.
//
//   n2 = n + g*g;  sigma = (sqrt(n2) - sqrt(n)) / alpha;  z = (z + g) - sigma*w;  n = n2
//   w = 0 if |z| <= l1, else -(z - sign(z)*l1) / ((beta + sqrt(n2))/alpha + l2)
//
// The paper keeps only z and n and computes w when it is read. Here the row stores w as well: a
// pull is a copy, and an assigned value is exact.
#include <cmath>

#include "rules/families.h"

namespace fastps::rules {
namespace {

class Ftrl final : public UpdateRule {
 public:
  Ftrl(const Kernels& kernels, float alpha, float beta, float l1, float l2)
      : UpdateRule(kernels.ftrl, {.alpha = alpha, .beta = beta, .l1 = l1, .l2 = l2}, 2, 0) {}

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
  return std::make_unique<Ftrl>(kernels, alpha, beta, l1, l2);
}

}  // namespace fastps::rules
