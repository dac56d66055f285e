// Momentum: v = momentum*v + g; w = w - lr*v, or with Nesterov's w = w - lr*(g + momentum*v).
// Constants: [lr, momentum, nesterov (0 or 1), weight_decay]. Slot 0: v, the velocity.
//
// PyTorch's buffer is the gradient itself at the first step; ours is momentum * 0 + g, which is the
// same.
#include "rules/families.h"
#include "rules/tame.h"

namespace fastps::rules {
namespace {

// Sizes of (v, w) grow at most as under the matrix ((momentum, decay), (into_w, 1 + stays)), by its
// largest eigenvalue each update, but for how far its eigenvector is from even.
double TameUpdates(double size, const RuleConstants& c, bool looks_ahead) {
  const double lr = RoundedUpRate(c.lr);
  const double momentum = double{c.momentum};
  const double decay = double{c.weight_decay};
  if (momentum >= 1) return 0;
  const double share = looks_ahead ? 1 + momentum : 1;  // of the gradient in the step
  const double v = size + double{kTameGradient} / (1 - momentum);
  if (decay == 0) {
    const double w = size + kTameUpdatesMax * lr * (share * double{kTameGradient} + v);
    return std::max(v, w) < kReachMax ? kTameUpdatesMax : 0;
  }
  const double into_w = lr * (looks_ahead ? momentum * momentum : momentum);
  const double stays = lr * share * decay;
  const double apart = 1 + stays - momentum;
  const double growth = (momentum + 1 + stays + std::sqrt(apart * apart + 4 * decay * into_w)) / 2;
  const double uneven = decay / (growth - momentum);
  constexpr double kGrownBits = 40;
  const double n = std::min(kTameUpdatesMax, kGrownBits / std::log2(growth));
  const double reach = std::exp2(kGrownBits) * std::max(uneven, 1 / uneven) *
                       (size + n * std::max(1.0, lr * share) * double{kTameGradient});
  return reach * std::max({1.0, lr, decay}) < kReachMax ? n : 0;
}

}  // namespace

std::unique_ptr<const UpdateRule> MakeMomentum(const RuleSpec& spec, const Kernels& kernels,
                                               Status* status) {
  const float lr = spec.constants[0];
  const float momentum = spec.constants[1];
  const float nesterov = spec.constants[2];
  const float weight_decay = spec.constants[3];
  *status = CheckConstant("Momentum", "lr", lr, Range::kNotNegative);
  if (status->ok()) {
    *status = CheckConstant("Momentum", "momentum", momentum, Range::kNotNegative);
  }
  if (status->ok() && nesterov != 0.0f && nesterov != 1.0f) {
    *status = {Code::kConfig, "Momentum: nesterov is neither 0 nor 1"};
  }
  if (status->ok() && nesterov == 1.0f) {
    *status = CheckConstant("Momentum", "momentum with nesterov", momentum, Range::kPositive);
  }
  if (status->ok()) {
    *status = CheckConstant("Momentum", "weight_decay", weight_decay, Range::kNotNegative);
  }
  if (status->ok()) *status = CheckUnused("Momentum", spec, 4);
  if (!status->ok()) return nullptr;
  const bool looks_ahead = nesterov == 1.0f;
  const RuleConstants constants{.lr = lr, .momentum = momentum, .weight_decay = weight_decay};
  return MakePlainRule(looks_ahead ? kernels.nesterov : kernels.momentum, constants, 1, 0,
                       TameBounds(constants, [looks_ahead](double size, const RuleConstants& c) {
                         return TameUpdates(size, c, looks_ahead);
                       }));
}

}  // namespace fastps::rules
