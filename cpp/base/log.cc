#include "base/log.h"

#include <cstdio>
#include <string>

namespace fastps {

void LogWarning(std::string_view message) {
  std::string line = "fastps: warning: ";
  line.append(message);
  line.push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace fastps
