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
extern const UpdateLoops kAdam, kFtrl;
}

namespace {

Kernels Avx512Kernels() {
  Kernels kernels = avx2::kKernels;
  kernels.name = "avx512";
  kernels.adam = avx512::kAdam;
  kernels.ftrl = avx512::kFtrl;
  return kernels;
}

// How many tables, from the slowest on, this CPU can run. The builtin asks the operating system's
// support of the wide registers as well.
size_t CountRunnable() {
  if (!__builtin_cpu_supports("avx2")) return 1;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") ? 3 : 2;
}

// Null until ForceKernels is called.
constinit std::atomic<const Kernels*> forced{nullptr};

}  // namespace

std::span<const Kernels* const> AvailableKernels() {
  static const Kernels avx512_kernels = Avx512Kernels();
  static const std::array<const Kernels*, 3> compiled = {&baseline::kKernels, &avx2::kKernels,
                                                         &avx512_kernels};
  static const size_t n_runnable = CountRunnable();
  return std::span(compiled).first(n_runnable);
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
