#include "wire/chain_messages.h"

#include <cstring>
#include <utility>

#include "base/limits.h"
#include "wire/message.h"

namespace fastps {
namespace {

// The layout of FORMAT.md: little-endian, no padding.
struct ChainHeader {
  char tag[4];
  uint32_t count;  // entries of the list that follows
  uint64_t cluster_id;
  uint32_t epoch;
  uint32_t reserved;
  uint64_t from[2];
  uint64_t to[2];
  uint64_t map_version;
};
static_assert(sizeof(ChainHeader) == 64);

template <class T>
std::vector<std::byte> EncodeHead(const char* tag, const ChainStamp& stamp,
                                  std::span<const T> list) {
  ChainHeader header{.tag = {},
                     .count = static_cast<uint32_t>(list.size()),
                     .cluster_id = stamp.cluster_id.value,
                     .epoch = stamp.epoch.value,
                     .reserved = 0,
                     .from = {stamp.from.bits[0], stamp.from.bits[1]},
                     .to = {stamp.to.bits[0], stamp.to.bits[1]},
                     .map_version = stamp.map_version.value};
  std::memcpy(header.tag, tag, sizeof(header.tag));
  std::vector<std::byte> head(sizeof(header) + list.size_bytes());
  std::memcpy(head.data(), &header, sizeof(header));
  if (!list.empty()) std::memcpy(head.data() + sizeof(header), list.data(), list.size_bytes());
  return head;
}

Status Malformed(const char* what) { return Status(Code::kMalformed, what); }

bool HasTag(const ChainHeader& header, const char* tag) {
  return std::memcmp(header.tag, tag, sizeof(header.tag)) == 0;
}

// Entries are writes that some head numbered, and their counts add up to the frames'.
bool AreSound(std::span<const EntryHeader> entries, uint64_t* n_keys, uint64_t* n_values) {
  for (const EntryHeader& entry : entries) {
    if (entry.index == ApplyIndex(0) || entry.has_step > 1) return false;
    if (entry.op == kFoldOp) {
      if (entry.has_step == 0 || entry.n_keys % 2 != 0 || entry.n_values != 0) return false;
    } else {
      const bool known = entry.op >= static_cast<uint8_t>(Op::kPull) &&
                         entry.op <= static_cast<uint8_t>(Op::kSetLr);
      if (!known || !IsWrite(static_cast<Op>(entry.op)) || entry.sequence == Sequence(0)) {
        return false;
      }
    }
    *n_keys += entry.n_keys;
    *n_values += entry.n_values;
  }
  return true;
}

}  // namespace

ChainFrames EncodeEntries(const ChainStamp& stamp, std::span<const EntryHeader> entries,
                          Buffer keys, Buffer values) {
  return {EncodeHead(kEntriesTag, stamp, entries), std::move(keys), std::move(values)};
}

ChainFrames EncodeAcks(const ChainStamp& stamp, std::span<const ShardAck> acks) {
  return {EncodeHead(kAcksTag, stamp, acks), {}, {}};
}

ChainFrames EncodeQuestion(const ChainStamp& stamp, std::span<const ShardAck> asked) {
  return {EncodeHead(kQuestionTag, stamp, asked), {}, {}};
}

ChainFrames EncodeSlice(const ChainStamp& stamp, const ImageSlice& slice, Buffer bytes) {
  return {EncodeHead(kSliceTag, stamp, std::span(&slice, 1)), std::move(bytes), {}};
}

ChainFrames EncodeProgress(const ChainStamp& stamp, std::span<const ImageProgress> progress) {
  return {EncodeHead(kProgressTag, stamp, progress), {}, {}};
}

template <class T>
bool ChainDecoder::TakeList(Bytes bytes, uint32_t count, std::vector<T>* copy) {
  if (bytes.size() != size_t{count} * sizeof(T)) return false;
  copy->resize(count);
  if (count != 0) std::memcpy(copy->data(), bytes.data(), bytes.size());
  return true;
}

Status ChainDecoder::Decode(std::span<const Bytes> frames, ChainMessage* message) {
  ChainHeader header;
  if (frames.empty() || frames[0].size() < sizeof(header)) return Malformed("chain: cut short");
  std::memcpy(&header, frames[0].data(), sizeof(header));
  const Bytes list = frames[0].subspan(sizeof(header));
  *message = {};
  message->stamp = {ClusterId(header.cluster_id), Epoch(header.epoch),
                    BootId{{header.from[0], header.from[1]}}, BootId{{header.to[0], header.to[1]}},
                    MapVersion(header.map_version)};
  if (HasTag(header, kEntriesTag)) {
    message->kind = ChainMessage::Kind::kEntries;
    uint64_t n_keys = 0, n_values = 0;
    if (!TakeList(list, header.count, &entries_) || !AreSound(entries_, &n_keys, &n_values)) {
      return Malformed("chain: entries");
    }
    size_t next = 1;
    Bytes keys, values;
    if (n_keys != 0 && next < frames.size()) keys = frames[next++];
    if (n_values != 0 && next < frames.size()) values = frames[next++];
    if (next != frames.size() || keys.size() != n_keys * sizeof(Key) ||
        values.size() != n_values * sizeof(float)) {
      return Malformed("chain: frames and their counts differ");
    }
    message->entries = entries_;
    message->keys = AlignedView(keys, &keys_);
    message->values = AlignedView(values, &values_);
    return {};
  }
  if (HasTag(header, kAcksTag) || HasTag(header, kQuestionTag)) {
    message->kind =
        HasTag(header, kAcksTag) ? ChainMessage::Kind::kAcks : ChainMessage::Kind::kQuestion;
    if (frames.size() != 1 || !TakeList(list, header.count, &acks_)) {
      return Malformed("chain: acknowledgements");
    }
    message->acks = acks_;
    return {};
  }
  if (HasTag(header, kSliceTag)) {
    message->kind = ChainMessage::Kind::kSlice;
    if (frames.size() != 2 || header.count != 1 || list.size() != sizeof(ImageSlice)) {
      return Malformed("chain: image");
    }
    std::memcpy(&message->slice, list.data(), sizeof(ImageSlice));
    message->slice_bytes = frames[1];
    const ImageSlice& slice = message->slice;
    if (frames[1].empty() || slice.offset > slice.total ||
        frames[1].size() > slice.total - slice.offset) {
      return Malformed("chain: bytes of an image");
    }
    return {};
  }
  if (HasTag(header, kProgressTag)) {
    message->kind = ChainMessage::Kind::kProgress;
    if (frames.size() != 1 || !TakeList(list, header.count, &progress_)) {
      return Malformed("chain: progress of images");
    }
    message->progress = progress_;
    return {};
  }
  return Malformed("not a message of a chain");
}

}  // namespace fastps
