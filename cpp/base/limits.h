// Every bound of the core, with its reason and its tie to its neighbours. A limit that a user meets
// is named in the error that tells of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastps::limits {

// A frame larger than this is refused before it is allocated (ZMQ_MAXMSGSIZE): a stranger must not
// be able to make a server allocate at will.
inline constexpr size_t kFrameBytesMax = size_t{64} << 20;

// One message should stay in the L2 or L3 cache while it is built, sent and applied.
inline constexpr size_t kMessageValuesBytesGoal = size_t{1} << 20;
inline constexpr size_t kMessageKeysGoal = 8192;

// One row must fit one message with room to spare, or no batch could be split small enough.
inline constexpr uint32_t kRowWidthMax = uint32_t{1} << 22;  // floats
static_assert(size_t{kRowWidthMax} * sizeof(float) * 2 <= kFrameBytesMax);

// A dense table of 4 TiB; below it no size in bytes overflows.
inline constexpr uint64_t kDenseElementsMax = uint64_t{1} << 40;
static_assert(kRowWidthMax <= kDenseElementsMax);

// A part list is one frame; 2^16 shards of 32-byte part headers are 2 MiB.
inline constexpr uint32_t kShardsPerTableMax = uint32_t{1} << 16;
inline constexpr uint32_t kTablesMax = 4096;
inline constexpr uint32_t kServersMax = 1024;
// Copies of a shard. More would slow every write for failures that hardly ever meet.
inline constexpr uint8_t kReplicationMax = 3;
inline constexpr uint32_t kDataThreadsMax = 64;
inline constexpr size_t kNameBytesMax = 512;

// Per shard a client has at most this many writes un-acknowledged, which is also how many answers a
// shard remembers per session.
inline constexpr uint32_t kWritesInFlightPerShardMax = 64;
// A client keeps within it by its window: messages on one connection, and parts one message has for
// one shard.
inline constexpr uint32_t kMessagesInFlightPerLaneMax = 16;
inline constexpr uint32_t kPartsPerShardInMessageMax = 4;
static_assert(kMessagesInFlightPerLaneMax * kPartsPerShardInMessageMax <=
              kWritesInFlightPerShardMax);

// Bytes of requests sent and un-answered on one connection; what is queued behind them waits.
inline constexpr size_t kLaneBytesInFlightMax = size_t{32} << 20;
// A message built of one whole row or block may pass the goal; two of them must still fit the lane.
static_assert(kLaneBytesInFlightMax >= 2 * kRowWidthMax * sizeof(float));

// Bytes of calls started and not ended, over all connections of a client: an asynchronous call
// waits until there is room. One call may always start, whatever its size.
inline constexpr size_t kClientBytesInFlightMax = size_t{256} << 20;
static_assert(kClientBytesInFlightMax >= 2 * kLaneBytesInFlightMax);

// Bytes of writes that were numbered before every copy of their shard was lost, kept until it is
// served again. Beyond it a session gives the shard up. What was under way fits.
inline constexpr size_t kLostBytesKeptMax = size_t{256} << 20;
static_assert(kLostBytesKeptMax >= kClientBytesInFlightMax);

// No answer on a connection for this long: it is closed, made anew and everything is sent again.
// Doubles up to the maximum while the silence lasts.
inline constexpr int64_t kResendAfterMs = 2000;
inline constexpr int64_t kResendAfterMsMax = 16000;
// A RETRY answer is sent again after this pause. It doubles up to the maximum while the answers
// stay so: a view change takes longer, and asking costs the server.
inline constexpr int64_t kRetryPauseMs = 1;
inline constexpr int64_t kRetryPauseMsMax = 16;

// Entries that a data thread keeps for its successors; beyond, writes are to be sent again later.
inline constexpr size_t kChainBytesKeptMax = size_t{256} << 20;
// Answers of one shard that wait for its tail.
inline constexpr size_t kAnswersWaitingMax = 65536;
// While something waits in a chain a data thread looks at the time so often.
inline constexpr int64_t kChainTickMs = 10;
// Entries that nobody acknowledged are sent again after this silence, doubling up to the maximum;
// right after a view changed, when the successor may not know of it yet, and for images, sooner.
inline constexpr int64_t kChainResendMs = 400;
inline constexpr int64_t kChainResendSoonMs = 20;
inline constexpr int64_t kChainResendMsMax = 2000;
// A successor from which nothing came for so long, though something waits, is reported.
inline constexpr int64_t kChainSilenceMs = 1000;
// A member that waits itself says so to its predecessor, five times within that.
inline constexpr int64_t kChainWaitingMs = 200;
static_assert(kChainWaitingMs * 5 <= kChainSilenceMs);
// Who did not run for so long heard nobody in the meantime.
inline constexpr int64_t kPauseMs = 400;
// Missing entries are asked for at most so often.
inline constexpr int64_t kAskAgainMs = 20;
// An image travels in slices, so many bytes of it un-acknowledged; so many images at a time from
// one data thread, since each is a copy of its shard.
inline constexpr size_t kImageSliceBytes = size_t{1} << 20;
inline constexpr size_t kImageWindowBytes = 4 * kImageSliceBytes;
inline constexpr size_t kImagesMax = 2;

inline constexpr int64_t kHeartbeatIntervalMs = 200;
inline constexpr int64_t kHandshakeMs = 2000;  // ZMQ_HANDSHAKE_IVL
// Frames of closed rounds that a server has not acted on yet; further ones are sent again later.
inline constexpr size_t kNoticesWaitingMax = 64;
// Embedded: what a call may take that runs when its gate opens; servers have folded by then.
inline constexpr int64_t kGatedCallMs = 10'000;
// The longest a thread sleeps without looking whether it should stop or Ctrl-C was pressed.
inline constexpr int64_t kWaitSliceMs = 100;
static_assert(kWaitSliceMs * 5 <= 500, "Ctrl-C must interrupt any call within 0.5 s");

// A scan answers at most this many rows a message; the value bytes are bounded as well.
inline constexpr uint32_t kScanRowsMax = 65536;

}  // namespace fastps::limits
