// Sessions of a group under BSP: threads that end their steps together, session after session.
#pragma once

#include <cstdint>

#include "stress/round_field.h"

namespace fastps::stress {

// Until `until_ms`: a session of `rank` joins the group, works some steps with several threads, and
// ends in the middle of a step; then the next.
void RunSessions(RoundField& rounds, Rank rank, uint64_t seed, int64_t until_ms);

}  // namespace fastps::stress
