// Steps of the data sockets: requests and replies.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "client/key_set.h"
#include "client/shard_plan.h"
#include "fuzz/shapes.h"
#include "fuzz/victim.h"

namespace fastps::fuzz {
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
  Shaped shaped = ShapeRequest(fields, *FirstMap());
  const Request& request = shaped.View();
  const std::vector<ExactBytes> exact = shaped.Frames(misaligned);
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
