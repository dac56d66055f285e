// Changes of views while everybody works: a member leaves a chain as if it had failed, is filled
// again and comes back, as the scheduler does it by the servers' reports.
#pragma once

#include <cstdint>
#include <vector>

#include "stress/field.h"

namespace fastps::stress {

// Until `until_ms`, on shards of `tables` that have copies. Returns the number of views made.
uint64_t RunViews(Field& field, const std::vector<TableId>& tables, uint64_t seed,
                  int64_t until_ms);

}  // namespace fastps::stress
