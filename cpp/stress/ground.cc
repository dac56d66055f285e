#include "stress/ground.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace fastps::stress {
namespace {

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
  closer_ = std::make_unique<Closer>(map->cluster_id, n_servers);
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
    ServerInfo info{ServerId(i), boot_ids[i], false, {}, {}};
    if (runtime_ != nullptr) {
      Status status;
      servers_.push_back(
          Server::Create(*runtime_, boot_ids[i], "tcp://127.0.0.1:*", data_threads, &status));
      if (!status.ok()) return status;
      info.endpoints = servers_.back()->endpoints();
      info.chain_endpoints = servers_.back()->chain_endpoints();
    }
    map->servers.push_back(std::move(info));
  }
  {
    MutexLock lock(mutex_);
    map_ = map;
  }
  if (runtime_ == nullptr) {
    embedded_ = std::make_unique<EmbeddedCluster>(boot_ids);
    if (Status status = embedded_->InstallMap(map); !status.ok()) return status;
  }
  scheduler_thread_ = std::thread([this] { RunScheduler(); });
  for (uint32_t i = 0; i < servers_.size(); ++i) {
    if (Status status = servers_[i]->Start(ServerId(i), map, scheduler_, 0); !status.ok()) {
      return status;
    }
  }
  return {};
}

Ground::~Ground() {
  stopping_ = true;
  waker_.Wake();
  if (scheduler_thread_.joinable()) scheduler_thread_.join();  // it uses the servers
  servers_.clear();
}

std::shared_ptr<const ClusterMap> Ground::map() const {
  MutexLock lock(mutex_);
  return map_;
}

MapVersion Ground::map_version() const { return map()->version; }

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
    std::erase_if(clients_, [](const auto& each) { return each.second.expired(); });
    for (const auto& [session, client] : clients_) clients.push_back(client);
  }
  // Unlocked, so that maps overtake one another. Over sockets every other map comes by the
  // heartbeat links alone, the rest both ways.
  if (embedded_ != nullptr) {
    FASTPS_CHECK(embedded_->InstallMap(newer).ok());
    uint64_t installed = installed_;
    while (installed < newer->version.value &&
           !installed_.compare_exchange_weak(installed, newer->version.value)) {
    }
  } else if (newer->version.value % 2 == 0) {
    for (const auto& server : servers_) FASTPS_CHECK(server->handler().InstallMap(newer).ok());
  }
  waker_.Wake();
  for (const auto& weak : clients) {
    if (const std::shared_ptr<Client> client = weak.lock()) client->InstallMap(newer);
  }
}

SessionId Ground::NewSession() {
  SessionId session;
  Publish([&session](ClusterMap& map) {
    session = SessionId(++map.highest_session.value);
    map.sessions.push_back(session);
  });
  return session;
}

std::shared_ptr<Client> Ground::MakeClient(SessionId session, uint64_t clock) {
  std::shared_ptr<Client> client;
  if (embedded_ != nullptr) {
    client = std::make_shared<Client>([this](BootId id) { return embedded_->FindServer(id); },
                                      session, map());
  } else {
    client = std::make_shared<Client>(*runtime_, session, BootIdOf(1000 + session.value), clock,
                                      map(), scheduler_);
  }
  {
    MutexLock lock(mutex_);
    clients_[session] = client;
  }
  client->InstallMap(map());  // one may have come between the two
  return client;
}

std::shared_ptr<Client> Ground::Join(SessionId* session) {
  *session = NewSession();
  return MakeClient(*session, 0);
}

std::shared_ptr<Client> Ground::JoinGroup(Rank rank, SessionId* session, uint64_t* clock) {
  *session = NewSession();
  *clock = closer_->Join(rank, *session);
  return MakeClient(*session, *clock);
}

void Ground::EndSteps(Client& client, SessionId session, uint64_t clock) {
  client.EndStep(clock, 0);
  if (embedded_ == nullptr) return;  // by heartbeat
  closer_->EndSteps(session, clock);
  waker_.Wake();
}

void Ground::Leave(SessionId session) {
  closer_->Leave(session);
  Publish([session](ClusterMap& map) { std::erase(map.sessions, session); });
}

TableSpec Ground::AddTable(TableSpec spec) {
  Publish([&](ClusterMap& map) {
    spec.id = TableId(++n_tables_);
    // No round can be closed after this was read that rests on a former map: see Closer::Advance.
    if (spec.rounds) spec.rounds->first = closer_->closed(spec.rounds->group);
    const size_t n_servers = map.servers.size();
    // Inside one process there are no copies.
    if (runtime_ != nullptr) spec.replication = static_cast<uint8_t>(1 + spec.id.value % n_servers);
    TableRoute route{spec, {}};
    for (uint32_t shard = 0; shard < spec.num_shards; ++shard) {
      ShardView view;
      view.number = ViewNumber(1);
      while (view.n_members < spec.replication) {
        view.members[view.n_members] = map.servers[(shard + view.n_members) % n_servers].id;
        ++view.n_members;
      }
      route.views.push_back(view);
    }
    map.tables.push_back(std::move(route));
  });
  return spec;
}

void Ground::DropTable(TableId table) {
  Publish([table](ClusterMap& map) {
    std::erase_if(map.tables, [table](const TableRoute& route) { return route.spec.id == table; });
  });
}

RequestHandler& Ground::HandlerOf(ServerId server) {
  return embedded_ != nullptr ? *embedded_->FindHandler(server.value)
                              : servers_[server.value]->handler();
}

uint32_t Ground::NumShards(TableId table) const { return map()->FindTable(table)->spec.num_shards; }

ShardView Ground::ViewOf(TableId table, ShardId shard) const {
  return map()->FindTable(table)->views[shard.value];
}

MapVersion Ground::ChangeView(TableId table, ShardId shard,
                              const std::function<void(ShardView&)>& change) {
  MapVersion version;
  Publish([&](ClusterMap& map) {
    const auto route =
        std::ranges::find(map.tables, table, [](const TableRoute& each) { return each.spec.id; });
    change(route->views[shard.value]);
    version = map.version;
  });
  return version;
}

std::optional<std::pair<MapVersion, ShardProgress>> Ground::LastReport(ServerId server,
                                                                       TableId table,
                                                                       ShardId shard) const {
  MutexLock lock(mutex_);
  const auto found = reports_.find({server, table, shard});
  return found == reports_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace fastps::stress
