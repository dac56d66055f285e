// Ground: the cluster that a stress run loads, inside one process: servers, clients and a stand-in
// for the scheduler that keeps the cluster map and closes rounds. Embedded it calls servers and
// clients directly; over sockets these get maps and notices by heartbeat links. Any thread may call
// any method.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "client/client.h"
#include "routing/cluster_map.h"
#include "server/embedded_cluster.h"
#include "server/server.h"
#include "stress/closer.h"
#include "transport/waker.h"
#include "transport/zmq_socket.h"
#include "wire/reports.h"

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
  // The same in the group kGroup, from step `clock` on.
  std::shared_ptr<Client> JoinGroup(Rank rank, SessionId* session, uint64_t* clock);
  // `client` has ended all steps below `clock`.
  void EndSteps(Client& client, SessionId session, uint64_t clock);
  void Leave(SessionId session);

  // Chooses the id and, under BSP, the first round, and returns them with the rest.
  TableSpec AddTable(TableSpec spec);
  void DropTable(TableId table);

  bool is_embedded() const { return embedded_ != nullptr; }
  // Of the server with that id.
  RequestHandler& HandlerOf(ServerId server);

  uint32_t NumShards(TableId table) const;
  ShardView ViewOf(TableId table, ShardId shard) const;
  // Publishes a map with another view of a shard, and returns its version.
  MapVersion ChangeView(TableId table, ShardId shard,
                        const std::function<void(ShardView&)>& change);
  // What a server said last of a shard, and with which map.
  std::optional<std::pair<MapVersion, ShardProgress>> LastReport(ServerId server, TableId table,
                                                                 ShardId shard) const;

  Closer& closer() { return *closer_; }
  MapVersion map_version() const;
  uint64_t n_refused() const;  // messages that a server could not decode

 private:
  Ground() = default;
  Status StartServers(const std::string& libzmq, uint32_t n_servers, uint32_t data_threads);
  std::shared_ptr<const ClusterMap> map() const;
  // Makes a newer map with `change` and gives it to everybody.
  template <class Change>
  void Publish(Change change);
  SessionId NewSession();
  std::shared_ptr<Client> MakeClient(SessionId session, uint64_t clock);

  // ground_scheduler.cc
  void RunScheduler();
  void TakeHeartbeats(InMessage* message);
  void TakeReport(Bytes frame);
  void SendNews();
  void GiveNews();  // embedded

  // Constant once created.
  std::unique_ptr<ZmqRuntime> runtime_;  // null when embedded
  std::unique_ptr<EmbeddedCluster> embedded_;
  std::vector<std::unique_ptr<Server>> servers_;
  std::unique_ptr<Closer> closer_;
  std::string scheduler_;

  // A server or worker as the scheduler's thread knows it, by its address.
  struct Peer {
    Heartbeat last;
    MapVersion sent_map;
    uint64_t sent_rounds = 0;                     // servers
    std::pair<uint64_t, uint64_t> sent_notice{};  // workers: its number and clock
  };
  // The scheduler's thread's alone.
  std::unique_ptr<ZmqSocket> scheduler_socket_;
  std::map<std::string, Peer> peers_;
  uint64_t n_given_ = 0;  // rounds, embedded

  Waker waker_;  // of that thread: there is news
  std::atomic<bool> stopping_{false};
  std::thread scheduler_thread_;

  mutable Mutex mutex_;
  std::shared_ptr<const ClusterMap> map_ FASTPS_GUARDED_BY(mutex_);
  std::map<SessionId, std::weak_ptr<Client>> clients_ FASTPS_GUARDED_BY(mutex_);
  std::map<std::tuple<ServerId, TableId, ShardId>, std::pair<MapVersion, ShardProgress>> reports_
      FASTPS_GUARDED_BY(mutex_);
  std::atomic<uint64_t> installed_{0};  // the newest map that every embedded server has
  std::atomic<uint32_t> n_tables_{0};   // ever made; counted while map_ is changed
};

}  // namespace fastps::stress
