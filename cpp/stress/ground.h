// Ground: the cluster that a stress run loads, inside one process: servers, clients and a stand-in
// for the scheduler that keeps the cluster map. Embedded it calls the servers directly; over
// sockets servers and clients get their maps by heartbeat links. Any thread may call any method.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "client/client.h"
#include "routing/cluster_map.h"
#include "server/embedded_cluster.h"
#include "server/server.h"
#include "transport/zmq_socket.h"

namespace fastps::stress {

class Ground {
 public:
  // `libzmq`: the library's path; empty: embedded. Null, with `status` saying why, when the servers
  // cannot be started.
  static std::unique_ptr<Ground> Create(const std::string& libzmq, uint32_t n_servers,
                                        uint32_t data_threads, Status* status);
  ~Ground();  // Requires: no client is used any more.
  Ground(const Ground&) = delete;
  Ground& operator=(const Ground&) = delete;

  // A client with a session of its own.
  std::shared_ptr<Client> Join(SessionId* session);
  void Leave(SessionId session);

  // `spec.id` is chosen here.
  TableId AddTable(TableSpec spec);
  void DropTable(TableId table);

  uint64_t map_version() const;
  uint64_t n_refused() const;  // messages that a server could not decode

 private:
  Ground() = default;
  Status StartServers(const std::string& libzmq, uint32_t n_servers, uint32_t data_threads);
  std::shared_ptr<const ClusterMap> map() const;
  // Makes a newer map with `change` and gives it to everybody.
  template <class Change>
  void Publish(Change change);
  void RunScheduler();

  // Constant once created.
  std::unique_ptr<ZmqRuntime> runtime_;  // null when embedded
  std::unique_ptr<EmbeddedCluster> embedded_;
  std::vector<std::unique_ptr<Server>> servers_;
  std::string scheduler_;

  std::unique_ptr<ZmqSocket> scheduler_socket_;  // its thread's alone
  std::atomic<bool> stopping_{false};
  std::thread scheduler_thread_;

  mutable Mutex mutex_;
  std::shared_ptr<const ClusterMap> map_ FASTPS_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Client>> clients_ FASTPS_GUARDED_BY(mutex_);
  std::atomic<uint32_t> n_tables_{0};  // ever made; counted while map_ is changed
};

}  // namespace fastps::stress
