#include "store/pending_rounds.h"

namespace fastps {
namespace {

Gradients SumOf(std::vector<Gradients>& pushes, const ShardData& data) {
  if (pushes.size() == 1) return std::move(pushes[0]);
  std::vector<const Gradients*> addends;
  for (const Gradients& push : pushes) addends.push_back(&push);
  return data.Sum(addends);
}

}  // namespace

void PendingRounds::Add(SessionId session, Round round, Selection selection,
                        std::span<const float> gradients, const ShardData& data) {
  Pushes& pushes = pushes_[{round, session}];
  pushes.push_back({{selection.begin(), selection.end()}, {gradients.begin(), gradients.end()}});
  bytes_ += pushes.back().bytes();
  if (pushes.size() < kPushesKeptMax) return;
  for (const Gradients& push : pushes) bytes_ -= push.bytes();
  Gradients sum = SumOf(pushes, data);
  bytes_ += sum.bytes();
  pushes.clear();
  pushes.push_back(std::move(sum));
}

std::optional<Gradients> PendingRounds::Fold(const std::vector<RoundMember>& members,
                                             const ShardData& data) {
  std::vector<Gradients> workers;
  for (const RoundMember& member : members) {
    const auto found = pushes_.find({folded_, member.session});
    if (found != pushes_.end()) workers.push_back(SumOf(found->second, data));
  }
  ++folded_.value;
  const auto open = pushes_.lower_bound({folded_, SessionId(0)});
  pushes_.erase(pushes_.begin(), open);
  bytes_ = 0;
  for (const auto& [whose, pushes] : pushes_) {
    for (const Gradients& push : pushes) bytes_ += push.bytes();
  }
  if (workers.empty()) return std::nullopt;
  return SumOf(workers, data);
}

}  // namespace fastps
