// EmbeddedCluster: the servers of a cluster inside the caller's own process, called directly: no
// sockets, no threads of its own. Any thread may call any method.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "base/status.h"
#include "routing/cluster_map.h"
#include "server/request_handler.h"
#include "wire/request_sink.h"

namespace fastps {

class EmbeddedCluster {
 public:
  explicit EmbeddedCluster(const std::vector<BootId>& boot_ids);

  // Installs `map` on every server.
  Status InstallMap(std::shared_ptr<const ClusterMap> map);

  // Closes rounds on every server.
  void CloseRounds(const RoundsNotice& notice);

  // The servers by number, in the order of their boot ids; null when there are not so many.
  RequestHandler* FindHandler(size_t server) const {
    return server < servers_.size() ? servers_[server].get() : nullptr;
  }

  // The server of that boot id, or null.
  RequestSink* FindServer(BootId boot_id) const;

 private:
  std::vector<std::unique_ptr<RequestHandler>> servers_;
};

}  // namespace fastps
