#include "server/server.h"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "wire/chain_messages.h"
#include "wire/codec.h"

namespace fastps {
namespace {

// Requests that a thread takes before it looks at its chains again.
constexpr int kRequestsPerTurn = 16;

// Where a second socket beside `bind` may listen: any free port, or another path.
std::string Beside(const std::string& bind, const char* suffix) {
  if (bind.starts_with("ipc:")) return bind + suffix;
  const size_t colon = bind.rfind(':');
  return bind.substr(0, colon) + ":*";
}

void SendReply(ZmqSocket& socket, const std::string& peer, const OwnedReply& reply) {
  std::vector<std::byte> head;
  EncodeReplyHead(reply, &head);
  OutFrame frames[2 + 3] = {{std::as_bytes(std::span(peer)), {}}, {head, {}}};
  size_t n_frames = 2;
  for (const Buffer* section : {&reply.keys, &reply.values, &reply.flags}) {
    if (section->size() != 0) frames[n_frames++] = {section->As<std::byte>(), *section};
  }
  // A peer that is gone or does not read asks again if it still wants to know.
  (void)socket.Send({frames, n_frames});
}

void SendChain(ZmqSocket& socket, const std::string* peer, const ChainFrames& chain) {
  OutFrame frames[4];
  size_t n_frames = 0;
  if (peer != nullptr) frames[n_frames++] = {std::as_bytes(std::span(*peer)), {}};
  frames[n_frames++] = {chain.head, {}};
  for (const Buffer* section : {&chain.keys, &chain.values}) {
    if (section->size() != 0) frames[n_frames++] = {section->As<std::byte>(), *section};
  }
  (void)socket.Send({frames, n_frames});  // what is lost is sent again
}

std::string TextOf(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What one data thread does, turn by turn.
class DataThread {
 public:
  DataThread(const ZmqRuntime& runtime, RequestHandler& handler, ThreadId thread,
             uint32_t n_threads, ZmqSocket& clients, ZmqSocket& predecessors, Waker& waker,
             std::atomic<uint64_t>& n_refused)
      : runtime_(runtime),
        handler_(handler),
        node_(handler, thread, n_threads),
        clients_(clients),
        predecessors_(predecessors),
        waker_(waker),
        n_refused_(n_refused),
        message_(runtime) {
    Adopt();
  }

  ChainNode& node() { return node_; }

  // Waits for something, and takes what came.
  void Turn(int64_t wait_ms) {
    std::vector<ZmqPollItem> items = {{nullptr, waker_.fd(), kZmqPollIn, 0},
                                      {clients_.raw(), 0, kZmqPollIn, 0},
                                      {predecessors_.raw(), 0, kZmqPollIn, 0}};
    for (auto& [address, socket] : successors_) items.push_back({socket.raw(), 0, kZmqPollIn, 0});
    runtime_.api().poll(items.data(), static_cast<int>(items.size()), static_cast<long>(wait_ms));
    if (items[0].revents != 0) {
      waker_.Clear();
      Adopt();
    }
    const int64_t now_ms = NowMs();
    TakeChain(predecessors_, true, now_ms);
    // By address: what is taken may lead to new connections.
    std::vector<Address> ready;
    size_t i = 3;
    for (auto& [address, socket] : successors_) {
      if (items[i++].revents != 0) ready.push_back(address);
    }
    for (const Address& address : ready) {
      const auto found = successors_.find(address);
      if (found != successors_.end()) TakeChain(found->second, false, now_ms);
    }
    TakeRequests(now_ms);
    if (node_.needs_ticks() && now_ms >= next_tick_ms_) {
      node_.Tick(now_ms);
      next_tick_ms_ = now_ms + limits::kChainTickMs;
      SendOut();
    }
  }

 private:
  using Address = std::pair<ServerId, ThreadId>;

  void Adopt() {
    node_.Adopt(handler_.snapshot(), NowMs());
    // Taken in before this was woken, so what is not seen now wakes it again.
    if (const uint64_t taken = handler_.taken(); taken != folded_to_) {
      folded_to_ = taken;
      node_.FoldClosed(NowMs());
      node_.NoteSettled();
    }
    const std::shared_ptr<const Snapshot> snapshot = handler_.snapshot();
    std::erase_if(successors_, [&](const auto& each) {
      const ServerInfo* const server = snapshot->map->FindServer(each.first.first);
      return server == nullptr || server->lost;
    });
    SendOut();
  }

  void TakeRequests(int64_t now_ms) {
    for (int n = 0; n < kRequestsPerTurn && clients_.Receive(&message_); ++n) {
      const auto frames = message_.frames();
      Request request;
      if (frames.size() < 2 || !decoder_.DecodeRequest(frames.subspan(1), &request).ok()) {
        n_refused_.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      node_.TakeRequest(request, TextOf(frames[0]), now_ms);
      SendOut();
    }
  }

  void TakeChain(ZmqSocket& socket, bool has_peer, int64_t now_ms) {
    for (int n = 0; n < kRequestsPerTurn && socket.Receive(&message_); ++n) {
      auto frames = message_.frames();
      const std::string peer = has_peer && !frames.empty() ? TextOf(frames[0]) : std::string();
      if (has_peer && !frames.empty()) frames = frames.subspan(1);
      ChainMessage message;
      if (!chain_decoder_.Decode(frames, &message).ok()) {
        n_refused_.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      node_.TakeMessage(message, peer, now_ms);
      SendOut();
    }
  }

  void SendOut() {
    ChainNode::Out out = node_.TakeOut();
    for (ChainNode::Down& down : out.down) {
      const Address address(down.server, down.thread);
      if (down.anew) successors_.erase(address);
      auto found = successors_.find(address);
      if (found == successors_.end()) {
        const std::shared_ptr<const Snapshot> snapshot = handler_.snapshot();
        const ServerInfo* const server = snapshot->map->FindServer(down.server);
        if (server == nullptr || down.thread.value >= server->chain_endpoints.size()) continue;
        found = successors_.emplace(address, ZmqSocket(runtime_, kZmqDealer)).first;
        // Fails only for an endpoint of wrong form; the silence that follows is reported.
        (void)found->second.Connect(server->chain_endpoints[down.thread.value]);
      }
      SendChain(found->second, nullptr, down.frames);
    }
    for (const ChainNode::Up& up : out.up) SendChain(predecessors_, &up.peer, up.frames);
    for (const ChainNode::Answer& answer : out.answers) {
      SendReply(clients_, answer.peer, answer.reply);
    }
  }

  const ZmqRuntime& runtime_;
  RequestHandler& handler_;
  ChainNode node_;
  ZmqSocket& clients_;
  ZmqSocket& predecessors_;
  Waker& waker_;
  std::atomic<uint64_t>& n_refused_;
  std::map<Address, ZmqSocket> successors_;
  InMessage message_;
  Decoder decoder_;
  ChainDecoder chain_decoder_;
  int64_t next_tick_ms_ = 0;
  uint64_t folded_to_ = 0;  // number of the closed rounds
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
    ZmqSocket& chain_socket = server->chain_sockets_.emplace_back(runtime, kZmqRouter);
    *status = chain_socket.Bind(Beside(bind + suffix, ".chain"));
    if (!status->ok()) return nullptr;
    server->chain_endpoints_.push_back(chain_socket.LastEndpoint());
    server->wakers_.push_back(std::make_unique<Waker>());
  }
  return server;
}

Server::~Server() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  news_came_.notify_all();
  WakeDataThreads();
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
  {
    MutexLock lock(mutex_);
    told_.assign(sockets_.size(), {handler_.map_version(), {}, {}});
  }
  for (size_t i = 0; i < sockets_.size(); ++i) {
    threads_.emplace_back([this, i] { RunDataThread(i); });
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
                     .map_version = MapVersionInUse(),
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
  const auto report = [this, id, cluster_id] { return ReportFrame(id, cluster_id); };
  control_link_ =
      std::make_unique<ControlLink>(runtime_, scheduler, heartbeat, on_map, on_notice, report);
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
      WakeDataThreads();
    }
    for (RoundsNotice& notice : rounds) handler_.CloseRounds(std::move(notice));
    if (!rounds.empty()) WakeDataThreads();  // to fold
    control_link_->SendHeartbeat();          // the scheduler waits to hear what is taken in
    lock.Lock();
  }
}

void Server::WakeDataThreads() {
  for (const auto& waker : wakers_) waker->Wake();
}

void Server::RunDataThread(size_t thread) {
  DataThread data(runtime_, handler_, ThreadId(static_cast<uint32_t>(thread)),
                  static_cast<uint32_t>(sockets_.size()), sockets_[thread], chain_sockets_[thread],
                  *wakers_[thread], n_refused_);
  while (!stopping_) {
    if (data.node().report_changed() || data.node().settled_changed()) Tell(thread, data.node());
    data.Turn(data.node().needs_ticks() ? limits::kChainTickMs : -1);
  }
}

void Server::Tell(size_t thread, ChainNode& node) {
  std::map<GroupId, Round> settled;
  bool all_know = true;
  {
    MutexLock lock(mutex_);
    told_[thread] = {node.map_version(), {}, node.Settled()};
    node.AddToReport(&told_[thread].report);
    for (const Told& told : told_) {
      all_know = all_know && told.map_version == handler_.map_version();
      for (const auto& [group, round] : told.settled) {
        const auto [found, is_new] = settled.try_emplace(group, round);
        found->second = std::min(found->second, round);
      }
    }
  }
  // A table that a thread does not know yet may have rounds to fold.
  if (all_know) handler_.Settle(settled);
  MutexLock lock(mutex_);
  if (control_link_ != nullptr) control_link_->SendHeartbeat();
}

MapVersion Server::MapVersionInUse() {
  MutexLock lock(mutex_);
  return MapVersionOfAll();
}

MapVersion Server::MapVersionOfAll() const {
  return std::ranges::min(told_, {}, &Told::map_version).map_version;
}

std::string Server::ReportFrame(ServerId id, ClusterId cluster_id) {
  MutexLock lock(mutex_);
  Report all{cluster_id, id, handler_.boot_id(), MapVersionOfAll(), {}, {}};
  for (const Told& told : told_) {
    all.shards.insert(all.shards.end(), told.report.shards.begin(), told.report.shards.end());
    for (const ServerId silent : told.report.silent) {
      if (std::ranges::find(all.silent, silent) == all.silent.end()) all.silent.push_back(silent);
    }
  }
  return all.shards.empty() && all.silent.empty() ? std::string() : EncodeReport(all);
}

}  // namespace fastps
