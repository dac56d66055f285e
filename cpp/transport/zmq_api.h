// ZmqApi: the few functions of libzmq that fastps uses, declared by ourselves and taken from a
// shared library at run time: the one the pyzmq wheel carries, so that the build needs no libzmq
// and a process has one copy of it. Immutable once loaded: any thread may use it.
#pragma once

#include <cstddef>
#include <string>

#include "base/status.h"

namespace fastps {

// As libzmq declares it: 64 bytes, pointer-aligned.
struct alignas(void*) ZmqMessage {
  unsigned char opaque[64];
};

struct ZmqPollItem {
  void* socket;
  int fd;
  short events;
  short revents;
};

// Values of zmq.h, part of libzmq's stable ABI.
inline constexpr int kZmqDealer = 5;
inline constexpr int kZmqRouter = 6;
inline constexpr int kZmqRcvMore = 13;
inline constexpr int kZmqLinger = 17;
inline constexpr int kZmqReconnectIvl = 18;
inline constexpr int kZmqReconnectIvlMax = 21;
inline constexpr int kZmqMaxMsgSize = 22;
inline constexpr int kZmqSndHwm = 23;
inline constexpr int kZmqRcvHwm = 24;
inline constexpr int kZmqLastEndpoint = 32;
inline constexpr int kZmqRouterMandatory = 33;
inline constexpr int kZmqHandshakeIvl = 66;
inline constexpr int kZmqHeartbeatIvl = 75;
inline constexpr int kZmqHeartbeatTimeout = 77;
inline constexpr int kZmqDontWait = 1;
inline constexpr int kZmqSndMore = 2;
inline constexpr short kZmqPollIn = 1;

struct ZmqApi {
  std::string path;  // where the functions came from
  int version[3] = {};

  void* (*ctx_new)() = nullptr;
  int (*ctx_term)(void* context) = nullptr;
  int (*ctx_shutdown)(void* context) = nullptr;
  void* (*socket)(void* context, int type) = nullptr;
  int (*close)(void* socket) = nullptr;
  int (*setsockopt)(void* socket, int option, const void* value, size_t bytes) = nullptr;
  int (*getsockopt)(void* socket, int option, void* value, size_t* bytes) = nullptr;
  int (*bind)(void* socket, const char* endpoint) = nullptr;
  int (*connect)(void* socket, const char* endpoint) = nullptr;
  int (*msg_init)(ZmqMessage* message) = nullptr;
  int (*msg_init_size)(ZmqMessage* message, size_t bytes) = nullptr;
  int (*msg_init_data)(ZmqMessage* message, void* data, size_t bytes,
                       void (*free_function)(void* data, void* hint), void* hint) = nullptr;
  int (*msg_send)(ZmqMessage* message, void* socket, int flags) = nullptr;
  int (*msg_recv)(ZmqMessage* message, void* socket, int flags) = nullptr;
  void* (*msg_data)(ZmqMessage* message) = nullptr;
  size_t (*msg_size)(const ZmqMessage* message) = nullptr;
  int (*msg_more)(const ZmqMessage* message) = nullptr;
  int (*msg_close)(ZmqMessage* message) = nullptr;
  int (*poll)(ZmqPollItem* items, int n_items, long timeout_ms) = nullptr;
  int (*last_errno)() = nullptr;
  const char* (*strerror)(int error) = nullptr;

  // Opens the library at `path` and takes its functions. kConfig when it cannot be opened, lacks
  // one of them, or is older than 4.3.
  static Status Load(const std::string& path, ZmqApi* api);
};

}  // namespace fastps
