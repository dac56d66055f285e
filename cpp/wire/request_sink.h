// RequestSink: where requests go in and ReplySink: where their replies come out. A server
// implements the first; the socket loop of a server, or an embedded client, implements the second.
#pragma once

#include "wire/message.h"

namespace fastps {

class ReplySink {
 public:
  virtual ~ReplySink() = default;
  // Called once per request, on any thread, possibly before Submit returns.
  virtual void OnReply(OwnedReply reply) = 0;
};

class RequestSink {
 public:
  virtual ~RequestSink() = default;
  // The request's spans need to live until Submit returns; `replies` until it was called.
  virtual void Submit(const Request& request, ReplySink& replies) = 0;
};

}  // namespace fastps
