// ZeroMQ sockets and frames with the settings that fastps relies on. A socket is used by one thread
// at a time; whoever hands it on does so under a mutex.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/status.h"
#include "transport/zmq_api.h"

namespace fastps {

// libzmq and the one context of the process. Alive till exit: terminating a context waits for
// sockets of threads that may never come back.
class ZmqRuntime {
 public:
  explicit ZmqRuntime(ZmqApi api) : api_(std::move(api)), context_(api_.ctx_new()) {}
  const ZmqApi& api() const { return api_; }
  void* context() const { return context_; }

 private:
  const ZmqApi api_;
  void* const context_;
};

// Bytes to send, and what keeps them alive until libzmq has sent them. Without an owner, or when
// they are few, they are copied.
struct OutFrame {
  Bytes bytes;
  Buffer owner;
};

// The frames of one received message, kept until the next one is received.
class InMessage {
 public:
  explicit InMessage(const ZmqRuntime& runtime) : api_(runtime.api()) {}
  ~InMessage() { Clear(); }
  InMessage(const InMessage&) = delete;
  InMessage& operator=(const InMessage&) = delete;

  std::span<const Bytes> frames() const { return frames_; }

 private:
  friend class ZmqSocket;
  static constexpr size_t kFramesMax = 6;

  void Clear();

  const ZmqApi& api_;
  ZmqMessage messages_[kFramesMax];  // the first n_open_ are initialized
  size_t n_open_ = 0;
  std::vector<Bytes> frames_;
};

class ZmqSocket {
 public:
  // `type` is kZmqDealer or kZmqRouter. A router refuses to send to peers it does not know.
  ZmqSocket(const ZmqRuntime& runtime, int type);
  ~ZmqSocket();
  ZmqSocket(ZmqSocket&& other) noexcept
      : runtime_(other.runtime_), socket_(std::exchange(other.socket_, nullptr)) {}
  ZmqSocket& operator=(ZmqSocket&&) = delete;

  Status Bind(const std::string& endpoint);
  Status Connect(const std::string& endpoint);
  // Where it is bound, with the port the system chose.
  std::string LastEndpoint() const;

  // Sends the frames as one message, or nothing. False when there is no room or no such peer: the
  // message counts as lost, and whoever needs its answer sends it again.
  bool Send(std::span<const OutFrame> frames);

  // Receives one message if there is one. A message of too many frames is dropped whole.
  bool Receive(InMessage* message);

  void* raw() const { return socket_; }

 private:
  void SetOption(int option, int value);

  const ZmqRuntime& runtime_;
  void* socket_;
};

}  // namespace fastps
