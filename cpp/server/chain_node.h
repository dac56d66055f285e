// ChainNode: what one data thread of a server does with the chains of its shards. Pure: no sockets,
// threads or clocks. Requests, messages of other servers, maps and time go in; answers and messages
// come out. One thread uses it.
//
// Chain replication (van Renesse, Schneider, "Chain Replication for Supporting High Throughput and
// Availability", OSDI 2004). The head of a shard's chain takes writes, applies them and hands them
// down as entries; each member applies an entry and hands it on; the tail's acknowledgement comes
// back up, and only then does the head answer. So every member has what its successors have, and
// what the tail has was acknowledged by all. The tail answers reads.
//
// The cluster map says who is in which chain. In a new view members keep what they have, hand on
// what their new successor lacks, and refuse what was said in another view. In a sealed view the
// head takes no writes and the tail answers no reads, but what is under way flows on: when all
// report the same index, nothing is.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "server/request_handler.h"
#include "server/shard_chain.h"
#include "wire/chain_messages.h"
#include "wire/reports.h"

namespace fastps {

class ChainNode final : private PartRules {
 public:
  // The data thread `thread` of `n_threads`: it has the shards of that number.
  ChainNode(RequestHandler& handler, ThreadId thread, uint32_t n_threads);

  // Works with `snapshot` from now on. Requires: it is not older than the former.
  void Adopt(std::shared_ptr<const Snapshot> snapshot, int64_t now_ms);
  MapVersion map_version() const { return snapshot_->map->version; }

  void TakeRequest(const Request& request, std::string peer, int64_t now_ms);
  // `peer`: where to answer a predecessor; not used for what a successor says.
  void TakeMessage(const ChainMessage& message, const std::string& peer, int64_t now_ms);
  // Sends again what was not acknowledged, and notices who is silent.
  void Tick(int64_t now_ms);
  // Folds what is closed on the shards that this heads.
  void FoldClosed(int64_t now_ms);
  // For each group with tables under BSP here, the least number of rounds that a shard has folded,
  // at all its copies as far as this is its head. Changed since the last call: see below.
  std::map<GroupId, Round> Settled();
  bool settled_changed() const { return settled_changed_; }
  // A round was closed: with nothing to fold here it is settled at once.
  void NoteSettled() { settled_changed_ = true; }
  // Whether time may change anything, so that Tick is to be called every limits::kChainTickMs.
  bool needs_ticks() const;

  // What goes out, in this order.
  struct Answer {
    std::string peer;
    OwnedReply reply;
  };
  struct Down {  // to a server's thread for these shards
    ServerId server;
    ThreadId thread;
    ChainFrames frames;
    bool anew = false;  // on a new connection: the former may be broken
  };
  struct Up {  // to whoever sent entries
    std::string peer;
    ChainFrames frames;
  };
  struct Out {
    std::vector<Answer> answers;
    std::vector<Down> down;
    std::vector<Up> up;
  };
  Out TakeOut() { return std::exchange(out_, {}); }

  // Adds this thread's part to a report. True since something in it changed: it is worth telling.
  bool report_changed() const { return report_changed_; }
  void AddToReport(Report* report);

  // For tests: null when the shard is not held here.
  const ShardChain* Find(TableId table, ShardId shard) const;

 private:
  // One connection down: to a data thread of a successor.
  struct LinkAddress {
    ServerId server;
    ThreadId thread;
    friend auto operator<=>(const LinkAddress&, const LinkAddress&) = default;
  };
  struct Link {
    std::map<std::pair<TableId, ShardId>, ShardChain*> open;  // with entries un-acknowledged
    int64_t heard_ms = 0;    // when something last came, or began to be waited for
    int64_t renewed_ms = 0;  // when its connection was last made anew
    bool is_silent = false;
  };
  // A new entry, over memory of whoever made it.
  struct Fresh {
    ShardChain* chain;
    EntryHeader header;
    Selection selection;
    std::span<const float> values;
  };

  Code Admit(Op op, TableId table, const PartHeader& part) override;
  void OnWritten(TableId table, ShardId shard, size_t part, const Write& write,
                 const WriteResult& result) override;

  ShardChain* FindChain(TableId table, ShardId shard);
  // The chain that a neighbour, which `from` says it is, may speak of in this view; null: it may
  // not.
  ShardChain* FindBelow(TableId table, ShardId shard, ViewNumber view, BootId from);  // of it
  ShardChain* FindAbove(TableId table, ShardId shard, ViewNumber view, BootId from);  // of it
  bool IsFrom(const ShardChain& chain, ViewNumber view, std::optional<ServerId> neighbour,
              BootId from) const;
  LinkAddress AddressOf(const ShardChain& chain, ServerId server) const;
  BootId BootOf(ServerId server) const;
  ChainStamp StampTo(BootId to) const;

  // A view change.
  void AdoptView(ShardChain& chain, const ShardView& view, int64_t now_ms);
  void Bounce(ShardChain& chain);
  void Drop(ShardChain& chain);

  void AddEntry(ShardChain& chain, const EntryHeader& header, Selection selection,
                std::span<const float> values);
  void AddFolds(ShardChain& chain);
  EntryFate Apply(ShardChain& chain, const EntryHeader& header, Selection selection,
                  std::span<const float> values);
  void SendFresh(int64_t now_ms);
  void SendGroup(LinkAddress address, bool is_open, std::span<const Fresh* const> group);
  // Sends kept entries after `after` again.
  void SendKept(ShardChain& chain, ApplyIndex after, int64_t now_ms, bool anew);
  void Ask(ShardChain& chain, bool anew);
  void Expect(ShardChain& chain, int64_t now_ms);
  void Trim(ShardChain& chain);
  void Release(ShardChain& chain);
  void Commit(ShardChain& chain, ApplyIndex committed);

  void TakeEntries(const ChainMessage& message, const std::string& peer, int64_t now_ms);
  void TakeAcks(const ChainMessage& message, int64_t now_ms);
  void TakeQuestion(const ChainMessage& message, const std::string& peer);
  void TakeSlice(const ChainMessage& message, const std::string& peer);
  void TakeProgress(const ChainMessage& message, int64_t now_ms);
  // Acknowledges at the end of a step.
  void Acknowledge(ShardChain& chain, bool resend);
  void SendAcks();

  void BeginFills(int64_t now_ms);
  void SendSlices(ShardChain& chain);

  RequestHandler& handler_;
  const ThreadId thread_;
  const uint32_t n_threads_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unordered_map<TableId, std::vector<std::unique_ptr<ShardChain>>> chains_;  // by shard
  std::map<LinkAddress, Link> links_;
  std::map<std::pair<TableId, ShardId>, ShardChain*> filling_;   // where this is the tail
  std::map<std::pair<TableId, ShardId>, ShardChain*> reported_;  // sealed, or joiner here
  size_t kept_bytes_ = 0;
  uint64_t last_image_ = 0;
  int64_t last_tick_ms_ = 0;
  bool report_changed_ = false;
  bool settled_changed_ = false;

  // Of the step under way.
  std::vector<Fresh> fresh_;
  struct Wait {
    ShardChain* chain;
    ApplyIndex index;
    size_t part;
  };
  std::vector<Wait> waits_;
  std::deque<std::vector<Key>> fold_members_;  // what fresh entries of folds lie on
  std::map<std::pair<TableId, ShardId>, std::pair<ShardChain*, bool>> to_acknowledge_;
  Out out_;
};

}  // namespace fastps
