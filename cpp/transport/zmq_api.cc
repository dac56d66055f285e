#include "transport/zmq_api.h"

#include <dlfcn.h>

namespace fastps {

Status ZmqApi::Load(const std::string& path, ZmqApi* api) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    return Status(Code::kConfig, "libzmq cannot be opened: " + std::string(why ? why : path) +
                                     ". Install it with: pip install pyzmq");
  }
  std::string missing;
  const auto take = [&](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    if (*function == nullptr && missing.empty()) missing = name;
  };
  void (*version)(int*, int*, int*) = nullptr;
  take("zmq_version", &version);
  take("zmq_ctx_new", &api->ctx_new);
  take("zmq_ctx_term", &api->ctx_term);
  take("zmq_ctx_shutdown", &api->ctx_shutdown);
  take("zmq_socket", &api->socket);
  take("zmq_close", &api->close);
  take("zmq_setsockopt", &api->setsockopt);
  take("zmq_getsockopt", &api->getsockopt);
  take("zmq_bind", &api->bind);
  take("zmq_connect", &api->connect);
  take("zmq_msg_init", &api->msg_init);
  take("zmq_msg_init_size", &api->msg_init_size);
  take("zmq_msg_init_data", &api->msg_init_data);
  take("zmq_msg_send", &api->msg_send);
  take("zmq_msg_recv", &api->msg_recv);
  take("zmq_msg_data", &api->msg_data);
  take("zmq_msg_size", &api->msg_size);
  take("zmq_msg_more", &api->msg_more);
  take("zmq_msg_close", &api->msg_close);
  take("zmq_poll", &api->poll);
  take("zmq_errno", &api->last_errno);
  take("zmq_strerror", &api->strerror);
  // The library stays open for the life of the process: its threads and callbacks may outlive us.
  if (!missing.empty()) {
    return Status(Code::kConfig, path + " is no usable libzmq: it lacks " + missing +
                                     ". Install a newer one with: pip install -U pyzmq");
  }
  version(&api->version[0], &api->version[1], &api->version[2]);
  api->path = path;
  if (api->version[0] < 4 || (api->version[0] == 4 && api->version[1] < 3)) {
    return Status(Code::kConfig,
                  path + " is libzmq " + std::to_string(api->version[0]) + "." +
                      std::to_string(api->version[1]) +
                      ", 4.3 or newer is needed. Install it with: pip install -U pyzmq");
  }
  return {};
}

}  // namespace fastps
