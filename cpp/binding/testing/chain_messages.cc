// Test-only: messages between the servers of a chain as dicts, to frames and back.
#include "wire/chain_messages.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "binding/testing/testing.h"

namespace py = pybind11;

namespace fastps {
namespace {

using testing::ArrayOf;
using testing::FloatArray;
using testing::KeyArray;
using testing::SpanOf;

// (table, shard, view, op, code, has_step, index, session, sequence, detail, step, n_keys,
// n_values)
using EntryTuple = std::tuple<uint32_t, uint32_t, uint32_t, int, int, int, uint64_t, uint64_t,
                              uint64_t, uint64_t, uint64_t, uint32_t, uint32_t>;
// (table, shard, view, resend, held, committed)
using AckTuple = std::tuple<uint32_t, uint32_t, uint32_t, int, uint64_t, uint64_t>;
// (table, shard, view, image, offset, total)
using SliceTuple = std::tuple<uint32_t, uint32_t, uint32_t, uint64_t, uint64_t, uint64_t>;
// (table, shard, view, refused, image, received)
using ProgressTuple = std::tuple<uint32_t, uint32_t, uint32_t, int, uint64_t, uint64_t>;

ChainStamp StampOf(const py::dict& dict) {
  return {ClusterId(dict["cluster_id"].cast<uint64_t>()), Epoch(dict["epoch"].cast<uint32_t>()),
          testing::BootIdOf(dict["from"].cast<py::bytes>()),
          testing::BootIdOf(dict["to"].cast<py::bytes>()),
          MapVersion(dict["map_version"].cast<uint64_t>())};
}

template <class T>
Buffer BufferOf(std::span<const T> values, BufferPool& pool) {
  Buffer buffer = pool.Allocate(values.size_bytes());
  std::ranges::copy(values, buffer.As<T>().begin());
  return buffer;
}

std::vector<EntryHeader> EntriesOf(const py::dict& dict) {
  std::vector<EntryHeader> entries;
  for (const auto& [table, shard, view, op, code, has_step, index, session, sequence, detail, step,
                    n_keys, n_values] : dict["entries"].cast<std::vector<EntryTuple>>()) {
    entries.push_back({.table = TableId(table),
                       .shard = ShardId(shard),
                       .view = ViewNumber(view),
                       .op = static_cast<uint8_t>(op),
                       .code = static_cast<uint8_t>(code),
                       .has_step = static_cast<uint8_t>(has_step),
                       .index = ApplyIndex(index),
                       .session = SessionId(session),
                       .sequence = Sequence(sequence),
                       .detail = detail,
                       .step = Round(step),
                       .n_keys = n_keys,
                       .n_values = n_values});
  }
  return entries;
}

std::vector<ShardAck> AcksOf(const py::dict& dict) {
  std::vector<ShardAck> acks;
  for (const auto& [table, shard, view, resend, held, committed] :
       dict["acks"].cast<std::vector<AckTuple>>()) {
    acks.push_back({.table = TableId(table),
                    .shard = ShardId(shard),
                    .view = ViewNumber(view),
                    .resend = static_cast<uint8_t>(resend),
                    .held = ApplyIndex(held),
                    .committed = ApplyIndex(committed)});
  }
  return acks;
}

ImageSlice SliceOf(const py::dict& dict) {
  const auto [table, shard, view, image, offset, total] = dict["slice"].cast<SliceTuple>();
  return {.table = TableId(table),
          .shard = ShardId(shard),
          .view = ViewNumber(view),
          .image = image,
          .offset = offset,
          .total = total};
}

std::vector<ImageProgress> ProgressOf(const py::dict& dict) {
  std::vector<ImageProgress> all;
  for (const auto& [table, shard, view, refused, image, received] :
       dict["progress"].cast<std::vector<ProgressTuple>>()) {
    all.push_back({.table = TableId(table),
                   .shard = ShardId(shard),
                   .view = ViewNumber(view),
                   .refused = static_cast<uint8_t>(refused),
                   .image = image,
                   .received = received});
  }
  return all;
}

ChainFrames FramesOfDict(const py::dict& dict, BufferPool& pool) {
  const ChainStamp stamp = StampOf(dict);
  const auto kind = dict["kind"].cast<std::string>();
  if (kind == "entries") {
    return EncodeEntries(stamp, EntriesOf(dict),
                         BufferOf(SpanOf(dict["keys"].cast<KeyArray>()), pool),
                         BufferOf(SpanOf(dict["values"].cast<FloatArray>()), pool));
  }
  if (kind == "acks") return EncodeAcks(stamp, AcksOf(dict));
  if (kind == "question") return EncodeQuestion(stamp, AcksOf(dict));
  if (kind == "progress") return EncodeProgress(stamp, ProgressOf(dict));
  testing::Require(kind == "slice", "unknown kind of message");
  const auto bytes = dict["bytes"].cast<std::string>();
  return EncodeSlice(stamp, SliceOf(dict), BufferOf(std::as_bytes(std::span(bytes)), pool));
}

std::vector<py::bytes> EncodeChainMessage(const py::dict& dict) {
  const std::shared_ptr<BufferPool> pool = BufferPool::Create();
  const ChainFrames chain = FramesOfDict(dict, *pool);
  std::vector<py::bytes> frames;
  const auto add = [&](Bytes bytes) {
    frames.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  add(chain.head);
  for (const Buffer* section : {&chain.keys, &chain.values}) {
    if (section->size() != 0) add(section->As<std::byte>());
  }
  return frames;
}

py::list ListOf(std::span<const EntryHeader> entries) {
  py::list list;
  for (const EntryHeader& each : entries) {
    list.append(EntryTuple(each.table.value, each.shard.value, each.view.value, each.op, each.code,
                           each.has_step, each.index.value, each.session.value, each.sequence.value,
                           each.detail, each.step.value, each.n_keys, each.n_values));
  }
  return list;
}

py::list ListOf(std::span<const ShardAck> acks) {
  py::list list;
  for (const ShardAck& each : acks) {
    list.append(AckTuple(each.table.value, each.shard.value, each.view.value, each.resend,
                         each.held.value, each.committed.value));
  }
  return list;
}

py::list ListOf(std::span<const ImageProgress> all) {
  py::list list;
  for (const ImageProgress& each : all) {
    list.append(ProgressTuple(each.table.value, each.shard.value, each.view.value, each.refused,
                              each.image, each.received));
  }
  return list;
}

py::dict DecodeChainMessage(const std::vector<py::bytes>& frame_bytes, size_t offset) {
  // Memory of exactly their size, so that a sanitizer sees each step outside.
  std::vector<std::unique_ptr<std::byte[]>> blocks;
  std::vector<Bytes> frames;
  for (const py::bytes& frame : frame_bytes) {
    const std::string_view view = frame;
    blocks.push_back(std::make_unique<std::byte[]>(offset + view.size()));
    std::memcpy(blocks.back().get() + offset, view.data(), view.size());
    frames.emplace_back(blocks.back().get() + offset, view.size());
  }
  ChainDecoder decoder;
  ChainMessage message;
  testing::RequireOk(decoder.Decode(frames, &message));
  py::dict dict;
  dict["cluster_id"] = message.stamp.cluster_id.value;
  dict["epoch"] = message.stamp.epoch.value;
  dict["from"] = testing::BytesOf(message.stamp.from);
  dict["to"] = testing::BytesOf(message.stamp.to);
  dict["map_version"] = message.stamp.map_version.value;
  switch (message.kind) {
    case ChainMessage::Kind::kEntries:
      dict["kind"] = "entries";
      dict["entries"] = ListOf(message.entries);
      dict["keys"] = ArrayOf(message.keys);
      dict["values"] = ArrayOf(message.values);
      break;
    case ChainMessage::Kind::kAcks:
    case ChainMessage::Kind::kQuestion:
      dict["kind"] = message.kind == ChainMessage::Kind::kAcks ? "acks" : "question";
      dict["acks"] = ListOf(message.acks);
      break;
    case ChainMessage::Kind::kSlice: {
      const ImageSlice& slice = message.slice;
      dict["kind"] = "slice";
      dict["slice"] = SliceTuple(slice.table.value, slice.shard.value, slice.view.value,
                                 slice.image, slice.offset, slice.total);
      dict["bytes"] = py::bytes(reinterpret_cast<const char*>(message.slice_bytes.data()),
                                message.slice_bytes.size());
      break;
    }
    case ChainMessage::Kind::kProgress:
      dict["kind"] = "progress";
      dict["progress"] = ListOf(message.progress);
      break;
  }
  return dict;
}

}  // namespace

void BindChainMessages(py::module_& m) {
  m.def("encode_chain_message", &EncodeChainMessage, py::arg("message"),
        "The frames of a dict with kind ('entries', 'acks', 'question', 'slice', 'progress'), "
        "the stamp's fields, and the lists of its kind. Nothing is checked.");
  m.def("decode_chain_message", &DecodeChainMessage, py::arg("frames"), py::arg("offset") = 0,
        "`offset`: bytes by which the frames miss their alignment.");
}

}  // namespace fastps
