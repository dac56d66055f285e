#include "store/key_set_memory.h"

#include <utility>

namespace fastps {

const KeySetMemory::Places* KeySetMemory::Recall(const KeySetRef& ref, uint64_t version) {
  const auto found = known_.find(ref);
  if (found == known_.end() || found->second.version != version) return nullptr;
  return &found->second.places;
}

bool KeySetMemory::Remember(const KeySetRef& ref, uint64_t version, Places places,
                            size_t n_places_max) {
  if (CountOf(places) > n_places_max) return false;
  const auto [entry, is_new] = known_.try_emplace(ref);
  if (!is_new) n_places_ -= CountOf(entry->second.places);
  n_places_ += CountOf(places);
  entry->second = {version, std::move(places)};
  if (is_new) order_.push_back(ref);
  while (n_places_ > n_places_max && order_.size() > 1) {
    const KeySetRef oldest = order_.front();
    order_.pop_front();
    if (oldest == ref) {
      order_.push_back(ref);
      continue;
    }
    const auto forgotten = known_.find(oldest);
    if (forgotten == known_.end()) continue;
    n_places_ -= CountOf(forgotten->second.places);
    known_.erase(forgotten);
  }
  return true;
}

}  // namespace fastps
