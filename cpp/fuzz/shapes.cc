#include "fuzz/shapes.h"

#include <algorithm>
#include <bit>

#include "wire/codec.h"

namespace fastps::fuzz {

const Request& Shaped::View() {
  request.parts = parts;
  request.keys = keys;
  request.values = values;
  return request;
}

std::vector<ExactBytes> Shaped::Frames(bool misaligned) const {
  std::vector<std::byte> head;
  EncodeRequestHead(request, &head);
  std::vector<ExactBytes> frames;
  frames.emplace_back(head, misaligned);
  if (!keys.empty()) frames.emplace_back(std::as_bytes(request.keys), misaligned);
  if (!values.empty()) frames.emplace_back(std::as_bytes(request.values), misaligned);
  return frames;
}

Shaped ShapeRequest(Fields& fields, const ClusterMap& map) {
  Shaped shaped;
  Request& request = shaped.request;
  const auto op = static_cast<Op>(1 + fields.Get<uint8_t>() % 8);
  request.op = op;
  request.table = TableId(1 + fields.Below(static_cast<uint32_t>(map.tables.size())));
  request.session = SessionId(fields.Get<uint8_t>() % 5);
  if (op == Op::kScan) {
    request.argument = fields.Get<uint32_t>();
  } else {
    const uint8_t form = fields.Get<uint8_t>();  // of a step
    request.argument = form < 250 ? form % 8 : fields.Get<uint64_t>();
  }
  const uint8_t signature = fields.Get<uint8_t>() % 4;
  request.key_set.bits = {signature, 0};
  const bool with_set = signature != 0 && (op == Op::kPull || op == Op::kPush);
  const TableRoute& route = *map.FindTable(request.table);
  std::vector<Key>& keys = shaped.keys;
  for (size_t n = 1 + fields.Get<uint8_t>() % 5; n > 0; --n) {
    PartHeader part;
    const uint8_t where = fields.Get<uint8_t>();
    part.shard = ShardId(where % (route.spec.num_shards + 1));
    const bool is_there = part.shard.value < route.spec.num_shards;
    part.view = is_there ? route.views[part.shard.value].number : ViewNumber(1);
    if (where >= 200) part.view = ViewNumber(where % 4);
    if (IsWrite(op)) part.sequence = Sequence(1 + fields.Get<uint8_t>());
    const uint8_t n_keys = fields.Get<uint8_t>() % 70;
    if (with_set) part.set_part = fields.Get<uint8_t>() % 4;
    if (part.set_part != 0 && n_keys % 2 == 1) {
      part.n_omitted = n_keys < 60 ? n_keys / 2 : fields.Get<uint32_t>();
      if (part.n_omitted == 0) part.n_omitted = 1;
    } else {
      part.n_keys = n_keys;
      for (uint8_t i = 0; i < n_keys; ++i) {
        const uint8_t form = fields.Get<uint8_t>();
        keys.push_back(form < 250 ? form % 40 : fields.Get<uint64_t>());
      }
    }
    if (CarriesValues(op)) {
      const uint8_t form = fields.Get<uint8_t>();
      const size_t width = route.spec.row_width;
      size_t n_values = size_t{form} * 2;
      if (form < 240) n_values = std::max(part.n_keys, std::min(part.n_omitted, 70u)) * width;
      // Dense: what the ranges say, when they say something sane.
      if (form < 200 && route.spec.kind == TableKind::kDense) {
        n_values = 0;
        for (size_t i = keys.size() - part.n_keys; i + 1 < keys.size(); i += 2) {
          const uint64_t size = keys[i + 1] - keys[i];
          if (size < 64) n_values += size;
        }
      }
      if (form < 240 && op == Op::kSetLr) n_values = 1;
      part.n_values = static_cast<uint32_t>(n_values);
      for (size_t i = 0; i < n_values; ++i) {
        const uint8_t value = fields.Get<uint8_t>();
        shaped.values.push_back(value < 250 ? value : std::bit_cast<float>(fields.Get<uint32_t>()));
      }
    }
    shaped.parts.push_back(part);
  }
  return shaped;
}

}  // namespace fastps::fuzz
