// Initial values of rows: pure functions of (table seed, key, column), so that a pull never depends
// on who asked first. Only + - * / and integer mixing: equal bits on every CPU. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "base/types.h"
#include "routing/table_spec.h"

namespace fastps {

// Fills columns [column_begin, column_begin + n) of the row `key` with their initial values.
// Dense tables use the row's number as its key.
void FillInitial(const InitializerSpec& spec, Key key, uint64_t column_begin, float* values,
                 size_t n);

// No initial value is larger than this. Requires: a legal spec.
float InitialReach(const InitializerSpec& spec);

// Whether the numbers of `spec` are legal (finite, low <= high, std >= 0, kind known).
Status CheckInitializer(const InitializerSpec& spec);

}  // namespace fastps
