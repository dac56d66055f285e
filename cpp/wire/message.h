// The data messages as structs: what a client asks of a server and what it is answered. The byte
// format stands in FORMAT.md, its checks in codec.cc. Embedded clusters pass these structs
// directly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/types.h"

namespace fastps {

// Wire values: they never change.
enum class Op : uint8_t {
  kPull = 1,
  kPush = 2,
  kAssign = 3,
  kRemove = 4,
  kContains = 5,
  kScan = 6,  // rows in no order, from a cursor on
  kStats = 7,
  kSetLr = 8,  // the learning rate of the update rule, for each shard
};

// As users know it.
constexpr const char* OpName(Op op) {
  switch (op) {
    case Op::kPull:
      return "pull";
    case Op::kPush:
      return "push";
    case Op::kAssign:
      return "assign";
    case Op::kRemove:
      return "remove";
    case Op::kContains:
      return "contains";
    case Op::kScan:
      return "items";
    case Op::kStats:
      return "stats";
    case Op::kSetLr:
      return "set_lr";
  }
  return "call";
}

// Writes are numbered, applied once and acknowledged.
constexpr bool IsWrite(Op op) {
  return op == Op::kPush || op == Op::kAssign || op == Op::kRemove || op == Op::kSetLr;
}
constexpr bool CarriesValues(Op op) {
  return op == Op::kPush || op == Op::kAssign || op == Op::kSetLr;
}

// Whom a message is meant for: a server of another cluster, epoch or process life refuses it.
struct Stamp {
  ClusterId cluster_id;
  Epoch epoch;
  Incarnation incarnation;
  BootId boot_id;          // of the server
  MapVersion map_version;  // of the sender
};

// What a request asks of one shard. Its keys and values follow those of the part before it.
struct PartHeader {
  ShardId shard;
  ViewNumber view;
  Sequence sequence;       // writes over sockets: from 1; reads and embedded calls: 0
  uint32_t n_keys = 0;     // sparse: keys; dense: begin and end of each element range
  uint32_t n_values = 0;   // floats
  uint32_t set_part = 0;   // which part of the request's key set this is, from 1; 0: of none
  uint32_t n_omitted = 0;  // keys left out because the server knows them; n_keys is 0 then
};
static_assert(sizeof(PartHeader) == 32);

// A view: the spans belong to whoever made it.
struct Request {
  Stamp stamp;
  Op op = Op::kPull;
  TableId table;
  SessionId session;
  RequestId request_id;
  // Scan: rows at most. Pulls and writes of a table under BSP: the step they belong to, plus 1; 0:
  // the caller is of another group.
  uint64_t argument = 0;
  KeySetSignature key_set;  // empty: none
  std::span<const PartHeader> parts;
  std::span<const Key> keys;
  std::span<const float> values;
};

struct PartResult {
  ShardId shard;
  uint8_t code = 0;        // a Code
  uint8_t remembered = 0;  // 1: the keys of this part of the key set may be left out
  uint8_t reserved[2] = {};
  uint32_t n_keys = 0;    // of this part, in the reply's keys
  uint32_t n_values = 0;  // of this part, in the reply's values
  // Remove: rows removed; scan: the next cursor; push: 1 when it came too late for its round; pull:
  // 1 + the last round whose fold left something out, 0: none did; gap: the sequence wanted; value
  // range: 1 + which of the part's values cannot be taken, 0: not known.
  uint64_t detail = 0;
};
static_assert(sizeof(PartResult) == 24);

inline constexpr uint64_t kScanEnd = ~uint64_t{0};  // the cursor after the last row

// What one part of a stats reply says, as `kShardStatsFields` numbers among the reply's keys.
struct ShardStats {
  uint64_t rows = 0;
  uint64_t bytes = 0;  // held by the shard, room for growth included
  uint64_t apply_index = 0;
  uint64_t rounds = 0;       // BSP: rounds below are folded
  uint64_t late_pushes = 0;  // BSP: pushes to a round that was closed without them
  // BSP: rows (dense: elements) that folds left as they were, because their update was not finite;
  // the last round in which there was one; the first of that round, by key or number.
  uint64_t left_out = 0;
  uint64_t left_out_round = 0;
  uint64_t left_out_key = 0;
  uint64_t lr_bits = 0;  // the first constant of the rule in force, as the bits of a float32
};
inline constexpr uint32_t kShardStatsFields = 9;
inline constexpr uint32_t kShardStatsFieldsOld = 5;  // of servers that do not know of left_out

// A reply with its memory, as a server makes it.
struct OwnedReply {
  RequestId request_id;
  ClusterId cluster_id;
  BootId boot_id;
  MapVersion map_version;
  Code code = Code::kOk;  // of the message as a whole; parts are empty unless kOk
  std::vector<PartResult> parts;
  Buffer keys;    // uint64
  Buffer values;  // float32
  Buffer flags;   // uint8, contains: one per key
};

// A reply as a client reads it: the spans are valid during the call that hands it over.
struct Reply {
  RequestId request_id;
  ClusterId cluster_id;
  BootId boot_id;
  MapVersion map_version;
  Code code = Code::kOk;
  std::span<const PartResult> parts;
  std::span<const uint64_t> keys;
  std::span<const float> values;
  std::span<const uint8_t> flags;
};

inline Reply ViewOf(const OwnedReply& reply) {
  return {reply.request_id,
          reply.cluster_id,
          reply.boot_id,
          reply.map_version,
          reply.code,
          reply.parts,
          reply.keys.As<uint64_t>(),
          reply.values.As<float>(),
          reply.flags.As<uint8_t>()};
}

}  // namespace fastps
