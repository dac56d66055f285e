// How long rows are sure to stay finite, so that shards need to look at what they store only when
// it could be otherwise. From rows whose floats are up to some size, updates with tame gradients
// (kTameGradient) can only lead so far: each family bounds that, in float64 and with room for
// rounding. What holds for nearly every table then costs nothing, neither in the loops nor beside
// them; the others are tried first (store/row_trial.h). Pure functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"
#include "rules/update_rule.h"

namespace fastps::rules {

inline constexpr double kReachMax = 0x1p126;  // half of what float32 has
inline constexpr double kTameUpdatesMax = 0x1p30;
inline constexpr float kLargestSquared = 0x1.fffffep63f;  // whose square is finite

// Rates that follow a schedule should not change the bounds each time.
inline double RoundedUpRate(float lr) {
  return lr == 0.0f ? 0.0 : std::exp2(std::ceil(std::log2(double{lr})));
}

// How large g / (sqrt(s) + eps) can be when s >= share * g * g. Where g is too small for that to
// hold in float32, eps bounds it.
inline double QuotientReach(double share, float eps) {
  return std::max(2 / std::sqrt(share), 0x1p-50 / double{eps});
}

// The bounds for the largest size of rows from which `updates(size, constants)` is not 0.
template <class Updates>
RuleBounds TameBounds(const RuleConstants& constants, Updates updates) {
  RuleBounds bounds;
  for (const float size : {0x1p50f, 0x1p40f, 0x1p30f, 0x1p20f}) {
    const double n = updates(double{size}, constants);
    if (!(n >= 1)) continue;
    bounds.tame_max = size;
    bounds.tame_updates = static_cast<uint64_t>(std::min(n, kTameUpdatesMax));
    bounds.tame_assign_max = size;
    return bounds;
  }
  bounds.tame_assign_max = -1.0f;
  return bounds;
}

}  // namespace fastps::rules
