// What servers of one chain tell each other: entries and images flow down from a predecessor,
// acknowledgements and progress come back up. The byte format stands in FORMAT.md; decoding trusts
// nothing. One thread per decoder.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/status.h"
#include "base/types.h"

namespace fastps {

// Whose message it is and whom it is meant for. Who is neither drops it.
struct ChainStamp {
  ClusterId cluster_id;
  Epoch epoch;
  BootId from;
  BootId to;
  MapVersion map_version;  // of the sender
};

// One entry of a shard's log. Its keys and values follow those of the entry before it.
struct EntryHeader {
  TableId table;
  ShardId shard;
  ViewNumber view;
  uint8_t op = 0;        // an Op that writes, or kFoldOp
  uint8_t code = 0;      // a Code: what the head answered
  uint8_t has_step = 0;  // 1: the write belongs to `step`
  uint8_t reserved = 0;
  ApplyIndex index;
  SessionId session;
  Sequence sequence;
  uint64_t detail = 0;  // as in the head's answer
  Round step;
  uint32_t n_keys = 0;
  uint32_t n_values = 0;
};
static_assert(sizeof(EntryHeader) == 64);

// The head folded a closed round: `step` is the round, the keys are pairs (rank, session) of its
// members; there is no session and no sequence.
inline constexpr uint8_t kFoldOp = 64;

// How far the successor, and all behind it, are with one shard.
struct ShardAck {
  TableId table;
  ShardId shard;
  ViewNumber view;
  uint8_t resend = 0;  // 1: what comes after `held` is missing here
  uint8_t reserved[3] = {};
  ApplyIndex held;       // the newest entry that the sender has
  ApplyIndex committed;  // the newest that the tail has, as far as the sender knows
};
static_assert(sizeof(ShardAck) == 32);

// A piece of a shard's image, for the server that is being filled.
struct ImageSlice {
  TableId table;
  ShardId shard;
  ViewNumber view;
  uint32_t reserved = 0;
  uint64_t image = 0;  // which image: a source that starts again takes another number
  uint64_t offset = 0;
  uint64_t total = 0;  // bytes of the whole image
};
static_assert(sizeof(ImageSlice) == 40);

// How much of an image has come, without gaps.
struct ImageProgress {
  TableId table;
  ShardId shard;
  ViewNumber view;
  uint8_t refused = 0;  // 1: it was damaged on the way, or is not needed: another must be made
  uint8_t reserved[3] = {};
  uint64_t image = 0;
  uint64_t received = 0;
};
static_assert(sizeof(ImageProgress) == 32);

// A message on its way: frames with their memory.
struct ChainFrames {
  std::vector<std::byte> head;
  Buffer keys;    // uint64, or the bytes of an image; left out when empty
  Buffer values;  // float32; left out when empty
};

ChainFrames EncodeEntries(const ChainStamp& stamp, std::span<const EntryHeader> entries,
                          Buffer keys, Buffer values);
ChainFrames EncodeAcks(const ChainStamp& stamp, std::span<const ShardAck> acks);
// Asks a successor how far it is with these shards.
ChainFrames EncodeQuestion(const ChainStamp& stamp, std::span<const ShardAck> asked);
ChainFrames EncodeSlice(const ChainStamp& stamp, const ImageSlice& slice, Buffer bytes);
ChainFrames EncodeProgress(const ChainStamp& stamp, std::span<const ImageProgress> progress);

// A message as it came: spans point into the frames, or into copies that the decoder holds until
// its next call. Only the lists of its kind are filled.
struct ChainMessage {
  enum class Kind { kEntries, kAcks, kQuestion, kSlice, kProgress };
  Kind kind = Kind::kEntries;
  ChainStamp stamp;
  std::span<const EntryHeader> entries;
  std::span<const Key> keys;
  std::span<const float> values;
  std::span<const ShardAck> acks;  // of a question as well
  ImageSlice slice;
  Bytes slice_bytes;
  std::span<const ImageProgress> progress;
};

class ChainDecoder {
 public:
  // The counts are consistent; tables, shards and shapes are not looked at.
  Status Decode(std::span<const Bytes> frames, ChainMessage* message);

 private:
  template <class T>
  bool TakeList(Bytes bytes, uint32_t count, std::vector<T>* copy);

  std::vector<EntryHeader> entries_;
  std::vector<ShardAck> acks_;
  std::vector<ImageProgress> progress_;
  std::vector<Key> keys_;
  std::vector<float> values_;
};

inline constexpr char kEntriesTag[] = "FPE1";
inline constexpr char kAcksTag[] = "FPA1";
inline constexpr char kQuestionTag[] = "FPQ1";
inline constexpr char kSliceTag[] = "FPI1";
inline constexpr char kProgressTag[] = "FPJ1";

}  // namespace fastps
