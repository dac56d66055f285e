// Chooses the table of loops: what was compiled, cut down to what this CPU can run.
#include <array>
#include <atomic>

#include "kernels/kernels.h"

namespace fastps {

namespace baseline {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

namespace {

// Slowest first.
constexpr std::array<const Kernels*, 3> kCompiled = {&baseline::kKernels, &avx2::kKernels,
                                                     &avx512::kKernels};

// How many of kCompiled, from the front, this CPU can run. The builtin asks the operating system's
// support of the wide registers as well.
size_t CountRunnable() {
  if (!__builtin_cpu_supports("avx2")) return 1;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  return avx512 ? 3 : 2;
}

// Null until ForceKernels is called.
constinit std::atomic<const Kernels*> forced{nullptr};

}  // namespace

std::span<const Kernels* const> AvailableKernels() {
  static const size_t n_runnable = CountRunnable();
  return std::span(kCompiled).first(n_runnable);
}

const Kernels& ActiveKernels() {
  const Kernels* kernels = forced.load(std::memory_order_acquire);
  return kernels != nullptr ? *kernels : *AvailableKernels().back();
}

bool ForceKernels(std::string_view name) {
  for (const Kernels* kernels : AvailableKernels()) {
    if (kernels->name == name) {
      forced.store(kernels, std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace fastps
