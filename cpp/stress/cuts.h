// Cuts of shards while everybody writes: the part of a stress run that saves.
#pragma once

#include <cstdint>
#include <vector>

#include "stress/field.h"

namespace fastps::stress {

// Cuts shards of `tables` at random, in full or what changed, until the time; some cuts are
// dropped, some are ended by views that change. Checks that no row comes twice, that full cuts have
// as many rows as they said, and that the sums in `rising`, one of the tables, never fall. Returns
// how many cuts were read to their end.
uint64_t RunCuts(Field& field, const std::vector<TableId>& tables, TableId rising, uint64_t seed,
                 int64_t until_ms);

}  // namespace fastps::stress
