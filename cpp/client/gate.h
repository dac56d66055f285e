// Gate: what a call waits for before it may start, by the table's consistency
// (fastps/consistency.py says which gate a call has). Plain values.
#pragma once

#include <cstdint>

#include "wire/notices.h"

namespace fastps {

struct Gate {
  uint64_t minimum = 0;  // steps that every worker of the group must have ended
  uint64_t rounds = 0;   // rounds of the group that must be closed
  uint64_t clock = 0;    // steps of the caller's own that the scheduler must have counted
  bool always_open() const { return minimum == 0 && rounds == 0 && clock == 0; }
  bool IsOpen(const ClockNotice& told) const {
    return told.minimum >= minimum && told.rounds >= rounds && told.clock >= clock;
  }
};

}  // namespace fastps
