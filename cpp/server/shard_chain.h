// ShardChain: what a server knows of the chain of one shard that it holds: its own place, the
// entries that others may still need, and who waits for the tail. Plain values, used by one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/limits.h"
#include "routing/cluster_map.h"
#include "store/shard.h"
#include "wire/chain_messages.h"
#include "wire/message.h"

namespace fastps {

// An entry that was applied here and that a successor may not have yet, with its content.
struct KeptEntry {
  EntryHeader header;  // its view is that in which it was made
  Buffer keys;
  size_t keys_begin = 0;
  Buffer values;
  size_t values_begin = 0;

  std::span<const Key> selection() const {
    return keys.As<Key>().subspan(keys_begin, header.n_keys);
  }
  std::span<const float> content() const {
    return values.As<float>().subspan(values_begin, header.n_values);
  }
  size_t bytes() const {
    return sizeof(*this) + header.n_keys * sizeof(Key) + header.n_values * sizeof(float);
  }
};

// The answer to a request whose writes are on their way down their chains.
struct PendingAnswer {
  std::string peer;
  OwnedReply reply;
  size_t n_open = 0;  // parts that wait
};

struct Waiting {
  ApplyIndex index;  // until the tail has this
  size_t part = 0;
  std::shared_ptr<PendingAnswer> answer;
};

// When something that nobody answers goes again: later each time.
struct ResendTimer {
  int64_t at_ms = 0;
  int64_t after_ms = 0;

  void Start(int64_t now_ms, int64_t after) {
    after_ms = after;
    at_ms = now_ms + after_ms;
  }
  bool IsDue(int64_t now_ms) const { return now_ms >= at_ms; }
  void Double(int64_t now_ms) {
    Start(now_ms,
          after_ms * 2 < limits::kChainResendMsMax ? after_ms * 2 : limits::kChainResendMsMax);
  }
};

// The tail's side of filling a joiner.
struct Fill {
  ServerId joiner;
  uint64_t image = 0;  // its number; 0: it was not taken yet
  ApplyIndex index;    // of the newest entry that the image shows, or that the joiner has
  std::vector<std::byte> bytes;
  size_t sent = 0;
  size_t received = 0;      // of the bytes, by the joiner's word
  bool done = false;        // the joiner has it, and follows with the entries after `index`
  int64_t moved_at_ms = 0;  // when the joiner was last heard of it
  ResendTimer resend;
};

// The joiner's side.
struct Loading {
  uint64_t image = 0;
  std::vector<std::byte> bytes;
};

struct ShardChain {
  TableId table;
  ShardId id;
  std::shared_ptr<Shard> shard;
  ShardView view;
  size_t place = 0;             // in the chain
  bool is_joiner = false;       // not a member yet
  bool is_filled = false;       // of a joiner
  ApplyIndex index;             // of the newest entry here
  ApplyIndex committed;         // of the newest entry that the tail is known to have
  std::deque<KeptEntry> kept;   // by index, without gaps up to `index`
  std::deque<Waiting> waiting;  // by index
  std::optional<Fill> fill;
  Loading loading;
  // Under BSP: whose rounds, the rounds folded here, and those that all copies have folded.
  std::optional<GroupId> group;
  Round settled;
  std::deque<std::pair<ApplyIndex, Round>> folds;  // of a head: not known to be at the tail
  bool heard_in_view = false;                      // the successor has said something in this view
  ResendTimer resend;                              // of entries, when it says nothing
  std::string back_peer;         // where acknowledgements go: where entries came from
  int64_t may_ask_again_ms = 0;  // before, entries that are missing are not asked for again

  bool is_head() const { return !is_joiner && place == 0; }
  bool is_tail() const { return !is_joiner && place + 1 == view.n_members; }
  // Whom entries come from; none: this is the head.
  std::optional<ServerId> predecessor() const {
    if (is_joiner) return view.tail();
    return place == 0 ? std::nullopt : std::optional(view.members[place - 1]);
  }
  // Whom entries go to. The tail's is the joiner, once there is one.
  std::optional<ServerId> successor() const {
    if (is_joiner) return std::nullopt;
    if (!is_tail()) return view.members[place + 1];
    return fill ? std::optional(fill->joiner) : std::nullopt;
  }
  // Whether the successor, or who is behind it, may lack something.
  bool waits() const {
    return is_tail() ? fill && fill->done && fill->index < index : !is_joiner && committed < index;
  }
  // Whether entries may be sent to the successor: a joiner needs its image first.
  bool is_open() const { return !is_tail() || (fill && fill->done); }
};

}  // namespace fastps
