#include "server/server.h"

#include <span>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "wire/codec.h"

namespace fastps {
namespace {

// Sends replies back to the peer whose request is being handled.
class SocketReplySink final : public ReplySink {
 public:
  SocketReplySink(ZmqSocket* socket, Bytes peer, std::vector<std::byte>* head)
      : socket_(socket), peer_(peer), head_(head) {}

  void OnReply(OwnedReply reply) override {
    EncodeReplyHead(reply, head_);
    OutFrame frames[2 + 3] = {{peer_, {}}, {*head_, {}}};
    size_t n_frames = 2;
    for (const Buffer* section : {&reply.keys, &reply.values, &reply.flags}) {
      if (section->size() != 0) frames[n_frames++] = {section->As<std::byte>(), *section};
    }
    // A peer that is gone or does not read asks again if it still wants to know.
    (void)socket_->Send({frames, n_frames});
  }

 private:
  ZmqSocket* const socket_;
  const Bytes peer_;
  std::vector<std::byte>* const head_;
};

}  // namespace

std::unique_ptr<Server> Server::Create(const ZmqRuntime& runtime, BootId boot_id,
                                       const std::string& bind, uint32_t data_threads,
                                       Status* status) {
  if (data_threads == 0 || data_threads > limits::kDataThreadsMax) {
    *status =
        Status(Code::kConfig, "data_threads is " + std::to_string(data_threads) +
                                  ", needed is 1 to " + std::to_string(limits::kDataThreadsMax));
    return nullptr;
  }
  std::unique_ptr<Server> server(new Server(runtime, boot_id));
  const bool is_ipc = bind.starts_with("ipc:");
  for (uint32_t i = 0; i < data_threads; ++i) {
    ZmqSocket& socket = server->sockets_.emplace_back(runtime, kZmqRouter);
    const std::string suffix = is_ipc && data_threads > 1 ? "." + std::to_string(i) : "";
    *status = socket.Bind(bind + suffix);
    if (!status->ok()) return nullptr;
    server->endpoints_.push_back(socket.LastEndpoint());
  }
  return server;
}

Server::~Server() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  news_came_.notify_all();
  waker_.Wake();
  for (std::thread& thread : threads_) thread.join();
  control_link_.reset();  // last: the installer uses it
}

Status Server::Start(ServerId id, std::shared_ptr<const ClusterMap> map,
                     const std::string& scheduler, uint64_t heard) {
  if (!threads_.empty()) return Status(Code::kConfig, "the server was started before");
  const ClusterId cluster_id = map->cluster_id;
  const Incarnation incarnation = map->incarnation;
  handler_.StartHearingAt(heard);
  if (Status status = handler_.InstallMap(std::move(map)); !status.ok()) return status;
  for (ZmqSocket& socket : sockets_) {
    threads_.emplace_back([this, &socket] { RunDataThread(&socket); });
  }
  // Counting rows takes every shard's lock; heartbeats may follow each other closely.
  const auto heartbeat = [this, id, cluster_id, incarnation, rows = uint64_t{0},
                          count_at_ms = int64_t{0}]() mutable {
    if (NowMs() >= count_at_ms) {
      rows = handler_.n_rows();
      count_at_ms = NowMs() + limits::kHeartbeatIntervalMs;
    }
    return Heartbeat{.role = Role::kServer,
                     .id = id.value,
                     .boot_id = handler_.boot_id(),
                     .cluster_id = cluster_id,
                     .incarnation = incarnation,
                     .map_version = handler_.map_version(),
                     .rows = rows,
                     .requests = handler_.n_requests(),
                     .heard = handler_.heard()};
  };
  const auto on_map = [this, cluster_id](std::shared_ptr<const ClusterMap> newer) {
    if (newer->cluster_id != cluster_id) return;
    MutexLock lock(mutex_);
    if (next_map_ == nullptr || newer->version > next_map_->version) next_map_ = std::move(newer);
    news_came_.notify_all();
  };
  const auto on_notice = [this](Bytes frame) {
    std::optional<RoundsNotice> notice = DecodeRoundsNotice(frame);
    if (!notice) return;
    MutexLock lock(mutex_);
    if (next_rounds_.size() >= limits::kNoticesWaitingMax) return;  // it will be sent again
    next_rounds_.push_back(std::move(*notice));
    news_came_.notify_all();
  };
  threads_.emplace_back([this] { RunInstaller(); });
  MutexLock lock(mutex_);  // the installer must not look for the link before it is there
  control_link_ = std::make_unique<ControlLink>(runtime_, scheduler, heartbeat, on_map, on_notice);
  return {};
}

void Server::RunInstaller() {
  MutexLock lock(mutex_);
  for (;;) {
    while (!stopping_ && next_map_ == nullptr && next_rounds_.empty()) {
      news_came_.wait(lock.native());
    }
    if (stopping_) return;
    std::shared_ptr<const ClusterMap> map = std::exchange(next_map_, nullptr);
    std::vector<RoundsNotice> rounds = std::exchange(next_rounds_, {});
    lock.Unlock();
    if (map != nullptr) {
      if (Status status = handler_.InstallMap(std::move(map)); !status.ok()) {
        LogWarning("a cluster map was refused: " + status.message());
      }
    }
    for (RoundsNotice& notice : rounds) handler_.CloseRounds(std::move(notice));
    control_link_->SendHeartbeat();  // the scheduler waits to hear what is taken in
    lock.Lock();
  }
}

void Server::RunDataThread(ZmqSocket* socket) {
  InMessage message(runtime_);
  Decoder decoder;
  std::vector<std::byte> head;
  while (!stopping_) {
    ZmqPollItem items[] = {{socket->raw(), 0, kZmqPollIn, 0},
                           {nullptr, waker_.fd(), kZmqPollIn, 0}};
    runtime_.api().poll(items, 2, -1);
    while (!stopping_ && socket->Receive(&message)) {
      const auto frames = message.frames();
      Request request;
      if (frames.size() < 2 || !decoder.DecodeRequest(frames.subspan(1), &request).ok()) {
        n_refused_.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      SocketReplySink replies(socket, frames[0], &head);
      handler_.Submit(request, replies);
    }
  }
}

}  // namespace fastps
