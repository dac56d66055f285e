#include "transport/zmq_socket.h"

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/limits.h"
#include "base/tsan.h"

namespace fastps {
namespace {

// Below this a copy costs less than the bookkeeping of a shared buffer.
constexpr size_t kZeroCopyBytesMin = 1024;
// Messages of one peer that wait, not bytes. A client's own window is smaller, so only a stranger
// meets it: together with kFrameBytesMax it bounds what one can make a server hold.
constexpr int kHighWaterMessages = 64;
static_assert(kHighWaterMessages >= 2 * static_cast<int>(limits::kMessagesInFlightPerLaneMax));
// ZMQ_IPV6, only for addresses that are written in it: names mean IPv4 as ever.
constexpr int kZmqIpv6 = 42;
constexpr int kTcpHeartbeatMs = 2000;
constexpr int kTcpHeartbeatTimeoutMs = 10000;
constexpr int kReconnectMs = 20;
constexpr int kReconnectMsMax = 1000;

void DropBuffer(void* /*data*/, void* hint) {
  TakeOver(hint);
  Buffer::DropOpaque(hint);
}

}  // namespace

void InMessage::Clear() {
  for (size_t i = 0; i < n_open_; ++i) api_.msg_close(&messages_[i]);
  n_open_ = 0;
  frames_.clear();
}

ZmqSocket::ZmqSocket(const ZmqRuntime& runtime, int type)
    : runtime_(runtime), socket_(runtime.api().socket(runtime.context(), type)) {
  FASTPS_CHECK(socket_ != nullptr);
  SetOption(kZmqLinger, 0);
  SetOption(kZmqSndHwm, kHighWaterMessages);
  SetOption(kZmqRcvHwm, kHighWaterMessages);
  SetOption(kZmqHandshakeIvl, static_cast<int>(limits::kHandshakeMs));
  SetOption(kZmqHeartbeatIvl, kTcpHeartbeatMs);
  SetOption(kZmqHeartbeatTimeout, kTcpHeartbeatTimeoutMs);
  SetOption(kZmqReconnectIvl, kReconnectMs);
  SetOption(kZmqReconnectIvlMax, kReconnectMsMax);
  if (type == kZmqRouter) SetOption(kZmqRouterMandatory, 1);
  const int64_t frame_bytes_max = static_cast<int64_t>(limits::kFrameBytesMax);
  runtime_.api().setsockopt(socket_, kZmqMaxMsgSize, &frame_bytes_max, sizeof(frame_bytes_max));
}

ZmqSocket::~ZmqSocket() {
  if (socket_ != nullptr) runtime_.api().close(socket_);
}

void ZmqSocket::SetOption(int option, int value) {
  runtime_.api().setsockopt(socket_, option, &value, sizeof(value));
}

Status ZmqSocket::Bind(const std::string& endpoint) {
  const ZmqApi& api = runtime_.api();
  if (endpoint.find('[') != std::string::npos) SetOption(kZmqIpv6, 1);
  if (api.bind(socket_, endpoint.c_str()) == 0) return {};
  return Status(Code::kUnavailable,
                "cannot listen on " + endpoint + ": " + api.strerror(api.last_errno()));
}

Status ZmqSocket::Connect(const std::string& endpoint) {
  const ZmqApi& api = runtime_.api();
  if (endpoint.find('[') != std::string::npos) SetOption(kZmqIpv6, 1);
  if (api.connect(socket_, endpoint.c_str()) == 0) return {};
  return Status(Code::kUnavailable,
                "cannot connect to " + endpoint + ": " + api.strerror(api.last_errno()));
}

std::string ZmqSocket::LastEndpoint() const {
  char endpoint[512] = {};
  size_t bytes = sizeof(endpoint);
  runtime_.api().getsockopt(socket_, kZmqLastEndpoint, endpoint, &bytes);
  return endpoint;
}

bool ZmqSocket::Send(std::span<const OutFrame> frames) {
  const ZmqApi& api = runtime_.api();
  for (size_t i = 0; i < frames.size(); ++i) {
    const Bytes bytes = frames[i].bytes;
    ZmqMessage message;
    if (frames[i].owner.size() != 0 && bytes.size() >= kZeroCopyBytesMin) {
      // libzmq only reads what it sends; its signature is older than const.
      void* const data = const_cast<std::byte*>(bytes.data());
      void* const owner = frames[i].owner.ShareOpaque();
      HandOver(owner);
      api.msg_init_data(&message, data, bytes.size(), DropBuffer, owner);
    } else {
      api.msg_init_size(&message, bytes.size());
      if (!bytes.empty()) std::memcpy(api.msg_data(&message), bytes.data(), bytes.size());
    }
    const int more = i + 1 < frames.size() ? kZmqSndMore : 0;
    if (api.msg_send(&message, socket_, kZmqDontWait | more) < 0) {
      api.msg_close(&message);
      // Only a first frame is refused for want of room or of a peer, so nothing is half sent.
      return false;
    }
  }
  return true;
}

bool ZmqSocket::Receive(InMessage* message) {
  const ZmqApi& api = runtime_.api();
  for (;;) {
    message->Clear();
    bool more = true;
    size_t n_frames = 0;
    while (more) {
      ZmqMessage frame;
      api.msg_init(&frame);
      if (api.msg_recv(&frame, socket_, kZmqDontWait) < 0) {
        api.msg_close(&frame);
        message->Clear();
        return false;
      }
      more = api.msg_more(&frame) != 0;
      if (++n_frames > InMessage::kFramesMax) {
        api.msg_close(&frame);
        continue;
      }
      // A ZmqMessage may be moved by its bytes as long as the old place is not used again.
      message->messages_[message->n_open_++] = frame;
    }
    if (n_frames > InMessage::kFramesMax) continue;
    for (size_t i = 0; i < message->n_open_; ++i) {
      ZmqMessage* const frame = &message->messages_[i];
      message->frames_.push_back(
          {static_cast<const std::byte*>(api.msg_data(frame)), api.msg_size(frame)});
    }
    return true;
  }
}

}  // namespace fastps
