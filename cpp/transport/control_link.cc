#include "transport/control_link.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"

namespace fastps {

ControlLink::ControlLink(const ZmqRuntime& runtime, std::string scheduler,
                         std::function<Heartbeat()> heartbeat,
                         std::function<void(std::shared_ptr<const ClusterMap>)> on_map,
                         std::function<void(Bytes frame)> on_notice,
                         std::function<std::string()> report)
    : runtime_(runtime),
      scheduler_(std::move(scheduler)),
      heartbeat_(std::move(heartbeat)),
      on_map_(std::move(on_map)),
      on_notice_(std::move(on_notice)),
      report_(std::move(report)),
      thread_([this] { Run(); }) {}

ControlLink::~ControlLink() {
  stopping_ = true;
  waker_.Wake();
  thread_.join();
}

void ControlLink::Run() {
  ZmqSocket socket(runtime_, kZmqDealer);
  if (Status status = socket.Connect(scheduler_); !status.ok()) {
    LogWarning(status.message());
    return;
  }
  int64_t next_heartbeat_ms = NowMs();
  while (!stopping_) {
    const int64_t now_ms = NowMs();
    if (now_ms >= next_heartbeat_ms) {
      for (const std::string& frame :
           {EncodeHeartbeat(heartbeat_()), report_ ? report_() : std::string()}) {
        const OutFrame out{std::as_bytes(std::span(frame)), {}};
        if (!frame.empty()) (void)socket.Send({&out, 1});  // lost ones are followed by the next
      }
      next_heartbeat_ms = now_ms + limits::kHeartbeatIntervalMs;
    }
    ZmqPollItem items[] = {{socket.raw(), 0, kZmqPollIn, 0}, {nullptr, waker_.fd(), kZmqPollIn, 0}};
    runtime_.api().poll(items, 2,
                        static_cast<long>(std::max<int64_t>(0, next_heartbeat_ms - now_ms)));
    if (items[0].revents != 0) {
      TakeFrames(&socket);
    }
    if (items[1].revents != 0) {
      waker_.Clear();
      next_heartbeat_ms = NowMs();
    }
  }
}

void ControlLink::TakeFrames(ZmqSocket* socket) {
  InMessage message(runtime_);
  while (socket->Receive(&message)) {
    if (message.frames().size() != 1) continue;
    const std::optional<Bytes> bytes = MapOfFrame(message.frames()[0]);
    if (!bytes) {
      on_notice_(message.frames()[0]);
      continue;
    }
    auto map = std::make_shared<ClusterMap>();
    if (Status status = DecodeClusterMap(*bytes, map.get()); !status.ok()) {
      LogWarning("a cluster map was refused: " + status.message());
      continue;
    }
    on_map_(std::move(map));
  }
}

}  // namespace fastps
