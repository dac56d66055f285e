#include "rules/initializer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/hash.h"

namespace fastps {
namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;  // the step of splitmix64

// The farthest a Normal draw can be from its mean, in standard deviations: p = 2^-53 gives 8.21.
constexpr double kDeviationsMax = 8.25;

// 64 random bits of (seed, key, column): the column-th output of a splitmix64 generator (Steele,
// Lea and Flood 2014) whose state comes from seed and key.
class Stream {
 public:
  Stream(uint64_t seed, Key key) : state_(MixKey(MixKey(seed) ^ key)) {}
  uint64_t Bits(uint64_t column) const { return MixKey(state_ + column * kGolden); }

 private:
  const uint64_t state_;
};

// -log(x) of a positive, normal x, without libm, whose digits depend on its version and the CPU.
// x = m * 2^e with m in [1/2, 1); log m = 2 atanh((m-1)/(m+1)), whose series ends where its terms
// fall below a double's last digit: after m is brought to [sqrt(1/2), sqrt(2)), s*s <= 0.0295.
double NegativeLog(double x) {
  constexpr double kLn2 = 0.693147180559945309417;
  constexpr double kSqrtHalf = 0.707106781186547524401;
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1022;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3fe0000000000000u);
  if (m < kSqrtHalf) {
    m = m * 2.0;
    exponent -= 1;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double sum = 1.0 / 21.0;
  for (int k = 19; k >= 1; k -= 2) sum = sum * s2 + 1.0 / static_cast<double>(k);
  return -(2.0 * s * sum + static_cast<double>(exponent) * kLn2);
}

// c[7] x^7 + ... + c[0], by Horner's rule.
double Polynomial(const double (&c)[8], double x) {
  double sum = c[7];
  for (int i = 6; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// The quantile of the standard normal distribution at 0 < p < 1, to about 16 digits: algorithm AS
// 241, PPND16 (Wichura 1988, "The percentage points of the normal distribution", Applied Statistics
// 37(3)), with the logarithm above.
double NormalQuantile(double p) {
  static constexpr double kCenterTop[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                                           1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                           4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                           3.3430575583588128105e+4, 2.5090809287301226727e+3};
  static constexpr double kCenterBottom[8] = {1.0,
                                              4.2313330701600911252e+1,
                                              6.8718700749205790830e+2,
                                              5.3941960214247511077e+3,
                                              2.1213794301586595867e+4,
                                              3.9307895800092710610e+4,
                                              2.8729085735721942674e+4,
                                              5.2264952788528545610e+3};
  static constexpr double kMiddleTop[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                           5.76949722146069140550e0,  3.64784832476320460504e0,
                                           1.27045825245236838258e0,  2.41780725177450611770e-1,
                                           2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static constexpr double kMiddleBottom[8] = {1.0,
                                              2.05319162663775882187e0,
                                              1.67638483018380384940e0,
                                              6.89767334985100004550e-1,
                                              1.48103976427480074590e-1,
                                              1.51986665636164571966e-2,
                                              5.47593808499534494600e-4,
                                              1.05075007164441684324e-9};
  static constexpr double kTailTop[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                         1.78482653991729133580e0,  2.96560571828504891230e-1,
                                         2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                         2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static constexpr double kTailBottom[8] = {1.0,
                                            5.99832206555887937690e-1,
                                            1.36929880922735805310e-1,
                                            1.48753612908506148525e-2,
                                            7.86869131145613259100e-4,
                                            1.84631831751005468180e-5,
                                            1.42151175831644588870e-7,
                                            2.04426310338993978564e-15};

  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * Polynomial(kCenterTop, r) / Polynomial(kCenterBottom, r);
  }
  double r = std::sqrt(NegativeLog(q < 0.0 ? p : 1.0 - p));
  double size;
  if (r <= 5.0) {
    r = r - 1.6;
    size = Polynomial(kMiddleTop, r) / Polynomial(kMiddleBottom, r);
  } else {
    r = r - 5.0;
    size = Polynomial(kTailTop, r) / Polynomial(kTailBottom, r);
  }
  return q < 0.0 ? -size : size;
}

Status OutOfRange(const char* format, float a, float b) {
  char text[160];
  std::snprintf(text, sizeof(text), format, static_cast<double>(a), static_cast<double>(b));
  return {Code::kConfig, text};
}

}  // namespace

void FillInitial(const InitializerSpec& spec, Key key, uint64_t column_begin, float* values,
                 size_t n) {
  const double a = static_cast<double>(spec.a);
  const double b = static_cast<double>(spec.b);
  switch (spec.kind) {
    case InitializerKind::kZeros:
      std::fill_n(values, n, 0.0f);
      return;
    case InitializerKind::kConstant:
      std::fill_n(values, n, spec.a);
      return;
    case InitializerKind::kUniform: {
      const Stream stream(spec.seed, key);
      for (size_t i = 0; i < n; ++i) {
        // The top 24 bits, as many as a float has: [0, 1) in steps of 2^-24.
        const double u = static_cast<double>(stream.Bits(column_begin + i) >> 40) * 0x1p-24;
        values[i] = static_cast<float>(a + (b - a) * u);
      }
      return;
    }
    case InitializerKind::kNormal: {
      const Stream stream(spec.seed, key);
      for (size_t i = 0; i < n; ++i) {
        // The top 52 bits and a half: never 0 or 1, and p and 1 - p are exact.
        const double p = (static_cast<double>(stream.Bits(column_begin + i) >> 12) + 0.5) * 0x1p-52;
        values[i] = static_cast<float>(a + b * NormalQuantile(p));
      }
      return;
    }
  }
  FASTPS_CHECK(false && "CheckInitializer refused this kind");
}

float InitialReach(const InitializerSpec& spec) {
  const float a = std::fabs(spec.a), b = std::fabs(spec.b);
  switch (spec.kind) {
    case InitializerKind::kZeros:
      return 0.0f;
    case InitializerKind::kConstant:
      return a;
    case InitializerKind::kUniform:
      return std::max(a, b);
    case InitializerKind::kNormal:
      return static_cast<float>(static_cast<double>(a) + kDeviationsMax * static_cast<double>(b));
  }
  return 0.0f;
}

Status CheckInitializer(const InitializerSpec& spec) {
  switch (spec.kind) {
    case InitializerKind::kZeros:
      return {};
    case InitializerKind::kConstant:
      if (std::isfinite(spec.a)) return {};
      return OutOfRange("Constant: value is %.9g, needed is a finite float32", spec.a, spec.b);
    case InitializerKind::kUniform:
      if (std::isfinite(spec.a) && std::isfinite(spec.b) && spec.a <= spec.b) return {};
      return OutOfRange(
          "Uniform: low is %.9g and high is %.9g, needed are finite float32 with "
          "low <= high",
          spec.a, spec.b);
    case InitializerKind::kNormal: {
      const double reach =
          std::fabs(static_cast<double>(spec.a)) + kDeviationsMax * static_cast<double>(spec.b);
      if (spec.b >= 0.0f && reach <= static_cast<double>(std::numeric_limits<float>::max())) {
        return {};
      }
      return OutOfRange(
          "Normal: mean is %.9g and std is %.9g, needed are finite float32 with "
          "std >= 0, and |mean| + 8.25 std within float32",
          spec.a, spec.b);
    }
  }
  return {Code::kConfig, "initializer " + std::to_string(static_cast<int>(spec.kind)) +
                             " is not there; there are Zeros (1), Constant (2), Uniform (3) and "
                             "Normal (4)"};
}

}  // namespace fastps
