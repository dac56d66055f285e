// What each rule does to one value: the float32 operation order that the docstrings of
// optimizers.py promise. Part of loops-inl.h; the same restrictions hold. F is float or a vector.
//
// A rule has: kSlots, floats of state each value; kHasRowSlots, whether each row has two more, and
// then AtRow, which updates them once a row; kDecays, whether it knows weight decay; kDivides,
// whether Step divides or takes a root, so that it is slow on single floats; and Step. References
// to slots that a rule lacks are to dummies.

// What the values of one row have in common, for rules with row slots.
template <class F>
struct RowTerms {
  F step;
  F scale;
};

template <int n_slots, bool decays, bool divides>
struct StepBase {
  static constexpr int kSlots = n_slots;
  static constexpr bool kHasRowSlots = false;
  static constexpr bool kDecays = decays;
  static constexpr bool kDivides = divides;
};

struct AccumulateStep : StepBase<0, false, false> {
  template <class F>
  static inline void Step(const RuleConstants&, const RowTerms<F>&, F g, F& w, F&, F&) {
    w = w + g;
  }
};

struct SgdStep : StepBase<0, true, false> {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>&, F g, F& w, F&, F&) {
    w = w - c.lr * g;
  }
};

// The velocity starts at 0, so that momentum * 0 + g makes it g at the first step, as PyTorch does.
struct MomentumStep : StepBase<1, true, false> {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>&, F g, F& w, F& velocity, F&) {
    velocity = c.momentum * velocity + g;
    w = w - c.lr * velocity;
  }
};

struct NesterovStep : StepBase<1, true, false> {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>&, F g, F& w, F& velocity, F&) {
    velocity = c.momentum * velocity + g;
    w = w - c.lr * (g + c.momentum * velocity);
  }
};

struct AdagradStep : StepBase<1, true, true> {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>&, F g, F& w, F& sum, F&) {
    sum = sum + g * g;
    w = w - c.lr * (g / (Sqrt(sum) + c.eps));
  }
};

// The row slots count the updates of the row: float32 counts exactly up to 2^24, which the second
// counts.
struct AdagradDecayStep : StepBase<1, true, true> {
  static constexpr bool kHasRowSlots = true;
  template <class F>
  static inline RowTerms<F> AtRow(const RuleConstants& c, F& low, F& high) {
    const F full = Broadcast<F>(0x1p24f);
    const F step = c.lr / (1.0f + (low + full * high) * c.lr_decay);
    const F next = low + 1.0f;
    high = next == full ? high + 1.0f : high;
    low = next == full ? next - full : next;
    return {step, F{}};
  }
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>& row, F g, F& w, F& sum, F&) {
    sum = sum + g * g;
    w = w - row.step * (g / (Sqrt(sum) + c.eps));
  }
};

struct RmspropStep : StepBase<1, true, true> {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>&, F g, F& w, F& mean, F&) {
    mean = c.alpha * mean + (1.0f - c.alpha) * (g * g);
    w = w - c.lr * (g / (Sqrt(mean) + c.eps));
  }
};

// Row slots: c1 = 1 - beta1^t and c2 = 1 - beta2^t after t updates of the row, as sums: the weights
// that m and v have given to gradients so far. 1 - beta2^t by subtraction would lose half its
// digits in the first steps.
struct AdamStep : StepBase<2, true, true> {
  static constexpr bool kHasRowSlots = true;
  template <class F>
  static inline RowTerms<F> AtRow(const RuleConstants& c, F& c1, F& c2) {
    c1 = c.beta1 * c1 + (1.0f - c.beta1);
    c2 = c.beta2 * c2 + (1.0f - c.beta2);
    return {c.lr / c1, 1.0f / Sqrt(c2)};
  }
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>& row, F g, F& w, F& m, F& v) {
    m = c.beta1 * m + (1.0f - c.beta1) * g;
    v = c.beta2 * v + (1.0f - c.beta2) * (g * g);
    w = w - row.step * (m / (Sqrt(v) * row.scale + c.eps));
  }
};

struct FtrlStep : StepBase<2, false, true> {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>&, F g, F& w, F& z, F& n) {
    const F zero = Broadcast<F>(0.0f);
    const F n2 = n + g * g;
    const F root = Sqrt(n2);
    const F sigma = (root - Sqrt(n)) / c.alpha;
    z = (z + g) - sigma * w;
    n = n2;
    const F denominator = (c.beta + root) / c.alpha + c.l2;
    const F solved = -(z - CopySign(Broadcast<F>(c.l1), z)) / denominator;
    const F shrunk = Abs(z) <= c.l1 ? zero : solved;
    // A denominator of 0 (beta = l2 = 0 and no gradient seen) leaves the value as it is.
    w = denominator == zero ? w : shrunk;
  }
};

// A rule with weight decay that is not 0. With 0 the rule itself runs: 0 * w added to the gradient
// would turn a gradient of -0 into 0, and one of a value that is infinite into NaN.
template <class Rule>
struct Decayed : Rule {
  template <class F>
  static inline void Step(const RuleConstants& c, const RowTerms<F>& row, F g, F& w, F& slot0,
                          F& slot1) {
    Rule::Step(c, row, g + c.weight_decay * w, w, slot0, slot1);
  }
};
