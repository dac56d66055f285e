// The ids, counts and clocks of fastps, each a type of its own, so that `Route(ShardId, ServerId)`
// cannot be called backwards. Values only: any thread may use them.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace fastps {

// A number that converts to no other number. `Tag` names it, `Rep` holds it.
template <class Tag, class Rep>
struct StrongNumber {
  Rep value{};

  constexpr StrongNumber() = default;
  constexpr explicit StrongNumber(Rep v) : value(v) {}
  friend constexpr auto operator<=>(const StrongNumber&, const StrongNumber&) = default;
};

using ServerId = StrongNumber<struct ServerIdTag, uint32_t>;
using TableId = StrongNumber<struct TableIdTag, uint32_t>;
using ShardId = StrongNumber<struct ShardIdTag, uint32_t>;    // within its table
using ThreadId = StrongNumber<struct ThreadIdTag, uint32_t>;  // a data thread within its server
using SessionId =
    StrongNumber<struct SessionIdTag, uint64_t>;  // one joined life of a Client; 0: none
using Sequence =
    StrongNumber<struct SequenceTag, uint64_t>;  // a session's writes to a shard, from 1
using ApplyIndex = StrongNumber<struct ApplyIndexTag, uint64_t>;  // a shard's applied entries
using ViewNumber = StrongNumber<struct ViewNumberTag, uint32_t>;  // of a shard's chain, only up
using MapVersion = StrongNumber<struct MapVersionTag, uint64_t>;  // one number over all views
using Epoch = StrongNumber<struct EpochTag, uint32_t>;            // of the job, raised by a restore
using Incarnation = StrongNumber<struct IncarnationTag, uint32_t>;  // of the scheduler, only up
using GroupId = StrongNumber<struct GroupIdTag, uint32_t>;          // a group of workers
using Rank = StrongNumber<struct RankTag, uint32_t>;                // a worker within its group
// A step of a group under BSP: what its workers push between two of their clocks.
using Round = StrongNumber<struct RoundTag, uint64_t>;
using ClusterId = StrongNumber<struct ClusterIdTag, uint64_t>;
using RequestId = StrongNumber<struct RequestIdTag, uint64_t>;  // of one transmission by one client

// 128 random bits drawn at each process start: a server that came back is another server.
struct BootId {
  std::array<uint64_t, 2> bits{};
  friend constexpr auto operator<=>(const BootId&, const BootId&) = default;
};

using Key = uint64_t;  // every one of the 2^64 values is legal

// Which list of keys a request's keys are: BLAKE2b, 16 bytes, over all of the list as u64.
struct KeySetSignature {
  std::array<uint64_t, 2> bits{};
  bool empty() const { return bits[0] == 0 && bits[1] == 0; }
  friend constexpr auto operator<=>(const KeySetSignature&, const KeySetSignature&) = default;
};

// A time in milliseconds that does not come.
inline constexpr int64_t kNeverMs = INT64_MAX;

}  // namespace fastps

template <class Tag, class Rep>
struct std::hash<fastps::StrongNumber<Tag, Rep>> {
  size_t operator()(const fastps::StrongNumber<Tag, Rep>& n) const noexcept {
    return std::hash<Rep>{}(n.value);
  }
};
