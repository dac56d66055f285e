// Server: the data threads of one server process. Each thread serves the shards whose number it has
// modulo the number of threads; a request is handled on the thread that received it. It owns a
// ROUTER socket for clients, one for predecessors in chains, and a DEALER socket to each thread of
// a successor. Start and the destructor are called by one thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "server/chain_node.h"
#include "server/request_handler.h"
#include "transport/control_link.h"
#include "transport/waker.h"
#include "transport/zmq_socket.h"

namespace fastps {

class Server {
 public:
  // Listens on `bind` ("tcp://127.0.0.1:*", "ipc:///path"; with several threads over ipc the path
  // gets the thread's number appended). Null, with `status` saying why, when it cannot.
  static std::unique_ptr<Server> Create(const ZmqRuntime& runtime, BootId boot_id,
                                        const std::string& bind, uint32_t data_threads,
                                        Status* status);
  ~Server();  // stops the threads
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Where each data thread listens, for clients and for other servers.
  const std::vector<std::string>& endpoints() const { return endpoints_; }
  const std::vector<std::string>& chain_endpoints() const { return chain_endpoints_; }

  // Installs the first map, then starts the data threads and the heartbeats to `scheduler`.
  // `heard`: the number of the newest closed round when this server was registered.
  Status Start(ServerId id, std::shared_ptr<const ClusterMap> map, const std::string& scheduler,
               uint64_t heard);

  RequestHandler& handler() { return handler_; }
  uint64_t n_refused() const { return n_refused_.load(std::memory_order_relaxed); }

 private:
  Server(const ZmqRuntime& runtime, BootId boot_id) : runtime_(runtime), handler_(boot_id) {}
  // What a data thread told last of the chains of its shards.
  struct Told {
    MapVersion map_version;
    Report report;
    std::map<GroupId, Round> settled;
  };

  void RunDataThread(size_t thread);
  void RunInstaller();
  void WakeDataThreads();
  void Tell(size_t thread, ChainNode& node);
  std::string ReportFrame(ServerId id, ClusterId cluster_id);
  MapVersion MapVersionInUse();
  MapVersion MapVersionOfAll() const FASTPS_REQUIRES(mutex_);

  const ZmqRuntime& runtime_;
  RequestHandler handler_;
  std::vector<std::string> endpoints_;
  std::vector<std::string> chain_endpoints_;
  std::vector<ZmqSocket> sockets_;  // each used by its thread alone once started, as
  std::vector<ZmqSocket> chain_sockets_;
  std::vector<std::unique_ptr<Waker>> wakers_;  // a newer map is there, or the server stops
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> n_refused_{0};  // messages that could not be decoded
  std::vector<std::thread> threads_;

  // What waits for the installer, the newest map and closed rounds: filling the initial values of a
  // large dense table, or folding a round, takes long, and heartbeats must not wait for it.
  Mutex mutex_;
  std::condition_variable_any news_came_;
  std::shared_ptr<const ClusterMap> next_map_ FASTPS_GUARDED_BY(mutex_);
  std::vector<RoundsNotice> next_rounds_ FASTPS_GUARDED_BY(mutex_);
  std::vector<Told> told_ FASTPS_GUARDED_BY(mutex_);  // by data thread

  std::unique_ptr<ControlLink> control_link_;
};

}  // namespace fastps
