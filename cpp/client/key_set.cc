#include "client/key_set.h"

namespace fastps {

KeySetState::KeySetState(KeySetSignature signature, std::shared_ptr<const ShardPlan> plan,
                         std::shared_ptr<const Batch> batch)
    : signature_(signature),
      plan_(std::move(plan)),
      batch_(std::move(batch)),
      known_(batch_->messages().size()) {}

void KeySetState::SetForgotten(size_t message) {
  known_[message].store(false, std::memory_order_relaxed);
  n_forgotten_.fetch_add(1, std::memory_order_relaxed);
}

std::shared_ptr<KeySetState> KeySet::StateOn(const std::shared_ptr<const ShardPlan>& plan,
                                             BufferPool& buffers, Status* status) {
  MutexLock lock(mutex_);
  std::shared_ptr<KeySetState>& state = states_[{plan->spec().id, plan->use}];
  if (state != nullptr && state->plan() == plan) return state;
  std::shared_ptr<const Batch> batch = MakeKeyBatch(*plan, keys_, buffers, status);
  if (batch == nullptr) return nullptr;
  // A restore gives tables new numbers: what was kept for the former ones is of no use.
  std::erase_if(states_, [&](const auto& each) {
    if (each.second == nullptr || &each.second == &state) return false;
    const ClusterMap& former = *each.second->plan()->map;
    return former.cluster_id == plan->map->cluster_id && former.epoch < plan->map->epoch;
  });
  state = std::make_shared<KeySetState>(signature_, plan, std::move(batch));
  return state;
}

}  // namespace fastps
