// Write and WriteResult: one numbered change of a shard by one session, and its answer. Values
// only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/status.h"
#include "base/types.h"
#include "store/key_set_memory.h"
#include "store/shard_data.h"

namespace fastps {

// How a call names its keys: by a key set's part, whose keys may be left out.
struct KeySetUse {
  KeySetRef ref;           // ref.part is 0 when no key set is used
  uint32_t n_omitted = 0;  // how many keys were left out; 0: they are in the selection
};

// Which step of its group a call belongs to; none: the caller is of another group, or the table is
// not under BSP, where nobody asks.
using Step = std::optional<Round>;

struct Write {
  enum class Kind : uint8_t { kPush, kAssign, kRemove, kSetLr };
  Kind kind = Kind::kPush;
  SessionId session;
  Sequence sequence;  // 0: called in-process, where nothing is lost or repeated; not checked
  Selection selection;
  // Push: gradients; assign: values; set_lr: the rate; remove: none.
  std::span<const float> values;
  KeySetUse key_set;  // push only
  Step step;
};

struct WriteResult {
  Code code = Code::kOk;
  // Remove: rows removed; push: 1 when its round was folded without it; kGap: the sequence wanted;
  // kValueRange: 1 + which of the values cannot be taken.
  uint64_t detail = 0;
  bool remembered = false;  // the keys may be left out next time
  bool is_entry = false;    // this call made the shard's newest entry
  ApplyIndex index{};       // of the shard's newest entry after the call
};

}  // namespace fastps
