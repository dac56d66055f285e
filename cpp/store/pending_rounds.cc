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

void PendingRounds::Write(ImageWriter* image) const {
  image->Put(static_cast<uint32_t>(pushes_.size()));
  for (const auto& [whose, pushes] : pushes_) {
    image->Put(whose.first.value);
    image->Put(whose.second.value);
    image->Put(static_cast<uint32_t>(pushes.size()));
    for (const Gradients& push : pushes) {
      image->Put(uint64_t{push.selection.size()});
      image->Put(uint64_t{push.values.size()});
      image->PutAll(std::span<const Key>(push.selection));
      image->PutAll(std::span<const float>(push.values));
    }
  }
}

bool PendingRounds::Read(ImageReader* image, const ShardData& data) {
  uint32_t n = 0;
  if (!image->Get(&n)) return false;
  for (uint32_t i = 0; i < n; ++i) {
    std::pair<Round, SessionId> whose;
    uint32_t n_pushes = 0;
    if (!image->Get(&whose.first.value) || !image->Get(&whose.second.value) ||
        !image->Get(&n_pushes)) {
      return false;
    }
    if (whose.first < folded_ || n_pushes == 0 || n_pushes >= kPushesKeptMax) return false;
    if (!pushes_.empty() && whose <= pushes_.rbegin()->first) return false;
    Pushes pushes(n_pushes);
    for (Gradients& push : pushes) {
      if (!ReadPush(image, data, &push)) return false;
      bytes_ += push.bytes();
    }
    pushes_.emplace_hint(pushes_.end(), whose, std::move(pushes));
  }
  return true;
}

bool PendingRounds::ReadPush(ImageReader* image, const ShardData& data, Gradients* push) {
  uint64_t n_selection = 0, n_values = 0;
  return image->Get(&n_selection) && image->Get(&n_values) &&
         image->GetAll(n_selection, &push->selection) && image->GetAll(n_values, &push->values) &&
         data.Check(push->selection) == Code::kOk && data.ValueCount(push->selection) == n_values;
}

}  // namespace fastps
