#include "stress/ground.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "wire/map_codec.h"

namespace fastps::stress {
namespace {

constexpr long kSchedulerPollMs = 20;

BootId BootIdOf(uint64_t number) { return {{0x5712e55, number}}; }

}  // namespace

std::unique_ptr<Ground> Ground::Create(const std::string& libzmq, uint32_t n_servers,
                                       uint32_t data_threads, Status* status) {
  std::unique_ptr<Ground> ground(new Ground());
  *status = ground->StartServers(libzmq, n_servers, data_threads);
  return status->ok() ? std::move(ground) : nullptr;
}

Status Ground::StartServers(const std::string& libzmq, uint32_t n_servers, uint32_t data_threads) {
  auto map = std::make_shared<ClusterMap>();
  map->cluster_id = ClusterId(1);
  map->version = MapVersion(1);
  std::vector<BootId> boot_ids;
  for (uint32_t i = 0; i < n_servers; ++i) boot_ids.push_back(BootIdOf(i));
  if (!libzmq.empty()) {
    ZmqApi api;
    if (Status status = ZmqApi::Load(libzmq, &api); !status.ok()) return status;
    runtime_ = std::make_unique<ZmqRuntime>(std::move(api));
    scheduler_socket_ = std::make_unique<ZmqSocket>(*runtime_, kZmqRouter);
    if (Status status = scheduler_socket_->Bind("tcp://127.0.0.1:*"); !status.ok()) return status;
    scheduler_ = scheduler_socket_->LastEndpoint();
  }
  for (uint32_t i = 0; i < n_servers; ++i) {
    ServerInfo info{ServerId(i), boot_ids[i], false, {}};
    if (runtime_ != nullptr) {
      Status status;
      servers_.push_back(
          Server::Create(*runtime_, boot_ids[i], "tcp://127.0.0.1:*", data_threads, &status));
      if (!status.ok()) return status;
      info.endpoints = servers_.back()->endpoints();
    }
    map->servers.push_back(std::move(info));
  }
  {
    MutexLock lock(mutex_);
    map_ = map;
  }
  if (runtime_ == nullptr) {
    embedded_ = std::make_unique<EmbeddedCluster>(boot_ids);
    return embedded_->InstallMap(map);
  }
  scheduler_thread_ = std::thread([this] { RunScheduler(); });
  for (uint32_t i = 0; i < n_servers; ++i) {
    if (Status status = servers_[i]->Start(ServerId(i), map, scheduler_); !status.ok()) {
      return status;
    }
  }
  return {};
}

Ground::~Ground() {
  servers_.clear();
  stopping_ = true;
  if (scheduler_thread_.joinable()) scheduler_thread_.join();
}

std::shared_ptr<const ClusterMap> Ground::map() const {
  MutexLock lock(mutex_);
  return map_;
}

uint64_t Ground::map_version() const { return map()->version.value; }

uint64_t Ground::n_refused() const {
  uint64_t n = 0;
  for (const auto& server : servers_) n += server->n_refused();
  return n;
}

template <class Change>
void Ground::Publish(Change change) {
  std::shared_ptr<const ClusterMap> newer;
  std::vector<std::weak_ptr<Client>> clients;
  {
    MutexLock lock(mutex_);
    auto next = std::make_shared<ClusterMap>(*map_);
    ++next->version.value;
    change(*next);
    map_ = newer = std::move(next);
    std::erase_if(clients_, [](const auto& client) { return client.expired(); });
    clients = clients_;
  }
  // Unlocked, so that maps overtake one another. Over sockets every other map comes by the
  // heartbeat links alone, the rest both ways.
  if (embedded_ != nullptr) {
    FASTPS_CHECK(embedded_->InstallMap(newer).ok());
  } else if (newer->version.value % 2 == 0) {
    for (const auto& server : servers_) FASTPS_CHECK(server->handler().InstallMap(newer).ok());
  }
  for (const auto& weak : clients) {
    if (const std::shared_ptr<Client> client = weak.lock()) client->InstallMap(newer);
  }
}

std::shared_ptr<Client> Ground::Join(SessionId* session) {
  Publish([session](ClusterMap& map) {
    *session = SessionId(++map.highest_session.value);
    map.sessions.push_back(*session);
  });
  std::shared_ptr<Client> client;
  if (embedded_ != nullptr) {
    client = std::make_shared<Client>([this](BootId id) { return embedded_->FindServer(id); },
                                      *session, map());
  } else {
    client = std::make_shared<Client>(*runtime_, *session, BootIdOf(1000 + session->value), 0,
                                      map(), scheduler_);
  }
  {
    MutexLock lock(mutex_);
    clients_.push_back(client);
  }
  client->InstallMap(map());  // one may have come between the two
  return client;
}

void Ground::Leave(SessionId session) {
  Publish([session](ClusterMap& map) { std::erase(map.sessions, session); });
}

TableId Ground::AddTable(TableSpec spec) {
  Publish([&](ClusterMap& map) {
    spec.id = TableId(++n_tables_);
    TableRoute route{spec, {}, std::vector<ViewNumber>(spec.num_shards, ViewNumber(1))};
    for (uint32_t shard = 0; shard < spec.num_shards; ++shard) {
      route.servers.push_back(map.servers[shard % map.servers.size()].id);
    }
    map.tables.push_back(std::move(route));
  });
  return spec.id;
}

void Ground::DropTable(TableId table) {
  Publish([table](ClusterMap& map) {
    std::erase_if(map.tables, [table](const TableRoute& route) { return route.spec.id == table; });
  });
}

void Ground::RunScheduler() {
  InMessage message(*runtime_);
  while (!stopping_) {
    ZmqPollItem items[] = {{scheduler_socket_->raw(), 0, kZmqPollIn, 0}};
    runtime_->api().poll(items, 1, kSchedulerPollMs);
    while (scheduler_socket_->Receive(&message)) {
      if (message.frames().size() != 2) continue;
      const std::optional<Heartbeat> heartbeat = DecodeHeartbeat(message.frames()[1]);
      const std::shared_ptr<const ClusterMap> newest = map();
      if (!heartbeat || heartbeat->map_version >= newest->version) continue;
      const std::string frame = kMapFrameTag + EncodeClusterMap(*newest);
      const OutFrame frames[] = {{message.frames()[0], {}}, {std::as_bytes(std::span(frame)), {}}};
      (void)scheduler_socket_->Send(frames);  // a lost one is asked for by the next heartbeat
    }
  }
}

}  // namespace fastps::stress
