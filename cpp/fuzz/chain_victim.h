// ChainVictim: two servers with chains between them, to be attacked by clients, by two more servers
// that exist in name only, and by a network that loses, repeats and damages. One thread; time is a
// number.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "fuzz/fuzz.h"
#include "fuzz/shapes.h"
#include "server/chain_node.h"
#include "server/request_handler.h"
#include "wire/codec.h"

namespace fastps::fuzz {

class ChainVictim {
 public:
  ChainVictim();

  // Each takes its choices from the bytes.
  void Ask(Fields& fields);        // a client's request
  void Deliver(Fields& fields);    // a message that is under way, as it is or not
  void Forge(Fields& fields);      // a message of anybody, with numbers that are near the true ones
  void ChangeMap(Fields& fields);  // views, sessions and tables; each server may hear of it later
  void CloseRound(Fields& fields);
  void Wait(Fields& fields);
  void Report(Fields& fields);
  // Frames as they come, with a stamp that lets them pass.
  void TakeFrames(std::span<const Bytes> frames);

 private:
  static constexpr uint32_t kNodes = 2;
  using ShardName = std::pair<TableId, ShardId>;

  // What was seen of a shard, which must not go back as long as it is the same shard.
  struct Seen {
    std::shared_ptr<Shard> shard;
    ApplyIndex index;
    ApplyIndex committed;
  };
  struct Node {
    explicit Node(BootId boot_id) : handler(boot_id), chains(handler, ThreadId(0), 1) {}
    RequestHandler handler;
    ChainNode chains;
    Decoder decoder;
    ChainDecoder chain_decoder;
    std::map<ShardName, Seen> seen;
    uint64_t heard = 0;
  };
  struct Letter {
    uint32_t to;
    std::string peer;  // of the sender; empty on the way up
    std::vector<std::vector<std::byte>> frames;
  };
  struct Asked {
    SessionId session;
    TableId table;
    std::vector<PartHeader> parts;
  };

  void Publish(Fields& fields);
  void Install(Node& node);
  void Give(Node& node, const std::string& peer, std::span<const std::vector<std::byte>> frames);
  // Takes what came out of a node, and looks whether all is as it must be.
  void Settle(uint32_t number);
  void TakeAnswer(const ChainNode::Answer& answer);
  void CheckSent(Node& node, std::span<const std::vector<std::byte>> frames, bool is_up);
  void CheckShards(Node& node);
  ChainFrames MakeForged(Fields& fields, const ShardChain& chain, bool* goes_down);

  std::vector<std::unique_ptr<Node>> nodes_;
  std::shared_ptr<BufferPool> buffers_ = BufferPool::Create();
  std::shared_ptr<ClusterMap> map_;  // the newest; nodes have copies
  TableRoute passing_;               // the last table, which may be left out
  int64_t now_ms_ = 1000;
  std::deque<Letter> under_way_;
  std::map<std::string, Asked> asked_;  // and not answered
  uint64_t n_asked_ = 0;
  std::map<std::tuple<SessionId, TableId, ShardId>, uint64_t> sequences_;
  std::vector<ClosedRound> rounds_;
};

}  // namespace fastps::fuzz
