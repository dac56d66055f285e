// Entry: one write as the head of a shard's chain took it, for the replicas to do the same. The
// entries of a shard are numbered from 1 without gaps: a refused write and a push that came too
// late are entries without content, so that every replica gives a repeat the same answer. Values
// only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "store/write.h"
#include "wire/notices.h"

namespace fastps {

struct Entry {
  ApplyIndex index;
  SessionId session;
  Sequence sequence;
  Write::Kind kind = Write::Kind::kPush;
  Code code = Code::kOk;  // the head's answer
  uint64_t detail = 0;    // as well
  // The round it belongs to.
  Step step;
  Selection selection;            // empty when the entry has no effect
  std::span<const float> values;  // as well
};

// A closed round that the head folded, with whose pushes: an entry of the log as well, since what
// is written before a fold must not come after it at a replica.
struct FoldEntry {
  ApplyIndex index;
  Round round;
  std::vector<RoundMember> members;  // by rank
};

// What became of an entry that was given to a replica.
enum class EntryFate : uint8_t {
  kApplied,
  kOld,        // applied before
  kGap,        // an earlier one is missing
  kMalformed,  // no head can have made it of this shard; nothing was changed
};

// Whether the content of an entry is of use: what was refused or came too late had no effect.
inline bool HasEffect(Write::Kind kind, Code code, uint64_t detail) {
  return code == Code::kOk && !(kind == Write::Kind::kPush && detail != 0);
}

// The entry that `write` became, over the memory of `write`.
// Requires: result.is_entry, and no keys were left out.
inline Entry EntryOf(const Write& write, const WriteResult& result) {
  Entry entry{result.index,
              write.session,
              write.sequence,
              write.kind,
              result.code,
              result.detail,
              write.step,
              {},
              {}};
  if (HasEffect(write.kind, result.code, result.detail)) {
    entry.selection = write.selection;
    entry.values = write.values;
  }
  return entry;
}

}  // namespace fastps
