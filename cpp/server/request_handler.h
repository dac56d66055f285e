// RequestHandler: what a server does with one request, struct in, struct out. It owns the tables
// and shards that the cluster map places on this server. Any thread may call any method; a request
// takes one shard lock at a time and none while its reply leaves.
//
// Which parts of a request are served, and what a write leads to beside its shard, is the matter of
// PartRules: a data thread of a server has those of its chains (chain_node.h).
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/buffer.h"
#include "base/mutex.h"
#include "base/status.h"
#include "routing/cluster_map.h"
#include "rules/update_rule.h"
#include "server/begun_cuts.h"
#include "store/page_pool.h"
#include "store/round_book.h"
#include "store/shard.h"
#include "wire/notices.h"
#include "wire/request_sink.h"

namespace fastps {

// What a server has of one table.
struct ServedTable {
  std::shared_ptr<const TableSpec> spec;
  std::shared_ptr<const UpdateRule> rule;
  std::vector<std::shared_ptr<Shard>> shards;  // by ShardId; null where this server holds none
};

// What one request sees: a map and the tables of that map. Immutable.
struct Snapshot {
  std::shared_ptr<const ClusterMap> map;
  const ServerInfo* self = nullptr;  // in the map; null: this server is not in it
  std::unordered_map<TableId, std::shared_ptr<const ServedTable>> tables;
};

class PartRules {
 public:
  virtual ~PartRules() = default;
  // kOk when a part may go on: the shard is served here in that view.
  virtual Code Admit(Op op, TableId table, const PartHeader& part) = 0;
  // A write of an admitted part, which has this place in the request, was given to its shard.
  virtual void OnWritten(TableId table, ShardId shard, size_t part, const Write& write,
                         const WriteResult& result) = 0;
};

class RequestHandler final : public RequestSink {
 public:
  // `boot_id` is how the handler finds itself among the servers of a map.
  explicit RequestHandler(BootId boot_id);

  // Makes `map` the one in force: shards placed here are created, those of dropped tables and those
  // that others hold now go, and all of them in a new epoch. A map that is not newer is ignored. A
  // map that asks for something unknown, or of a former epoch, is refused and changes nothing.
  Status InstallMap(std::shared_ptr<const ClusterMap> map);

  // Takes in closed rounds. What was taken before is ignored, and all of it when the map it rests
  // on is not installed or an earlier round is missing.
  void CloseRounds(RoundsNotice notice);
  // Folds them on every shard. For servers inside one process; over sockets the data threads do it.
  void FoldClosed();
  // Every shard here of these groups has folded the rounds below, and so have its copies.
  void Settle(const std::map<GroupId, Round>& folded);
  // Forgets what shards know of sessions that have ended. For servers inside one process; over
  // sockets the data threads do it.
  void ForgetEndedSessions();
  // The number of the newest closed round that all shards here have folded, like all before it. A
  // server that comes late starts at `heard`.
  uint64_t heard() const { return heard_.load(std::memory_order_relaxed); }
  void StartHearingAt(uint64_t heard);
  // The number of the newest closed round taken in.
  uint64_t taken() const { return taken_.load(std::memory_order_relaxed); }

  // Inside one process, where each shard has one copy.
  void Submit(const Request& request, ReplySink& replies) override;
  // Over sockets: as the map and tables of `snapshot` say.
  OwnedReply Handle(const Request& request, const Snapshot& snapshot, PartRules& rules);

  std::shared_ptr<const Snapshot> snapshot() const;
  MapVersion map_version() const;
  BufferPool& buffers() { return *buffers_; }
  BegunCuts& cuts() { return cuts_; }
  BootId boot_id() const { return boot_id_; }
  uint64_t n_requests() const { return n_requests_.load(std::memory_order_relaxed); }
  uint64_t n_rows() const;

 private:
  // The parts of a request with their shards found and their keys and values cut out.
  struct Part {
    const PartHeader* header;
    Shard* shard;
    Selection selection;
    std::span<const float> values;
    KeySetUse key_set;
    Step step;
  };

  // The tables of next->map, with what goes on from `former`; null: nothing does.
  Status MakeTables(const Snapshot* former, Snapshot* next) FASTPS_REQUIRES(install_mutex_);
  // The table of `route`, with the shards of `former` that go on here; `former` may be null.
  std::shared_ptr<const ServedTable> MakeTable(const TableRoute& route, ServerId self,
                                               const TableRoute* former_route,
                                               std::shared_ptr<const ServedTable> former,
                                               Status* status) FASTPS_REQUIRES(install_mutex_);
  std::shared_ptr<Shard> MakeShard(const ServedTable& table, ShardId shard)
      FASTPS_REQUIRES(install_mutex_);
  RoundBook& BookOf(GroupId group) FASTPS_REQUIRES(install_mutex_);
  // Forgets closed rounds up to that number, as far as no shard here may need them.
  void ForgetRounds(uint64_t forgotten, const Snapshot& snapshot) FASTPS_REQUIRES(install_mutex_);

  // kOk when the message is meant for this server and its session may write.
  Code CheckMessage(const Request& request, const ClusterMap& map) const;
  // Finds the shard of each part; a part that cannot go on gets its code and a null shard.
  std::vector<Part> FindParts(const Request& request, const ServedTable& table, PartRules& rules,
                              OwnedReply* reply) const;

  void HandlePull(std::span<const Part> parts, OwnedReply* reply);
  void HandleWrite(const Request& request, std::span<const Part> parts, PartRules& rules,
                   OwnedReply* reply);
  void HandleContains(const Request& request, std::span<const Part> parts, OwnedReply* reply);
  void HandleScan(const Request& request, std::span<const Part> parts, const ServedTable& table,
                  OwnedReply* reply);
  void HandleStats(std::span<const Part> parts, OwnedReply* reply);

  const BootId boot_id_;
  const std::shared_ptr<BufferPool> buffers_ = BufferPool::Create();
  PagePool pages_;  // outlives the shards of every snapshot: requests end before the handler does
  BegunCuts cuts_;
  std::atomic<uint64_t> n_requests_{0};
  std::atomic<uint64_t> heard_{0};
  std::atomic<uint64_t> taken_{0};

  Mutex install_mutex_;  // held while a map is installed or rounds close; taken before all others
  // Of the groups that closed rounds, or have tables under BSP here.
  std::unordered_map<GroupId, std::shared_ptr<RoundBook>> books_ FASTPS_GUARDED_BY(install_mutex_);
  // A mutex of its own: data threads do not wait for a map that takes long to install.
  Mutex rounds_mutex_;
  // Closed rounds in the order they were taken in, the newest with number taken().
  std::deque<std::pair<GroupId, Round>> closed_ FASTPS_GUARDED_BY(rounds_mutex_);
  mutable Mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
