// The loops, each written once. Every target's file includes this text inside its own unnamed
// namespace, after prefetch.h, kernels.h, vectors-inl.h and what the target adds to it (see
// baseline.cc), and compiles it for its own instructions.
//
// Plain C and builtins only: an inline function of std, compiled here for AVX2, could be the copy
// that the linker keeps for the whole program, and crash an older CPU.
//
// A target defines: kLanes, the floats of its vectors; kWideLanes, those of the ones for long spans
// of rules that divide; Sqrt of both sizes and of 4; LoadPart and StorePart of kLanes.
#include "kernels/steps-inl.h"
#include "kernels/sums-inl.h"

// What is called in loops must be inlined: the constants then stay in registers.
#define FASTPS_INLINE inline __attribute__((always_inline))

// The floats of some values. What a rule lacks is null and never read.
struct Place {
  float* values;
  float* slot0;
  float* slot1;
};

// [value | slot 0 | slot 1 | row slots], as far as the rule has them.
template <class Rule>
FASTPS_INLINE Place PlaceOfRow(float* row, size_t width) {
  return {row, Rule::kSlots > 0 ? row + width : nullptr,
          Rule::kSlots > 1 ? row + 2 * width : nullptr};
}

template <class Rule>
FASTPS_INLINE Place PlaceInBlock(const RowSpan& block, size_t offset) {
  return {block.values + offset, Rule::kSlots > 0 ? block.slot0 + offset : nullptr,
          Rule::kSlots > 1 ? block.slot1 + offset : nullptr};
}

// One step from `load(pointer)` to `store(pointer, F)`.
template <class Rule, class F, class LoadF, class StoreF>
FASTPS_INLINE void StepAt(const RuleConstants& c, const RowTerms<F>& row, const Place& place,
                          const float* gradients, size_t i, LoadF load, StoreF store) {
  F w = load(place.values + i);
  F slot0 = F{}, slot1 = F{};
  if (Rule::kSlots > 0) slot0 = load(place.slot0 + i);
  if (Rule::kSlots > 1) slot1 = load(place.slot1 + i);
  Rule::template Step<F>(c, row, load(gradients + i), w, slot0, slot1);
  store(place.values + i, w);
  if (Rule::kSlots > 0) store(place.slot0 + i, slot0);
  if (Rule::kSlots > 1) store(place.slot1 + i, slot1);
}

template <class F>
FASTPS_INLINE RowTerms<F> Spread(RowTerms<float> row) {
  return {Broadcast<F>(row.step), Broadcast<F>(row.scale)};
}

template <class Rule, class F>
FASTPS_INLINE void StepWhole(const RuleConstants& c, const RowTerms<F>& row, const Place& place,
                             const float* gradients, size_t i) {
  StepAt<Rule, F>(
      c, row, place, gradients, i, [](const float* from) { return Load<F>(from); },
      [](float* to, F vector) { Store<F>(to, vector); });
}

// Fewer floats than fill an F, loaded and stored by moves of their own: a masked move is treated as
// if it touched all lanes, and waits for the stores to the row before it.
template <class Rule, class F>
FASTPS_INLINE void StepPart(const RuleConstants& c, RowTerms<float> row, const Place& place,
                            const float* gradients, size_t i, size_t n) {
  StepAt<Rule, F>(
      c, Spread<F>(row), place, gradients, i,
      [n](const float* from) { return LoadPart(F{}, from, n); },
      [n](float* to, F vector) { StorePart(to, vector, n); });
}

// Shorter spans gain nothing from the wider vectors of a target that has them.
constexpr size_t kWideMin = 64;

// The n floats from i on. Requires: n < kLanes.
template <class Rule>
FASTPS_INLINE void StepRest(const RuleConstants& c, RowTerms<float> row, const Place& place,
                            const float* gradients, size_t i, size_t n) {
  if constexpr (kLanes >= 8) {
    if (n > 4) return StepPart<Rule, Vector<8>>(c, row, place, gradients, i, n);
  }
  if (n == 4) {
    StepWhole<Rule, Vector<4>>(c, Spread<Vector<4>>(row), place, gradients, i);
  } else if (n > 1) {
    StepPart<Rule, Vector<4>>(c, row, place, gradients, i, n);
  } else if (n == 1) {
    StepWhole<Rule, float>(c, row, place, gradients, i);
  }
}

// Values that share their terms: a row, or a block of a rule without row slots.
template <class Rule>
FASTPS_INLINE void UpdateSpan(const RuleConstants& c, RowTerms<float> row, const Place& place,
                              const float* gradients, size_t n) {
  if (!Rule::kDivides && n < 4) {
    for (size_t i = 0; i < n; ++i) {
      StepWhole<Rule, float>(c, row, place, gradients, i);
      __asm__ volatile("");  // for the compiler, whose vectors would make so short a loop slower
    }
    return;
  }
  size_t i = 0;
  if constexpr (kWideLanes > kLanes && Rule::kDivides) {
    if (n >= kWideMin) {
      using F = Vector<kWideLanes>;
      const RowTerms<F> spread = Spread<F>(row);
      for (; i + kWideLanes <= n; i += kWideLanes) {
        StepWhole<Rule, F>(c, spread, place, gradients, i);
      }
    }
  }
  using F = Vector<kLanes>;
  const RowTerms<F> spread = Spread<F>(row);
  for (; i + kLanes <= n; i += kLanes) StepWhole<Rule, F>(c, spread, place, gradients, i);
  StepRest<Rule>(c, row, place, gradients, i, n - i);
}

// Rows of one float of a rule that divides: a division of one float takes as long as one of a
// vector, so that as many rows as fill one are worked at once.
template <class Rule, class F>
FASTPS_INLINE void UpdateColumn(const RuleConstants& c, float* const* rows,
                                const float* gradients) {
  F w = LoadColumn<F>(rows, 0);
  F slot0 = F{}, slot1 = F{};
  if (Rule::kSlots > 0) slot0 = LoadColumn<F>(rows, 1);
  if (Rule::kSlots > 1) slot1 = LoadColumn<F>(rows, 2);
  RowTerms<F> terms{};
  if constexpr (Rule::kHasRowSlots) {
    F row_slot0 = LoadColumn<F>(rows, 1 + Rule::kSlots);
    F row_slot1 = LoadColumn<F>(rows, 2 + Rule::kSlots);
    terms = Rule::template AtRow<F>(c, row_slot0, row_slot1);
    StoreColumn<F>(rows, 1 + Rule::kSlots, row_slot0);
    StoreColumn<F>(rows, 2 + Rule::kSlots, row_slot1);
  }
  Rule::template Step<F>(c, terms, Load<F>(gradients), w, slot0, slot1);
  StoreColumn<F>(rows, 0, w);
  if (Rule::kSlots > 0) StoreColumn<F>(rows, 1, slot0);
  if (Rule::kSlots > 1) StoreColumn<F>(rows, 2, slot1);
}

constexpr size_t kBatchRows = 16;

// The terms of up to kBatchRows rows. Their divisions, one after another, would take longer than
// the rows themselves where these are narrow.
template <class Rule>
FASTPS_INLINE void TermsOfRows(const RuleConstants& c, float* const* rows, size_t n_rows,
                               size_t width, RowTerms<float>* terms) {
  const size_t offset = (1 + Rule::kSlots) * width;
  using F = Vector<kLanes>;
  size_t i = 0;
  for (; i + kLanes <= n_rows; i += kLanes) {
    F row_slot0 = LoadColumn<F>(rows + i, offset);
    F row_slot1 = LoadColumn<F>(rows + i, offset + 1);
    const RowTerms<F> row = Rule::template AtRow<F>(c, row_slot0, row_slot1);
    StoreColumn<F>(rows + i, offset, row_slot0);
    StoreColumn<F>(rows + i, offset + 1, row_slot1);
    for (size_t j = 0; j < kLanes; ++j) terms[i + j] = {row.step[j], row.scale[j]};
  }
  for (; i < n_rows; ++i) {
    terms[i] = Rule::template AtRow<float>(c, rows[i][offset], rows[i][offset + 1]);
  }
}

template <class Rule>
inline void UpdateRowsOf(float* const* rows, const float* gradients, size_t n_rows, size_t width,
                         const RuleConstants& constants) {
  const RuleConstants c = constants;  // a copy: no store to a row can change it
  size_t begin = 0;
  if (width == 1) {
    if constexpr (Rule::kDivides) {
      for (; begin + kLanes <= n_rows; begin += kLanes) {
        UpdateColumn<Rule, Vector<kLanes>>(c, rows + begin, gradients + begin);
      }
    }
    for (; begin < n_rows; ++begin) {
      float* const row = rows[begin];
      RowTerms<float> terms{};
      if constexpr (Rule::kHasRowSlots) {
        terms = Rule::template AtRow<float>(c, row[1 + Rule::kSlots], row[2 + Rule::kSlots]);
      }
      StepWhole<Rule, float>(c, terms, PlaceOfRow<Rule>(row, 1), gradients + begin, 0);
    }
    return;
  }
  constexpr size_t kAhead = 4;
  const size_t row_floats = (1 + Rule::kSlots) * width + (Rule::kHasRowSlots ? 2 : 0);
  RowTerms<float> terms[Rule::kHasRowSlots ? kBatchRows : 1];
  if (!Rule::kHasRowSlots) terms[0] = {};
  for (size_t i = 0; i < n_rows; ++i) {
    if constexpr (Rule::kHasRowSlots) {
      if (i % kBatchRows == 0) {
        const size_t n = n_rows - i < kBatchRows ? n_rows - i : kBatchRows;
        TermsOfRows<Rule>(c, rows + i, n, width, terms);
      }
    }
    if (i + kAhead < n_rows) PrefetchRow(rows[i + kAhead], row_floats);
    UpdateSpan<Rule>(c, terms[Rule::kHasRowSlots ? i % kBatchRows : 0],
                     PlaceOfRow<Rule>(rows[i], width), gradients + i * width, width);
  }
}

template <class Rule>
void Rows(float* const* rows, const float* gradients, size_t n_rows, size_t width,
          const RuleConstants& constants) {
  if (Rule::kDecays && constants.weight_decay != 0.0f) {
    UpdateRowsOf<Decayed<Rule>>(rows, gradients, n_rows, width, constants);
  } else {
    UpdateRowsOf<Rule>(rows, gradients, n_rows, width, constants);
  }
}

template <class Rule>
inline void UpdateBlockOf(const RowSpan& block, const float* gradients, size_t n_rows, size_t width,
                          const RuleConstants& constants) {
  const RuleConstants c = constants;
  const RowSpan b = block;
  if constexpr (!Rule::kHasRowSlots) {
    UpdateSpan<Rule>(c, {}, PlaceInBlock<Rule>(b, 0), gradients, n_rows * width);
  } else {
    using F = Vector<kLanes>;
    size_t i = 0;
    for (; i + kLanes <= n_rows; i += kLanes) {
      F row_slot0 = Load<F>(b.row_slot0 + i);
      F row_slot1 = Load<F>(b.row_slot1 + i);
      const RowTerms<F> terms = Rule::template AtRow<F>(c, row_slot0, row_slot1);
      Store<F>(b.row_slot0 + i, row_slot0);
      Store<F>(b.row_slot1 + i, row_slot1);
      if (width == 1) {
        StepWhole<Rule, F>(c, terms, PlaceInBlock<Rule>(b, 0), gradients, i);
        continue;
      }
      for (size_t j = 0; j < kLanes; ++j) {
        const size_t offset = (i + j) * width;
        UpdateSpan<Rule>(c, {terms.step[j], terms.scale[j]}, PlaceInBlock<Rule>(b, offset),
                         gradients + offset, width);
      }
    }
    for (; i < n_rows; ++i) {
      const RowTerms<float> terms = Rule::template AtRow<float>(c, b.row_slot0[i], b.row_slot1[i]);
      UpdateSpan<Rule>(c, terms, PlaceInBlock<Rule>(b, i * width), gradients + i * width, width);
    }
  }
}

template <class Rule>
void Block(const RowSpan& block, const float* gradients, size_t n_rows, size_t width,
           const RuleConstants& constants) {
  if (Rule::kDecays && constants.weight_decay != 0.0f) {
    UpdateBlockOf<Decayed<Rule>>(block, gradients, n_rows, width, constants);
  } else {
    UpdateBlockOf<Rule>(block, gradients, n_rows, width, constants);
  }
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

constexpr Kernels MakeTable(std::string_view name) {
  return {
      .name = name,
      .accumulate = kLoops<AccumulateStep>,
      .sgd = kLoops<SgdStep>,
      .adagrad = kLoops<AdagradStep>,
      .adagrad_decay = kLoops<AdagradDecayStep>,
      .ftrl = kLoops<FtrlStep>,
      .momentum = kLoops<MomentumStep>,
      .nesterov = kLoops<NesterovStep>,
      .rmsprop = kLoops<RmspropStep>,
      .adam = kLoops<AdamStep>,
      .add = &Add,
      .sum_blocks = &SumBlocks,
      .sum_rows = &SumRows,
      .all_within = &AllWithin,
  };
}
