// Changes of views while everybody works, as the scheduler makes them by the servers' reports: a
// member leaves a chain as if it had failed, is filled again and comes back; what has one copy
// moves.
#pragma once

#include <cstdint>
#include <vector>

#include "stress/field.h"

namespace fastps::stress {

// Until `until_ms`, on shards of `tables`, among servers 0 .. n_servers - 1. Returns how many views
// it made.
uint64_t RunViews(Field& field, const std::vector<TableId>& tables, uint32_t n_servers,
                  uint64_t seed, int64_t until_ms);

}  // namespace fastps::stress
