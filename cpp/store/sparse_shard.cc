// Sparse shards: an index from key to row, and rows of [value | slots | row slots]. A row of one
// float lives inside the index itself. What changes is noted for cuts (row_changes.h). Batches are
// worked in blocks: the index lines of the next block are fetched while the rows of this one are
// computed on.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/prefetch.h"
#include "data/xxh64.h"
#include "rules/initializer.h"
#include "store/key_index.h"
#include "store/key_set_memory.h"
#include "store/row_arena.h"
#include "store/row_changes.h"
#include "store/row_trial.h"
#include "store/shard_data.h"

namespace fastps {
namespace {

constexpr size_t kBlockKeys = 32;
// A shard remembers places for as many keys as it has rows, and for this many at least.
constexpr size_t kKnownPlacesMin = 65536;

class SparseShard final : public ShardData {
 public:
  SparseShard(const TableSpec* spec_of_table, std::shared_ptr<const UpdateRule> rule_of_table,
              PagePool* pool)
      : ShardData(spec_of_table, std::move(rule_of_table)),
        width_(spec().row_width),
        row_floats_(rule().row_floats(width_)),
        inline_rows_(row_floats_ == 1),
        index_(pool),
        arena_(pool, row_floats_),
        changes_(&index_, &arena_, pool, row_floats_) {}

  bool is_sparse() const override { return true; }
  size_t row_width() const override { return width_; }
  uint64_t n_rows() const override { return index_.size(); }
  uint64_t bytes() const override {
    return index_.bytes() + arena_.bytes() + key_sets_.bytes() + changes_.bytes();
  }

  Code Check(Selection) const override { return Code::kOk; }
  size_t ValueCount(Selection keys) const override { return keys.size() * width_; }

  void Pull(Selection keys, float* values) override {
    ForEachBlock(keys, [&](size_t begin, size_t n) {
      std::array<float*, kBlockKeys> rows;
      FindRows(keys.subspan(begin, n), rows.data());
      for (size_t i = 0; i < n; ++i) {
        float* const value = values + (begin + i) * width_;
        if (rows[i] == nullptr) {
          FillInitial(spec().initializer, keys[begin + i], 0, value, width_);
        } else {
          CopyValue(rows[i], value);
        }
      }
    });
  }

  std::optional<uint64_t> Push(Selection keys, const float* gradients, bool are_tame) override {
    if (MustTry(are_tame, keys.size(), index_.size())) return TryPush(keys, gradients);
    Apply(keys, gradients);
    return {};
  }

  LeftOut PushWhatFits(Selection keys, const float* gradients) override {
    const bool are_tame =
        ActiveKernels().all_within(gradients, keys.size() * width_, kTameGradient);
    if (!MustTry(are_tame, keys.size(), index_.size())) {
      Apply(keys, gradients);
      return {};
    }
    LeftOut left_out;
    RowTrial trial = Tried(keys, gradients);
    std::vector<Key> fitting;
    std::vector<const float*> rows;
    for (size_t i = 0; i < trial.keys().size(); ++i) {
      if (trial.Fits(i)) {
        fitting.push_back(trial.keys()[i]);
        rows.push_back(trial.row(i));
      } else if (left_out.n++ == 0) {
        left_out.first = trial.keys()[i];
      }
    }
    StoreRows(fitting, rows);
    return left_out;
  }

  Gradients Sum(std::span<const Gradients* const> addends) const override {
    return SumSparse(addends, width_);
  }

  void Assign(Selection keys, const float* values) override {
    ForEachBlock(keys, [&](size_t begin, size_t n) {
      std::array<float*, kBlockKeys> rows;
      FindOrCreateRows(keys.subspan(begin, n), rows.data());
      for (size_t i = 0; i < n; ++i) {
        std::memcpy(rows[i], values + (begin + i) * width_, width_ * sizeof(float));
        ResetState(rows[i]);
      }
    });
    NoteAssigned(values, keys.size() * width_);
  }

  void Contains(std::span<const Key> keys, uint8_t* flags) override {
    ForEachBlock(keys, [&](size_t begin, size_t n) {
      for (size_t i = begin; i < begin + n; ++i) flags[i] = index_.Find(keys[i]) != nullptr;
    });
  }

  uint64_t Remove(std::span<const Key> keys) override {
    uint64_t removed = 0;
    for (const Key key : keys) {
      if (changes_.is_on()) {
        uint32_t* const found = index_.Find(key);
        if (found == nullptr) continue;
        changes_.BeforeRemove(key, found);
      }
      uint32_t payload = 0;
      if (!index_.Erase(key, &payload)) continue;
      if (!inline_rows_) arena_.Free(payload);
      ++removed;
      ++n_removed_ever_;
    }
    return removed;
  }

  // While a cut is read keys must come with their writes: rows are saved by key before they change.
  bool Knows(const KeySetRef& ref, size_t n_keys) override {
    if (changes_.is_cutting()) return false;
    const KeySetMemory::Places* const places = key_sets_.Recall(ref, PlacesVersion());
    return places != nullptr && places->size() == n_keys;
  }

  void PullKnown(const KeySetRef& ref, float* values) override {
    ForEachKnownBlock(PlacesOf(ref), [&](float* const* rows, size_t begin, size_t n) {
      for (size_t i = 0; i < n; ++i) CopyValue(rows[i], values + (begin + i) * width_);
    });
  }

  std::optional<uint64_t> PushKnown(const KeySetRef& ref, const float* gradients,
                                    bool are_tame) override {
    const std::span<const uint32_t> places = PlacesOf(ref);
    if (MustTry(are_tame, places.size(), index_.size())) return TryPushAt(places, gradients);
    ForEachKnownBlock(places, [&](float* const* rows, size_t begin, size_t n) {
      if (changes_.is_on()) changes_.BeforeWriteAt(places.subspan(begin, n));
      rule().ApplyRows(rows, gradients + begin * width_, n, width_);
    });
    return {};
  }

  bool Remember(const KeySetRef& ref, Selection keys) override {
    if (changes_.is_cutting()) return false;  // it would be asked for keys each time
    KeySetMemory::Places places;
    places.reserve(keys.size());
    for (const Key key : keys) {
      const uint32_t* const payload = index_.Find(key);
      // A key that is absent now may come later: such a list is never remembered.
      if (payload == nullptr) return false;
      places.push_back(inline_rows_ ? index_.PlaceOf(payload) : *payload);
    }
    return key_sets_.Remember(ref, PlacesVersion(), std::move(places),
                              std::max(index_.size(), kKnownPlacesMin));
  }

  void ForgetKeySets(const std::function<bool(SessionId)>& is_live) override {
    key_sets_.ForgetSessions(is_live);
  }

  void WriteRows(ImageWriter* image) const override {
    const size_t row_bytes = row_floats_ * sizeof(float);
    const size_t n_bytes = index_.size() * (sizeof(Key) + row_bytes);
    image->Reserve(sizeof(uint64_t) + n_bytes + sizeof(uint64_t));  // the checksum follows
    image->Put(uint64_t{index_.size()});
    std::byte* to = image->Extend(n_bytes);
    ForEachRow([&](Key key, const float* row) {
      std::memcpy(to, &key, sizeof(key));
      std::memcpy(to + sizeof(key), row, row_bytes);
      to += sizeof(key) + row_bytes;
    });
  }

  bool ReadRows(ImageReader* image) override {
    const size_t row_bytes = row_floats_ * sizeof(float);
    uint64_t n = 0;
    Bytes rows;
    if (!image->Get(&n) || !image->Cut(n, sizeof(Key) + row_bytes, &rows)) return false;
    if (image->remaining() > 0) return false;
    index_.ReserveFor(n);
    std::vector<Key> loaded;
    loaded.reserve(n);
    for (const std::byte* from = rows.data(); loaded.size() < n; from += sizeof(Key) + row_bytes) {
      Key key = 0;
      std::memcpy(&key, from, sizeof(key));
      bool is_legal = index_.Find(key) == nullptr;
      if (is_legal) {
        float* const row = RowOf(InsertRow(key));
        std::memcpy(row, from + sizeof(key), row_bytes);
        loaded.push_back(key);
        NoteStored(row, row_floats_);
        is_legal = AllFinite(ActiveKernels(), row, row_floats_);
      }
      if (!is_legal) {
        Remove(loaded);
        return false;
      }
    }
    return true;
  }

  bool BeginCut(bool is_full) override { return changes_.Begin(is_full); }
  void ReadCut(size_t n_max, CutSlice* slice) override { changes_.Read(n_max, slice); }
  bool DropCut() override { return changes_.Drop(); }
  void ForgetCuts() override { changes_.Forget(); }

  void ReserveRows(size_t n) override { index_.ReserveFor(n - std::min(n, index_.size())); }

  void LoadRows(std::span<const Key> keys, const float* rows) override {
    ForEachBlock(keys, [&](size_t begin, size_t n) {
      index_.ReserveFor(n);
      for (size_t i = begin; i < begin + n; ++i) {
        uint32_t* payload = index_.Find(keys[i]);
        if (payload == nullptr) payload = InsertRow(keys[i]);
        std::memcpy(RowOf(payload), rows + i * row_floats_, row_floats_ * sizeof(float));
      }
    });
    NoteStored(rows, keys.size() * row_floats_);
  }

  uint64_t Digest() const override {
    const size_t row_bytes = row_floats_ * sizeof(float);
    uint64_t sum = 0;
    ForEachRow([&](Key key, const float* row) {
      sum += Xxh64({reinterpret_cast<const char*>(row), row_bytes}, MixKey(key));
    });
    return sum;
  }

  void Scan(uint64_t position, size_t n_max, ScanBatch* batch) override {
    batch->next_position =
        index_.Scan(position, n_max, &batch->finished, [&](Key key, const uint32_t& payload) {
          const float* const value = RowOf(payload);
          batch->keys.push_back(key);
          batch->values.insert(batch->values.end(), value, value + width_);
        });
  }

 private:
  // Calls work(begin, n) for blocks of the keys, having fetched the block's index lines before.
  template <class Work>
  void ForEachBlock(std::span<const Key> keys, Work work) {
    for (size_t i = 0; i < std::min(kBlockKeys, keys.size()); ++i) index_.Prefetch(keys[i]);
    for (size_t begin = 0; begin < keys.size(); begin += kBlockKeys) {
      const size_t end = std::min(begin + kBlockKeys, keys.size());
      const size_t next_end = std::min(end + kBlockKeys, keys.size());
      for (size_t i = end; i < next_end; ++i) index_.Prefetch(keys[i]);
      work(begin, end - begin);
    }
  }

  // Rows in the arena keep their numbers until they are removed; rows inside the index also move
  // when it grows.
  uint64_t PlacesVersion() const { return inline_rows_ ? index_.version() : n_removed_ever_; }

  float* RowAt(uint32_t place) {
    return inline_rows_ ? reinterpret_cast<float*>(index_.At(place)) : arena_.Row(place);
  }

  // Requires: Knows(ref).
  std::span<const uint32_t> PlacesOf(const KeySetRef& ref) {
    return *key_sets_.Recall(ref, PlacesVersion());
  }

  // Calls work(rows, begin, n) for blocks of the known rows, having fetched each block before.
  template <class Work>
  void ForEachKnownBlock(std::span<const uint32_t> places, Work work) {
    std::array<float*, kBlockKeys> rows[2];
    const auto fetch = [&](size_t begin, std::array<float*, kBlockKeys>* block) {
      const size_t n = std::min(kBlockKeys, places.size() - begin);
      for (size_t i = 0; i < n; ++i) {
        (*block)[i] = RowAt(places[begin + i]);
        PrefetchRow((*block)[i], row_floats_);
      }
    };
    if (!places.empty()) fetch(0, &rows[0]);
    for (size_t begin = 0; begin < places.size(); begin += kBlockKeys) {
      const size_t next = begin + kBlockKeys;
      if (next < places.size()) fetch(next, &rows[next / kBlockKeys % 2]);
      const size_t n = std::min(kBlockKeys, places.size() - begin);
      work(rows[begin / kBlockKeys % 2].data(), begin, n);
    }
  }

  // Calls visit(key, row) for all rows, each fetched some rows before its turn: rows lie in the
  // order in which they were made, which is not that of the index.
  template <class Visit>
  void ForEachRow(Visit visit) const {
    std::array<std::pair<Key, const float*>, kBlockKeys> fetched;
    size_t n = 0;
    index_.ForEach([&](Key key, const uint32_t& payload) {
      auto& [next_key, next_row] = fetched[n % kBlockKeys];
      if (n >= kBlockKeys) visit(next_key, next_row);
      next_key = key;
      next_row = RowOf(payload);
      if (!inline_rows_) PrefetchRow(next_row, row_floats_);
      ++n;
    });
    for (size_t i = n - std::min(n, kBlockKeys); i < n; ++i) {
      visit(fetched[i % kBlockKeys].first, fetched[i % kBlockKeys].second);
    }
  }

  float* RowOf(uint32_t* payload) const {
    return inline_rows_ ? reinterpret_cast<float*>(payload) : arena_.Row(*payload);
  }

  const float* RowOf(const uint32_t& payload) const {
    return RowOf(const_cast<uint32_t*>(&payload));
  }

  void CopyValue(const float* row, float* value) const {
    if (width_ == 1) {
      *value = *row;
    } else {
      std::memcpy(value, row, width_ * sizeof(float));
    }
  }

  void FindRows(std::span<const Key> keys, float** rows) {
    for (size_t i = 0; i < keys.size(); ++i) {
      uint32_t* const payload = index_.Find(keys[i]);
      rows[i] = payload == nullptr ? nullptr : RowOf(payload);
      if (!inline_rows_ && rows[i] != nullptr) PrefetchRow(rows[i], row_floats_);
    }
  }

  // Rows of a small arena move when it grows, so they are numbered first and pointed at after.
  void FindOrCreateRows(std::span<const Key> keys, float** rows) {
    index_.ReserveFor(keys.size());
    std::array<uint32_t*, kBlockKeys> payloads;
    for (size_t i = 0; i < keys.size(); ++i) {
      payloads[i] = index_.Find(keys[i]);
      if (payloads[i] == nullptr) payloads[i] = CreateRow(keys[i]);
    }
    if (changes_.is_on()) changes_.BeforeWrite(keys, payloads.data());
    for (size_t i = 0; i < keys.size(); ++i) {
      rows[i] = RowOf(payloads[i]);
      if (!inline_rows_) PrefetchRow(rows[i], row_floats_);
    }
  }

  void Apply(Selection keys, const float* gradients) {
    ForEachBlock(keys, [&](size_t begin, size_t n) {
      std::array<float*, kBlockKeys> rows;
      FindOrCreateRows(keys.subspan(begin, n), rows.data());
      rule().ApplyRows(rows.data(), gradients + begin * width_, n, width_);
    });
  }

  bool AreAllWithin(float most) const override {
    const Kernels& kernels = ActiveKernels();
    bool are_within = true;
    ForEachRow([&](Key, const float* row) {
      are_within = are_within && kernels.all_within(row, row_floats_, most);
    });
    return are_within;
  }

  // The push on trial.
  RowTrial Tried(Selection keys, const float* gradients) {
    RowTrial trial(keys, row_floats_);
    for (size_t i = 0; i < trial.keys().size(); ++i) {
      const Key key = trial.keys()[i];
      const uint32_t* const payload = index_.Find(key);
      if (payload != nullptr) {
        std::memcpy(trial.row(i), RowOf(*payload), row_floats_ * sizeof(float));
      } else {
        FillNew(key, trial.row(i));
      }
    }
    trial.Run<kBlockKeys>(rule(), gradients, width_);
    return trial;
  }

  std::optional<uint64_t> TryPush(Selection keys, const float* gradients) {
    RowTrial trial = Tried(keys, gradients);
    if (const auto unfit = trial.FirstUnfit()) return *unfit * width_;
    std::vector<const float*> rows;
    for (size_t i = 0; i < trial.keys().size(); ++i) rows.push_back(trial.row(i));
    StoreRows(trial.keys(), rows);
    return {};
  }

  // The same for rows known by a key set: their places stand for keys.
  std::optional<uint64_t> TryPushAt(std::span<const uint32_t> places, const float* gradients) {
    RowTrial trial(std::vector<Key>(places.begin(), places.end()), row_floats_);
    const size_t row_bytes = row_floats_ * sizeof(float);
    const size_t n_rows = trial.keys().size();
    const auto place_of = [&](size_t i) { return static_cast<uint32_t>(trial.keys()[i]); };
    for (size_t i = 0; i < n_rows; ++i) std::memcpy(trial.row(i), RowAt(place_of(i)), row_bytes);
    trial.Run<kBlockKeys>(rule(), gradients, width_);
    if (const auto unfit = trial.FirstUnfit()) return *unfit * width_;
    if (changes_.is_on()) changes_.BeforeWriteAt(places);
    for (size_t i = 0; i < n_rows; ++i) {
      std::memcpy(RowAt(place_of(i)), trial.row(i), row_bytes);
      NoteStored(trial.row(i), row_floats_);
    }
    return {};
  }

  // Rows with their state in the place of those that may be there. Requires: the keys are distinct.
  void StoreRows(std::span<const Key> keys, std::span<const float* const> from) {
    ForEachBlock(keys, [&](size_t begin, size_t n) {
      std::array<float*, kBlockKeys> rows;
      FindOrCreateRows(keys.subspan(begin, n), rows.data());
      for (size_t i = 0; i < n; ++i) {
        std::memcpy(rows[i], from[begin + i], row_floats_ * sizeof(float));
        NoteStored(rows[i], row_floats_);
      }
    });
  }

  // A row of an absent key, its floats undefined. Requires: as KeyIndex::Insert.
  uint32_t* InsertRow(Key key) {
    uint32_t* const payload = index_.Insert(key);
    if (!inline_rows_) *payload = arena_.Allocate();
    return payload;
  }

  uint32_t* CreateRow(Key key) {
    uint32_t* const payload = InsertRow(key);
    if (changes_.is_on()) changes_.OnCreate(key, payload);
    FillNew(key, RowOf(payload));
    return payload;
  }

  void FillNew(Key key, float* row) const {
    FillInitial(spec().initializer, key, 0, row, width_);
    ResetState(row);
  }

  void ResetState(float* row) const {
    float* const row_slots = row + width_ * (1 + rule().n_slots());
    rule().ResetState({row, row + width_, row + 2 * width_, row_slots, row_slots + 1}, 1, width_);
  }

  const size_t width_;
  const size_t row_floats_;
  const bool inline_rows_;
  KeyIndex index_;
  RowArena arena_;
  uint64_t n_removed_ever_ = 0;
  KeySetMemory key_sets_;
  RowChanges changes_;
};

}  // namespace

std::unique_ptr<ShardData> MakeSparseShard(const TableSpec* spec,
                                           std::shared_ptr<const UpdateRule> rule, PagePool* pool) {
  return std::make_unique<SparseShard>(spec, std::move(rule), pool);
}

}  // namespace fastps
