// Test-only: requests and replies as dicts, to frames and back.
#include "wire/codec.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <tuple>

#include "binding/testing/testing.h"

namespace py = pybind11;

namespace fastps {
namespace {

using testing::ArrayOf;
using testing::FlagArray;
using testing::FloatArray;
using testing::KeyArray;
using testing::Require;
using testing::SpanOf;

using PartTuple = std::tuple<uint32_t, uint32_t, uint64_t, uint32_t, uint32_t>;
using ResultTuple = std::tuple<uint32_t, int, uint32_t, uint32_t, uint64_t>;

// Frames in memory of their own, of exactly their size, so that a sanitizer sees each step outside,
// and `offset` bytes away from alignment.
class Frames {
 public:
  Frames(const std::vector<py::bytes>& frames, size_t offset) {
    for (const py::bytes& frame : frames) {
      const std::string_view view = frame;
      blocks_.push_back(std::make_unique<std::byte[]>(offset + view.size()));
      std::memcpy(blocks_.back().get() + offset, view.data(), view.size());
      frames_.push_back({blocks_.back().get() + offset, view.size()});
    }
  }
  std::span<const Bytes> all() const { return frames_; }

  // What the decoder handed out lies in one of the frames, unless it had to align a copy.
  template <class T>
  void RequireInside(std::span<const T> span) const {
    if (span.empty()) return;
    const Bytes bytes = std::as_bytes(span);
    for (const Bytes frame : frames_) {
      const bool aligned = reinterpret_cast<uintptr_t>(frame.data()) % alignof(T) == 0;
      if (!aligned || (bytes.data() >= frame.data() &&
                       bytes.data() + bytes.size() <= frame.data() + frame.size())) {
        return;
      }
    }
    throw std::runtime_error("a decoded span lies outside the frames");
  }

 private:
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::vector<Bytes> frames_;
};

void AddFrame(py::list* frames, Bytes bytes) {
  if (bytes.empty()) return;
  frames->append(py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

py::list EncodeRequest(const py::dict& dict) {
  std::vector<PartHeader> parts;
  for (const auto& [shard, view, sequence, n_keys, n_values] :
       dict["parts"].cast<std::vector<PartTuple>>()) {
    parts.push_back({ShardId(shard), ViewNumber(view), Sequence(sequence), n_keys, n_values, 0});
  }
  const auto keys = dict["keys"].cast<KeyArray>();
  const auto values = dict["values"].cast<FloatArray>();
  Request request;
  request.stamp = {ClusterId(dict["cluster_id"].cast<uint64_t>()),
                   Epoch(dict["epoch"].cast<uint32_t>()),
                   Incarnation(dict["incarnation"].cast<uint32_t>()),
                   testing::BootIdOf(dict["boot_id"].cast<py::bytes>()),
                   MapVersion(dict["map_version"].cast<uint64_t>())};
  request.op = static_cast<Op>(dict["op"].cast<uint8_t>());
  request.table = TableId(dict["table"].cast<uint32_t>());
  request.session = SessionId(dict["session"].cast<uint64_t>());
  request.request_id = RequestId(dict["request_id"].cast<uint64_t>());
  request.argument = dict["argument"].cast<uint64_t>();
  request.parts = parts;
  request.keys = SpanOf(keys);
  request.values = SpanOf(values);
  std::vector<std::byte> head;
  EncodeRequestHead(request, &head);
  py::list frames;
  AddFrame(&frames, head);
  AddFrame(&frames, std::as_bytes(request.keys));
  AddFrame(&frames, std::as_bytes(request.values));
  return frames;
}

py::dict DecodeRequest(const std::vector<py::bytes>& frame_bytes, size_t offset) {
  const Frames frames(frame_bytes, offset);
  Decoder decoder;
  Request request;
  testing::RequireOk(decoder.DecodeRequest(frames.all(), &request));
  frames.RequireInside(request.keys);
  frames.RequireInside(request.values);
  std::vector<PartTuple> parts;
  for (const PartHeader& part : request.parts) {
    parts.emplace_back(part.shard.value, part.view.value, part.sequence.value, part.n_keys,
                       part.n_values);
  }
  py::dict dict;
  dict["cluster_id"] = request.stamp.cluster_id.value;
  dict["epoch"] = request.stamp.epoch.value;
  dict["incarnation"] = request.stamp.incarnation.value;
  dict["boot_id"] = testing::BytesOf(request.stamp.boot_id);
  dict["map_version"] = request.stamp.map_version.value;
  dict["op"] = static_cast<int>(request.op);
  dict["table"] = request.table.value;
  dict["session"] = request.session.value;
  dict["request_id"] = request.request_id.value;
  dict["argument"] = request.argument;
  dict["parts"] = parts;
  dict["keys"] = ArrayOf(request.keys);
  dict["values"] = ArrayOf(request.values);
  return dict;
}

template <class T>
Buffer BufferOf(std::span<const T> values, BufferPool& pool) {
  Buffer buffer = pool.Allocate(values.size_bytes());
  std::ranges::copy(values, buffer.As<T>().begin());
  return buffer;
}

py::list EncodeReply(const py::dict& dict) {
  const std::shared_ptr<BufferPool> pool = BufferPool::Create();
  OwnedReply reply;
  reply.request_id = RequestId(dict["request_id"].cast<uint64_t>());
  reply.cluster_id = ClusterId(dict["cluster_id"].cast<uint64_t>());
  reply.boot_id = testing::BootIdOf(dict["boot_id"].cast<py::bytes>());
  reply.map_version = MapVersion(dict["map_version"].cast<uint64_t>());
  reply.code = static_cast<Code>(dict["code"].cast<uint8_t>());
  for (const auto& [shard, code, n_keys, n_values, detail] :
       dict["parts"].cast<std::vector<ResultTuple>>()) {
    reply.parts.push_back(
        {ShardId(shard), static_cast<uint8_t>(code), 0, {}, n_keys, n_values, detail});
  }
  reply.keys = BufferOf(SpanOf(dict["keys"].cast<KeyArray>()), *pool);
  reply.values = BufferOf(SpanOf(dict["values"].cast<FloatArray>()), *pool);
  reply.flags = BufferOf(SpanOf(dict["flags"].cast<FlagArray>()), *pool);
  std::vector<std::byte> head;
  EncodeReplyHead(reply, &head);
  py::list frames;
  AddFrame(&frames, head);
  AddFrame(&frames, reply.keys.As<std::byte>());
  AddFrame(&frames, reply.values.As<std::byte>());
  AddFrame(&frames, reply.flags.As<std::byte>());
  return frames;
}

py::dict DecodeReply(const std::vector<py::bytes>& frame_bytes, size_t offset) {
  const Frames frames(frame_bytes, offset);
  Decoder decoder;
  Reply reply;
  testing::RequireOk(decoder.DecodeReply(frames.all(), &reply));
  frames.RequireInside(reply.keys);
  frames.RequireInside(reply.values);
  frames.RequireInside(reply.flags);
  std::vector<ResultTuple> parts;
  for (const PartResult& part : reply.parts) {
    parts.emplace_back(part.shard.value, part.code, part.n_keys, part.n_values, part.detail);
  }
  py::dict dict;
  dict["request_id"] = reply.request_id.value;
  dict["cluster_id"] = reply.cluster_id.value;
  dict["boot_id"] = testing::BytesOf(reply.boot_id);
  dict["map_version"] = reply.map_version.value;
  dict["code"] = static_cast<int>(reply.code);
  dict["parts"] = parts;
  dict["keys"] = ArrayOf(reply.keys);
  dict["values"] = ArrayOf(reply.values);
  dict["flags"] = ArrayOf(reply.flags);
  return dict;
}

}  // namespace

void BindCodec(py::module_& m) {
  m.def("encode_request", &EncodeRequest, py::arg("request"), "The frames of a request.");
  m.def("decode_request", &DecodeRequest, py::arg("frames"), py::arg("offset") = 0,
        "`offset`: bytes by which the frames miss their alignment.");
  m.def("encode_reply", &EncodeReply, py::arg("reply"), "The frames of a reply.");
  m.def("decode_reply", &DecodeReply, py::arg("frames"), py::arg("offset") = 0,
        "`offset`: bytes by which the frames miss their alignment.");
}

}  // namespace fastps
