// The element-wise loops, each written once. Every target's file includes this text inside its own
// unnamed namespace, after kernels.h, and compiles it for its own instructions.
//
// Plain C and builtins only: an inline function of std, compiled here for AVX2, could be the copy
// that the linker keeps for the whole program, and crash an older CPU.
//
// Each Step is the float32 operation order that the docstrings of optimizers.py promise.

// condition ? a : b through a mask of integers: always both are computed. With a branch around one
// of them GCC would not turn the loop into SIMD code (a division might trap).
inline float Choose(bool condition, float a, float b) {
  unsigned a_bits, b_bits;
  __builtin_memcpy(&a_bits, &a, sizeof(a));
  __builtin_memcpy(&b_bits, &b, sizeof(b));
  const unsigned mask = 0u - static_cast<unsigned>(condition);
  const unsigned bits = (a_bits & mask) | (b_bits & ~mask);
  float chosen;
  __builtin_memcpy(&chosen, &bits, sizeof(bits));
  return chosen;
}

struct AccumulateStep {
  static constexpr int kSlots = 0;
  static inline void Step(const RuleConstants&, float g, float* w, float*, float*) { *w = *w + g; }
};

struct SgdStep {
  static constexpr int kSlots = 0;
  static inline void Step(const RuleConstants& c, float g, float* w, float*, float*) {
    *w = *w - c.lr * g;
  }
};

struct AdagradStep {
  static constexpr int kSlots = 1;
  static inline void Step(const RuleConstants& c, float g, float* w, float* sum, float*) {
    const float s = *sum + g * g;
    *sum = s;
    *w = *w - c.lr * (g / (__builtin_sqrtf(s) + c.eps));
  }
};

struct FtrlStep {
  static constexpr int kSlots = 2;
  static inline void Step(const RuleConstants& c, float g, float* w, float* z_slot, float* n_slot) {
    const float n = *n_slot;
    const float n2 = n + g * g;
    const float root = __builtin_sqrtf(n2);
    const float sigma = (root - __builtin_sqrtf(n)) / c.alpha;
    const float old = *w;
    const float z = (*z_slot + g) - sigma * old;
    const float denominator = (c.beta + root) / c.alpha + c.l2;
    const float solved = -(z - __builtin_copysignf(c.l1, z)) / denominator;
    const float shrunk = Choose(__builtin_fabsf(z) <= c.l1, 0.0f, solved);
    // A denominator of 0 (beta = l2 = 0 and no gradient seen) leaves the value as it is.
    *w = Choose(denominator == 0.0f, old, shrunk);
    *z_slot = z;
    *n_slot = n2;
  }
};

// __restrict: value, slots and gradients never overlap; without it each loop would need a check.
template <class Rule>
inline void UpdateSpan(float* __restrict values,           // (n,)
                       float* __restrict slot0,            // (n,)
                       float* __restrict slot1,            // (n,)
                       const float* __restrict gradients,  // (n,)
                       size_t n, const RuleConstants c) {
  for (size_t i = 0; i < n; ++i) {
    Rule::Step(c, gradients[i], values + i, Rule::kSlots > 0 ? slot0 + i : nullptr,
               Rule::kSlots > 1 ? slot1 + i : nullptr);
  }
}

// Asks for the memory of a row that comes soon: rows lie anywhere, and the long divisions and roots
// of one row leave the CPU no room to look ahead to the next by itself. Past the first KiB the
// hardware has seen the direction.
inline void PrefetchRow(const float* row, size_t row_floats) {
  constexpr size_t kLineFloats = 16;
  constexpr size_t kFloatsMax = 256;
  const size_t n = row_floats < kFloatsMax ? row_floats : kFloatsMax;
  for (size_t i = 0; i < n; i += kLineFloats) __builtin_prefetch(row + i, 1);
}

template <class Rule>
void Rows(float* const* rows, const float* gradients, size_t n_rows, size_t width,
          const RuleConstants& constants) {
  const RuleConstants c = constants;  // a copy: no store to a row can change it
  if (width == 1) {
    constexpr size_t kAhead = 16;
    for (size_t i = 0; i < n_rows; ++i) {
      // A rule without slots is so short that the CPU itself is many rows ahead.
      if (Rule::kSlots > 0 && i + kAhead < n_rows) __builtin_prefetch(rows[i + kAhead], 1);
      float* row = rows[i];
      Rule::Step(c, gradients[i], row, Rule::kSlots > 0 ? row + 1 : nullptr,
                 Rule::kSlots > 1 ? row + 2 : nullptr);
    }
    return;
  }
  constexpr size_t kAhead = 4;
  for (size_t i = 0; i < n_rows; ++i) {
    if (i + kAhead < n_rows) PrefetchRow(rows[i + kAhead], (1 + Rule::kSlots) * width);
    float* row = rows[i];
    UpdateSpan<Rule>(row, Rule::kSlots > 0 ? row + width : nullptr,
                     Rule::kSlots > 1 ? row + 2 * width : nullptr, gradients + i * width, width, c);
  }
}

template <class Rule>
void Block(float* values, float* slot0, float* slot1, const float* gradients, size_t n,
           const RuleConstants& constants) {
  UpdateSpan<Rule>(values, slot0, slot1, gradients, n, constants);
}

inline void Add(float* __restrict sums, const float* __restrict addends, size_t n) {
  for (size_t i = 0; i < n; ++i) sums[i] = sums[i] + addends[i];
}

inline bool AllWithin(const float* values, size_t n, float bound) {
  // Without their sign, the bits of floats are ordered as the floats are, Inf and then NaN last.
  // Integers, because no option that loosens float arithmetic may ever remove this check.
  int bound_bits;
  __builtin_memcpy(&bound_bits, &bound, sizeof(bound_bits));
  int bad = 0;
  for (size_t i = 0; i < n; ++i) {
    int bits;
    __builtin_memcpy(&bits, values + i, sizeof(bits));
    bad |= (bits & 0x7fffffff) > bound_bits ? 1 : 0;
  }
  return bad == 0;
}

template <class Rule>
constexpr UpdateLoops kLoops = {&Rows<Rule>, &Block<Rule>};
