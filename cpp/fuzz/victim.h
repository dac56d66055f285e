// Victim: a server, a client and servers with chains, to be attacked. One thread.
#pragma once

#include <memory>
#include <vector>

#include "base/buffer.h"
#include "client/call.h"
#include "client/client.h"
#include "fuzz/fuzz.h"
#include "server/request_handler.h"
#include "wire/codec.h"

namespace fastps::fuzz {

inline constexpr BootId kBootId{{1, 2}};
inline constexpr uint32_t kTables = 6;  // sparse and dense; the last two under BSP

// The map that every story begins with.
const std::shared_ptr<const ClusterMap>& FirstMap();

class ChainVictim;

class Victim {
 public:
  Victim();
  ~Victim();

  // Whatever the request asks, it gets one reply that a client can read.
  void Submit(Request request);

  // Servers with chains between them, made when first asked for.
  ChainVictim& chains();

  // A worker of session 1 with a pull and a push behind gates on each table under BSP.
  Client& worker();
  // Lets those run whose gates are open.
  void RunGated();

  RequestHandler handler;
  Decoder decoder;
  std::shared_ptr<BufferPool> buffers = BufferPool::Create();

 private:
  std::vector<float> values_;
  std::vector<std::shared_ptr<Call>> gated_;
  std::unique_ptr<ChainVictim> chains_;
  std::unique_ptr<Client> worker_;  // last: it uses all of the above
};

}  // namespace fastps::fuzz
