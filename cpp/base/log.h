// One line a message on stderr, written in one call so that lines of threads do not mix.
#pragma once

#include <string_view>

namespace fastps {

void LogWarning(std::string_view message);

}  // namespace fastps
