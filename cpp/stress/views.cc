#include "stress/views.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <span>
#include <thread>

#include "base/clock.h"

namespace fastps::stress {
namespace {

constexpr int64_t kPatienceMs = 30'000;
constexpr int64_t kPauseMs = 20;

struct Where {
  TableId table;
  ShardId shard;
};

class Changer {
 public:
  Changer(Field& field, Where where, int64_t until_ms)
      : field_(field), ground_(*field.ground), where_(where), until_ms_(until_ms) {}

  // The view as it is, with `members`, unsealed, under the next number.
  void Commit(std::span<const ServerId> members) {
    ground_.ChangeView(where_.table, where_.shard, [&](ShardView& view) {
      ++view.number.value;
      std::ranges::fill(view.members, ServerId());
      std::ranges::copy(members, view.members.begin());
      view.n_members = static_cast<uint8_t>(members.size());
      view.joiner.reset();
      view.sealed = false;
    });
  }

  // Seals the view and waits until `servers` reported that, all the same index if `alike`.
  bool Seal(std::span<const ServerId> servers, bool alike) {
    const MapVersion sealed =
        ground_.ChangeView(where_.table, where_.shard, [](ShardView& view) { view.sealed = true; });
    return WaitUntil("members do not report", [&] {
      std::vector<ApplyIndex> indices;
      for (const ServerId server : servers) {
        const std::optional<ShardProgress> said = Said(server, sealed);
        if (!said || said->state == ShardProgress::State::kFilling) return false;
        indices.push_back(said->index);
      }
      return !alike ||
             std::ranges::adjacent_find(indices, std::ranges::not_equal_to()) == indices.end();
    });
  }

  bool Fill(ServerId joiner) {
    const MapVersion joined = ground_.ChangeView(
        where_.table, where_.shard, [joiner](ShardView& view) { view.joiner = joiner; });
    return WaitUntil("a joiner is not filled", [&] {
      const std::optional<ShardProgress> said = Said(joiner, joined);
      return said && said->state == ShardProgress::State::kFilled;
    });
  }

 private:
  // What the server reported of the view in force, under a map not older than `version`.
  std::optional<ShardProgress> Said(ServerId server, MapVersion version) {
    const auto said = ground_.LastReport(server, where_.table, where_.shard);
    if (!said || said->first < version) return std::nullopt;
    const ShardView view = ground_.ViewOf(where_.table, where_.shard);
    return said->second.view == view.number ? std::optional(said->second) : std::nullopt;
  }

  template <class Condition>
  bool WaitUntil(const char* failure, Condition condition) {
    const int64_t patience_ms = std::max(NowMs(), until_ms_) + kPatienceMs;
    while (!condition()) {
      if (NowMs() > patience_ms) {
        STRESS_FAIL(field_, "table %u, shard %u: %s", where_.table.value, where_.shard.value,
                    failure);
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  Field& field_;
  Ground& ground_;
  const Where where_;
  const int64_t until_ms_;
};

}  // namespace

uint64_t RunViews(Field& field, const std::vector<TableId>& tables, uint32_t n_servers,
                  uint64_t seed, int64_t until_ms) {
  std::vector<Where> shards;
  for (const TableId table : tables) {
    for (uint32_t shard = 0; shard < field.ground->NumShards(table); ++shard) {
      shards.push_back({table, ShardId(shard)});
    }
  }
  uint64_t n_views = 0;
  std::mt19937_64 random(seed);
  while (NowMs() < until_ms) {
    const Where where = shards[random() % shards.size()];
    const ShardView view = field.ground->ViewOf(where.table, where.shard);
    std::vector<ServerId> members(view.chain().begin(), view.chain().end());
    Changer changer(field, where, until_ms);
    ServerId joiner;
    if (members.size() > 1) {
      const auto gone = members.begin() + static_cast<std::ptrdiff_t>(random() % members.size());
      joiner = *gone;
      members.erase(gone);
      if (!changer.Seal(members, false)) break;
      changer.Commit(members);
      ++n_views;
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % kPauseMs));
    } else {
      joiner = ServerId(
          static_cast<uint32_t>((members[0].value + 1 + random() % (n_servers - 1)) % n_servers));
    }
    if (!changer.Fill(joiner)) break;
    const bool moves = view.n_members == 1;
    members.insert(members.begin() + static_cast<std::ptrdiff_t>(random() % (members.size() + 1)),
                   joiner);
    if (!changer.Seal(members, true)) break;
    if (moves) members = {joiner};
    changer.Commit(members);
    ++n_views;
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % kPauseMs));
  }
  return n_views;
}

}  // namespace fastps::stress
