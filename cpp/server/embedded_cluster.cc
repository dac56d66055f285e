#include "server/embedded_cluster.h"

namespace fastps {

EmbeddedCluster::EmbeddedCluster(const std::vector<BootId>& boot_ids) {
  for (const BootId boot_id : boot_ids) {
    servers_.push_back(std::make_unique<RequestHandler>(boot_id));
  }
}

Status EmbeddedCluster::InstallMap(std::shared_ptr<const ClusterMap> map) {
  for (const auto& server : servers_) {
    if (Status status = server->InstallMap(map); !status.ok()) return status;
    server->ForgetEndedSessions();
  }
  return {};
}

void EmbeddedCluster::CloseRounds(const RoundsNotice& notice) {
  for (const auto& server : servers_) {
    server->CloseRounds(notice);
    server->FoldClosed();
  }
}

RequestSink* EmbeddedCluster::FindServer(BootId boot_id) const {
  for (const auto& server : servers_) {
    if (server->boot_id() == boot_id) return server.get();
  }
  return nullptr;
}

}  // namespace fastps
