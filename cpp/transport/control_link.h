// ControlLink: a thread that tells the scheduler "I am alive" and takes the cluster maps and
// notices it sends. A thread of C++ with a socket of its own, because Python code may hold the GIL
// for seconds.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "routing/cluster_map.h"
#include "transport/waker.h"
#include "transport/zmq_socket.h"
#include "wire/map_codec.h"

namespace fastps {

class ControlLink {
 public:
  // The callbacks run on the link's thread. `report` gives one more frame to send with each
  // heartbeat, or none when it is empty. `on_map` gets decoded maps, older ones too; `on_notice`
  // gets frames that are no maps, from whomever.
  ControlLink(const ZmqRuntime& runtime, std::string scheduler,
              std::function<Heartbeat()> heartbeat,
              std::function<void(std::shared_ptr<const ClusterMap>)> on_map,
              std::function<void(Bytes frame)> on_notice, std::function<std::string()> report = {});
  ~ControlLink();  // stops the thread

  // Sends a heartbeat now, beside those at their times. Any thread.
  void SendHeartbeat() { waker_.Wake(); }

  ControlLink(const ControlLink&) = delete;
  ControlLink& operator=(const ControlLink&) = delete;

 private:
  void Run();
  void TakeFrames(ZmqSocket* socket);

  const ZmqRuntime& runtime_;
  const std::string scheduler_;
  std::function<Heartbeat()> heartbeat_;
  const std::function<void(std::shared_ptr<const ClusterMap>)> on_map_;
  const std::function<void(Bytes)> on_notice_;
  const std::function<std::string()> report_;
  Waker waker_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace fastps
