#include "wire/codec.h"

#include <cstring>

#include "base/limits.h"

namespace fastps {
namespace {

constexpr uint32_t kMagic = 0x31535046;  // "FPS1" in memory
constexpr uint16_t kFormatVersion = 1;
// Header flag of a request: the head ends with the signature of its key set.
constexpr uint8_t kHasKeySet = 1;

// The layouts of FORMAT.md: little-endian, no padding.
struct RequestHeader {
  uint32_t magic;
  uint16_t format_version;
  uint8_t op;
  uint8_t flags;
  uint64_t cluster_id;
  uint32_t epoch;
  uint32_t incarnation;
  uint64_t boot_id[2];
  uint64_t map_version;
  uint64_t session;
  uint64_t request_id;
  uint64_t argument;
  uint32_t table;
  uint32_t n_parts;
  uint32_t n_keys;
  uint32_t n_values;
};
static_assert(sizeof(RequestHeader) == 88);

struct ReplyHeader {
  uint32_t magic;
  uint16_t format_version;
  uint8_t code;
  uint8_t reserved;
  uint64_t cluster_id;
  uint64_t boot_id[2];
  uint64_t map_version;
  uint64_t request_id;
  uint32_t n_parts;
  uint32_t n_keys;
  uint32_t n_values;
  uint32_t n_flags;
};
static_assert(sizeof(ReplyHeader) == 64);

template <class Header, class Part>
void EncodeHead(const Header& header, std::span<const Part> parts, std::vector<std::byte>* head) {
  head->resize(sizeof(Header) + parts.size_bytes());
  std::memcpy(head->data(), &header, sizeof(Header));
  if (!parts.empty()) {
    std::memcpy(head->data() + sizeof(Header), parts.data(), parts.size_bytes());
  }
}

Status Malformed(const char* what) { return Status(Code::kMalformed, what); }

// Reads the header and the part list, the same way for both directions. `trailer` gets what follows
// them in the frame.
template <class Header, class Part>
Status DecodeHead(std::span<const Bytes> frames, Header* header, std::vector<Part>* parts,
                  Bytes* trailer) {
  if (frames.empty() || frames.size() > kFramesMax) return Malformed("wrong number of frames");
  const Bytes head = frames[0];
  if (head.size() < sizeof(Header)) return Malformed("header too short");
  std::memcpy(header, head.data(), sizeof(Header));
  if (header->magic != kMagic) return Malformed("not a fastps message");
  if (header->format_version != kFormatVersion) return Malformed("another format version");
  if (header->n_parts > limits::kShardsPerTableMax) return Malformed("too many parts");
  const size_t part_bytes_wanted = size_t{header->n_parts} * sizeof(Part);
  if (head.size() - sizeof(Header) < part_bytes_wanted) return Malformed("part list cut short");
  const Bytes part_bytes = head.subspan(sizeof(Header), part_bytes_wanted);
  *trailer = head.subspan(sizeof(Header) + part_bytes_wanted);
  parts->resize(header->n_parts);
  if (!part_bytes.empty()) std::memcpy(parts->data(), part_bytes.data(), part_bytes.size());
  return {};
}

// The sums of the parts' counts must equal the header's counts.
template <class Part>
bool CountsAgree(std::span<const Part> parts, uint64_t n_keys, uint64_t n_values) {
  uint64_t keys = 0, values = 0;
  for (const Part& part : parts) {
    keys += part.n_keys;
    values += part.n_values;
  }
  return keys == n_keys && values == n_values;
}

// Takes the next frame if `count` says there is one; it must have exactly that many elements.
bool TakeSection(std::span<const Bytes> frames, size_t* next, size_t count, size_t element_bytes,
                 Bytes* section) {
  if (count == 0) return true;
  if (*next >= frames.size() || frames[*next].size() != count * element_bytes) return false;
  *section = frames[(*next)++];
  return true;
}

}  // namespace

void EncodeRequestHead(const Request& request, std::vector<std::byte>* head) {
  const RequestHeader header{
      .magic = kMagic,
      .format_version = kFormatVersion,
      .op = static_cast<uint8_t>(request.op),
      .flags = request.key_set.empty() ? uint8_t{0} : kHasKeySet,
      .cluster_id = request.stamp.cluster_id.value,
      .epoch = request.stamp.epoch.value,
      .incarnation = request.stamp.incarnation.value,
      .boot_id = {request.stamp.boot_id.bits[0], request.stamp.boot_id.bits[1]},
      .map_version = request.stamp.map_version.value,
      .session = request.session.value,
      .request_id = request.request_id.value,
      .argument = request.argument,
      .table = request.table.value,
      .n_parts = static_cast<uint32_t>(request.parts.size()),
      .n_keys = static_cast<uint32_t>(request.keys.size()),
      .n_values = static_cast<uint32_t>(request.values.size()),
  };
  EncodeHead(header, request.parts, head);
  if (!request.key_set.empty()) {
    const Bytes signature = std::as_bytes(std::span(request.key_set.bits));
    head->insert(head->end(), signature.begin(), signature.end());
  }
}

void EncodeReplyHead(const OwnedReply& reply, std::vector<std::byte>* head) {
  const Reply view = ViewOf(reply);
  const ReplyHeader header{
      .magic = kMagic,
      .format_version = kFormatVersion,
      .code = static_cast<uint8_t>(view.code),
      .reserved = 0,
      .cluster_id = view.cluster_id.value,
      .boot_id = {view.boot_id.bits[0], view.boot_id.bits[1]},
      .map_version = view.map_version.value,
      .request_id = view.request_id.value,
      .n_parts = static_cast<uint32_t>(view.parts.size()),
      .n_keys = static_cast<uint32_t>(view.keys.size()),
      .n_values = static_cast<uint32_t>(view.values.size()),
      .n_flags = static_cast<uint32_t>(view.flags.size()),
  };
  EncodeHead(header, view.parts, head);
}

Status Decoder::DecodeRequest(std::span<const Bytes> frames, Request* request) {
  RequestHeader header;
  Bytes trailer;
  if (Status status = DecodeHead(frames, &header, &part_headers_, &trailer); !status.ok()) {
    return status;
  }
  if (header.op < static_cast<uint8_t>(Op::kPull) || header.op > static_cast<uint8_t>(Op::kSetLr)) {
    return Malformed("unknown operation");
  }
  const Op op = static_cast<Op>(header.op);
  const std::span<const PartHeader> parts = part_headers_;
  // A pull's parts name no values: how many it gets is the server's to say.
  if (!CountsAgree(parts, header.n_keys, header.n_values)) {
    return Malformed("counts of the parts and of the header differ");
  }
  if (!CarriesValues(op) && header.n_values != 0) return Malformed("values where none belong");
  const bool has_key_set = (header.flags & kHasKeySet) != 0;
  request->key_set = {};
  if (trailer.size() != (has_key_set ? sizeof(KeySetSignature) : 0)) {
    return Malformed("bytes after the part list");
  }
  if (has_key_set) std::memcpy(&request->key_set.bits, trailer.data(), trailer.size());
  for (const PartHeader& part : parts) {
    if (IsWrite(op) && part.sequence.value == 0) return Malformed("a write without a sequence");
    if (part.set_part != 0 && (!has_key_set || (op != Op::kPull && op != Op::kPush))) {
      return Malformed("a part of a key set where none is");
    }
    if (part.n_omitted != 0 && (part.set_part == 0 || part.n_keys != 0)) {
      return Malformed("keys left out that no key set has");
    }
  }
  size_t next = 1;
  Bytes keys, values;
  if (!TakeSection(frames, &next, header.n_keys, sizeof(Key), &keys) ||
      !TakeSection(frames, &next, header.n_values, sizeof(float), &values) ||
      next != frames.size()) {
    return Malformed("frames and their counts differ");
  }
  request->stamp = {ClusterId(header.cluster_id), Epoch(header.epoch),
                    Incarnation(header.incarnation), BootId{{header.boot_id[0], header.boot_id[1]}},
                    MapVersion(header.map_version)};
  request->op = op;
  request->table = TableId(header.table);
  request->session = SessionId(header.session);
  request->request_id = RequestId(header.request_id);
  request->argument = header.argument;
  request->parts = parts;
  request->keys = AlignedView(keys, &keys_);
  request->values = AlignedView(values, &values_);
  return {};
}

Status Decoder::DecodeReply(std::span<const Bytes> frames, Reply* reply) {
  ReplyHeader header;
  Bytes trailer;
  if (Status status = DecodeHead(frames, &header, &part_results_, &trailer); !status.ok()) {
    return status;
  }
  if (!trailer.empty()) return Malformed("bytes after the part list");
  const std::span<const PartResult> parts = part_results_;
  if (!CountsAgree(parts, header.n_keys, header.n_values)) {
    return Malformed("counts of the parts and of the header differ");
  }
  size_t next = 1;
  Bytes keys, values, flags;
  if (!TakeSection(frames, &next, header.n_keys, sizeof(uint64_t), &keys) ||
      !TakeSection(frames, &next, header.n_values, sizeof(float), &values) ||
      !TakeSection(frames, &next, header.n_flags, sizeof(uint8_t), &flags) ||
      next != frames.size()) {
    return Malformed("frames and their counts differ");
  }
  reply->request_id = RequestId(header.request_id);
  reply->cluster_id = ClusterId(header.cluster_id);
  reply->boot_id = BootId{{header.boot_id[0], header.boot_id[1]}};
  reply->map_version = MapVersion(header.map_version);
  reply->code = static_cast<Code>(header.code);
  reply->parts = parts;
  reply->keys = AlignedView(keys, &keys_);
  reply->values = AlignedView(values, &values_);
  reply->flags = {reinterpret_cast<const uint8_t*>(flags.data()), flags.size()};
  return {};
}

}  // namespace fastps
