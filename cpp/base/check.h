// FASTPS_CHECK: a broken promise in our own code ends the process and says where. Never used on
// bytes or arguments that came from outside; those get a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#define FASTPS_CHECK(condition)                                                                    \
  do {                                                                                             \
    if (!(condition)) [[unlikely]] {                                                               \
      std::fprintf(stderr, "fastps: %s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                                \
    }                                                                                              \
  } while (false)
