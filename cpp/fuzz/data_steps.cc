// Steps of the data sockets: requests and replies.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "client/key_set.h"
#include "client/shard_plan.h"
#include "fuzz/victim.h"

namespace fastps::fuzz {
namespace {

// Reads fields off bytes; zeros when these are used up.
class Fields {
 public:
  explicit Fields(Bytes bytes) : reader_(bytes) {}
  template <class T>
  T Get() {
    T value{};
    (void)reader_.Get(&value);
    return value;
  }
  bool empty() const { return reader_.remaining() == 0; }

 private:
  ByteReader reader_;
};

}  // namespace

void TakeRequest(Victim& victim, std::span<const Bytes> frames) {
  Request request;
  if (!victim.decoder.DecodeRequest(frames, &request).ok()) return;
  std::vector<std::byte> head;
  EncodeRequestHead(request, &head);
  FASTPS_CHECK(head.size() == frames[0].size());
  request.table = TableId(1 + request.table.value % kTables);
  request.session = SessionId(request.session.value % 5);
  victim.Submit(request);
}

void TakeShaped(Victim& victim, Bytes bytes, bool misaligned) {
  Fields fields(bytes);
  Request request;
  const auto op = static_cast<Op>(1 + fields.Get<uint8_t>() % 8);
  request.op = op;
  request.table = TableId(1 + fields.Get<uint8_t>() % kTables);
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
  std::vector<PartHeader> parts;
  std::vector<Key> keys;
  std::vector<float> values;
  for (size_t n = 1 + fields.Get<uint8_t>() % 5; n > 0; --n) {
    PartHeader part;
    const uint8_t where = fields.Get<uint8_t>();
    part.shard = ShardId(where % 3);
    part.view = ViewNumber(where < 200 ? 1 : where % 4);
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
      const TableSpec& spec = FirstMap()->FindTable(request.table)->spec;
      const size_t width = spec.row_width;
      size_t n_values = size_t{form} * 2;
      if (form < 240) n_values = std::max(part.n_keys, std::min(part.n_omitted, 70u)) * width;
      // Dense: what the ranges say, when they say something sane.
      if (form < 200 && spec.kind == TableKind::kDense) {
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
        values.push_back(value < 250 ? value : std::bit_cast<float>(fields.Get<uint32_t>()));
      }
    }
    parts.push_back(part);
  }
  request.parts = parts;
  request.keys = keys;
  request.values = values;
  std::vector<std::byte> head;
  EncodeRequestHead(request, &head);
  std::vector<ExactBytes> exact;
  exact.emplace_back(head, misaligned);
  if (!keys.empty()) exact.emplace_back(std::as_bytes(request.keys), misaligned);
  if (!values.empty()) exact.emplace_back(std::as_bytes(request.values), misaligned);
  std::vector<Bytes> frames;
  for (const ExactBytes& frame : exact) frames.push_back(frame.bytes());
  Request decoded;
  FASTPS_CHECK(victim.decoder.DecodeRequest(frames, &decoded).ok());
  FASTPS_CHECK(std::ranges::equal(decoded.keys, request.keys));
  victim.Submit(decoded);
}

void TakeReply(Victim& victim, std::span<const Bytes> frames) {
  Reply reply;
  if (!victim.decoder.DecodeReply(frames, &reply).ok()) return;
  const std::vector<Key> keys = {7, 8, 7, ~uint64_t{0}};
  for (const TableId table : {TableId(2), TableId(3)}) {
    const std::shared_ptr<const ShardPlan> plan = ShardPlan::Make(FirstMap(), table, Use::kWrite);
    const bool sparse = plan->spec().kind == TableKind::kSparse;
    KeySet set(keys, {{9, 9}});
    Status status;
    for (uint8_t op = 1; op <= 7; ++op) {
      std::shared_ptr<const Batch> batch;
      std::shared_ptr<KeySetState> state;
      if (static_cast<Op>(op) == Op::kSetLr) {
        batch = MakeShardValueBatch(*plan);
      } else if (static_cast<Op>(op) == Op::kStats) {
        batch = MakeShardBatch(*plan);
      } else if (static_cast<Op>(op) == Op::kScan) {
        batch = MakeScanBatch(*plan, ShardId(0), 0, *victim.buffers);
      } else if (sparse) {
        state = set.StateOn(plan, *victim.buffers, &status);
        batch = state->batch();
      } else {
        batch = MakeWholeBatch(*plan, *victim.buffers);
      }
      std::vector<float> values(batch->n_places());
      std::vector<uint8_t> flags(keys.size());
      if (!sparse && static_cast<Op>(op) == Op::kContains) continue;
      Call call(static_cast<Op>(op), plan, batch, {values.data(), values.data(), flags.data()},
                state);
      for (size_t i = 0; i < batch->messages().size(); ++i) (void)call.OnReply(i, reply);
    }
  }
}

}  // namespace fastps::fuzz
