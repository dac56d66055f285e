#include "server/request_handler.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <utility>

#include "base/limits.h"
#include "kernels/kernels.h"
#include "rules/initializer.h"
#include "server/write_kinds.h"

namespace fastps {
namespace {

constexpr size_t kReplyValuesMax = limits::kFrameBytesMax / sizeof(float);
constexpr size_t kScanValuesGoal = size_t{4 << 20} / sizeof(float);

void SetCode(PartResult* result, Code code) { result->code = static_cast<uint8_t>(code); }
bool IsOk(const PartResult& result) { return result.code == static_cast<uint8_t>(Code::kOk); }

// Copies a vector into a pooled buffer, which can leave as a frame.
template <class T>
Buffer ToBuffer(const std::vector<T>& values, BufferPool& pool) {
  Buffer buffer = pool.Allocate(values.size() * sizeof(T));
  std::ranges::copy(values, buffer.As<T>().begin());
  return buffer;
}

// Serves what the map places here; for servers inside one process.
class PlainRules final : public PartRules {
 public:
  explicit PlainRules(const ClusterMap& map) : map_(map) {}
  Code Admit(Op, TableId table, const PartHeader& part) override {
    const ShardView& view = map_.FindTable(table)->views[part.shard.value];
    return view.number == part.view ? Code::kOk : Code::kMoved;
  }
  void OnWritten(TableId, ShardId, size_t, const Write&, const WriteResult&) override {}

 private:
  const ClusterMap& map_;
};

// What a table is stays; only where its shards lie changes.
bool IsSameTable(const TableSpec& a, const TableSpec& b) {
  return a.kind == b.kind && a.row_width == b.row_width && a.n_rows == b.n_rows &&
         a.num_shards == b.num_shards && a.rule == b.rule && a.initializer == b.initializer &&
         a.rounds == b.rounds;
}

enum class Role { kNone, kMember, kJoiner };

Role RoleIn(const ShardView& view, ServerId self) {
  if (view.HasMember(self)) return Role::kMember;
  return view.joiner == self ? Role::kJoiner : Role::kNone;
}

// Whether what a server holds of a shard is of use under the next view. A member of a chain was a
// member or filled before. Who is filled anew, or by another tail, starts empty.
bool GoesOn(const ShardView& former, const ShardView& next, ServerId self) {
  if (RoleIn(next, self) == Role::kMember) return true;
  return RoleIn(former, self) == Role::kJoiner && former.number == next.number;
}

}  // namespace

RequestHandler::RequestHandler(BootId boot_id)
    : boot_id_(boot_id),
      snapshot_(std::make_shared<const Snapshot>(
          Snapshot{std::make_shared<const ClusterMap>(), nullptr, {}})) {}

std::shared_ptr<const Snapshot> RequestHandler::snapshot() const {
  MutexLock lock(mutex_);
  return snapshot_;
}

MapVersion RequestHandler::map_version() const { return snapshot()->map->version; }

uint64_t RequestHandler::n_rows() const {
  const std::shared_ptr<const Snapshot> snapshot = this->snapshot();
  uint64_t rows = 0;
  for (const auto& [id, table] : snapshot->tables) {
    for (const auto& shard : table->shards) rows += shard == nullptr ? 0 : shard->figures().rows;
  }
  return rows;
}

Status RequestHandler::InstallMap(std::shared_ptr<const ClusterMap> map) {
  // Two at a time could make the shards of a new table twice and drop what one of them was told.
  MutexLock install(install_mutex_);
  const std::shared_ptr<const Snapshot> former = snapshot();
  if (map->version <= former->map->version) return {};
  if (map->epoch < former->map->epoch) {
    return Status(Code::kWrongCluster, "a map of an epoch that is over");
  }
  const auto self = std::ranges::find(map->servers, boot_id_, &ServerInfo::boot_id);
  Snapshot next{map, self == map->servers.end() ? nullptr : &*self, {}};
  // A restore begins with nothing: what tables and groups were is over with their epoch.
  const bool goes_on = map->epoch == former->map->epoch;
  auto former_books = books_;
  if (!goes_on) books_.clear();
  if (Status status = MakeTables(goes_on ? former.get() : nullptr, &next); !status.ok()) {
    books_ = std::move(former_books);
    return status;
  }
  const auto installed = std::make_shared<const Snapshot>(std::move(next));
  MutexLock lock(mutex_);
  snapshot_ = installed;
  return {};
}

Status RequestHandler::MakeTables(const Snapshot* former, Snapshot* next) {
  for (const TableRoute& route : next->map->tables) {
    std::shared_ptr<const ServedTable> known;
    const TableRoute* former_route = nullptr;
    if (former != nullptr && former->tables.contains(route.spec.id)) {
      known = former->tables.at(route.spec.id);
      former_route = former->map->FindTable(route.spec.id);
    }
    if (known != nullptr && !IsSameTable(*known->spec, route.spec)) {
      return Status(Code::kMalformed, "a map has another table under the number " +
                                          std::to_string(route.spec.id.value));
    }
    if (known != nullptr && (next->self == nullptr || former_route->views == route.views)) {
      next->tables.emplace(route.spec.id, std::move(known));
      continue;
    }
    if (next->self == nullptr) continue;
    Status status;
    std::shared_ptr<const ServedTable> table =
        MakeTable(route, next->self->id, former_route, std::move(known), &status);
    if (!status.ok()) return status;
    next->tables.emplace(route.spec.id, std::move(table));
  }
  return {};
}

std::shared_ptr<const ServedTable> RequestHandler::MakeTable(
    const TableRoute& route, ServerId self, const TableRoute* former_route,
    std::shared_ptr<const ServedTable> former, Status* status) {
  auto table = std::make_shared<ServedTable>();
  if (former != nullptr) {
    table->spec = former->spec;
    table->rule = former->rule;
  } else {
    table->spec = std::make_shared<const TableSpec>(route.spec);
    *status = CheckInitializer(route.spec.initializer);
    if (!status->ok()) return nullptr;
    table->rule = MakeUpdateRule(route.spec.rule, ActiveKernels(), status);
    if (table->rule == nullptr) return nullptr;
    *status = CheckInitialState(route.spec.initializer, route.spec.rule);
    if (!status->ok()) return nullptr;
  }
  table->shards.resize(route.spec.num_shards);
  for (uint32_t i = 0; i < route.spec.num_shards; ++i) {
    const ShardView& view = route.views[i];
    if (RoleIn(view, self) == Role::kNone) continue;
    const std::shared_ptr<Shard> held = former == nullptr ? nullptr : former->shards[i];
    table->shards[i] = held != nullptr && GoesOn(former_route->views[i], view, self)
                           ? held
                           : MakeShard(*table, ShardId(i));
  }
  return table;
}

RoundBook& RequestHandler::BookOf(GroupId group) {
  std::shared_ptr<RoundBook>& book = books_[group];
  if (book == nullptr) book = std::make_shared<RoundBook>();
  return *book;
}

std::shared_ptr<Shard> RequestHandler::MakeShard(const ServedTable& table, ShardId shard) {
  const TableSpec* const spec = table.spec.get();
  std::unique_ptr<ShardData> data = spec->kind == TableKind::kSparse
                                        ? MakeSparseShard(spec, table.rule, &pages_)
                                        : MakeDenseShard(spec, shard, table.rule, &pages_);
  std::unique_ptr<Shard> made;
  if (spec->rounds) {
    BookOf(spec->rounds->group);
    made =
        std::make_unique<Shard>(std::move(data), books_[spec->rounds->group], spec->rounds->first);
  } else {
    made = std::make_unique<Shard>(std::move(data));
  }
  // The shard's rows point at the spec.
  struct Held {
    std::shared_ptr<const TableSpec> spec;
    std::unique_ptr<Shard> shard;
  };
  const auto held = std::make_shared<Held>(Held{table.spec, std::move(made)});
  return std::shared_ptr<Shard>(held, held->shard.get());
}

void RequestHandler::ForgetEndedSessions() {
  const std::shared_ptr<const Snapshot> snapshot = this->snapshot();
  const auto is_live = [&](SessionId session) {
    return session > snapshot->map->highest_session || snapshot->map->HasSession(session);
  };
  for (const auto& [id, table] : snapshot->tables) {
    for (const auto& shard : table->shards) {
      if (shard != nullptr) shard->ForgetSessions(is_live);
    }
  }
}

void RequestHandler::StartHearingAt(uint64_t heard) {
  heard_ = heard;
  taken_ = heard;
}

void RequestHandler::CloseRounds(RoundsNotice notice) {
  MutexLock install(install_mutex_);
  const std::shared_ptr<const Snapshot> snapshot = this->snapshot();
  if (notice.cluster_id != snapshot->map->cluster_id ||
      notice.map_version > snapshot->map->version || notice.first_number > taken() + 1) {
    return;
  }
  const size_t n_known = std::min(taken() + 1 - notice.first_number, notice.rounds.size());
  const std::span<ClosedRound> news = std::span(notice.rounds).subspan(n_known);
  for (ClosedRound& closed : news) {
    BookOf(closed.group).Close(closed.round, std::move(closed.members));
    MutexLock lock(rounds_mutex_);
    closed_.emplace_back(closed.group, closed.round);
    ++taken_;
  }
  ForgetRounds(std::min(notice.forgotten, heard()), *snapshot);
}

void RequestHandler::ForgetRounds(uint64_t forgotten, const Snapshot& snapshot) {
  {
    MutexLock lock(rounds_mutex_);
    if (closed_.empty() || taken() - closed_.size() >= forgotten) return;
  }
  // All servers have folded these. A shard that joins here may be behind, and come to lead.
  std::map<GroupId, Round> needed;
  for (const auto& [id, table] : snapshot.tables) {
    if (!table->spec->rounds) continue;
    const auto [least, is_new] =
        needed.try_emplace(table->spec->rounds->group, Round(std::numeric_limits<uint64_t>::max()));
    for (const auto& shard : table->shards) {
      if (shard != nullptr) least->second = std::min(least->second, shard->folded());
    }
  }
  MutexLock lock(rounds_mutex_);
  while (!closed_.empty() && taken() - closed_.size() < forgotten) {
    const auto [group, round] = closed_.front();
    const auto least = needed.find(group);
    if (least != needed.end() && least->second <= round) return;
    if (const auto book = books_.find(group); book != books_.end()) book->second->Forget(round);
    closed_.pop_front();
  }
}

void RequestHandler::FoldClosed() {
  const std::shared_ptr<const Snapshot> snapshot = this->snapshot();
  for (const auto& [id, table] : snapshot->tables) {
    if (!table->spec->rounds) continue;
    for (const auto& shard : table->shards) {
      if (shard != nullptr) shard->FoldClosed();
    }
  }
  heard_ = taken();
}

void RequestHandler::Settle(const std::map<GroupId, Round>& folded) {
  MutexLock lock(rounds_mutex_);
  while (heard() < taken()) {
    const auto& [group, round] = closed_[closed_.size() - (taken() - heard())];
    const auto found = folded.find(group);
    if (found != folded.end() && found->second <= round) return;
    ++heard_;
  }
}

Code RequestHandler::CheckMessage(const Request& request, const ClusterMap& map) const {
  if (request.stamp.cluster_id != map.cluster_id || request.stamp.epoch != map.epoch ||
      request.stamp.boot_id != boot_id_) {
    return Code::kWrongCluster;
  }
  if (request.session > map.highest_session) return Code::kRetry;
  if (IsWrite(request.op) && !map.HasSession(request.session)) return Code::kSessionEnded;
  return Code::kOk;
}

std::vector<RequestHandler::Part> RequestHandler::FindParts(const Request& request,
                                                            const ServedTable& table,
                                                            PartRules& rules,
                                                            OwnedReply* reply) const {
  std::vector<Part> parts;
  parts.reserve(request.parts.size());
  reply->parts.resize(request.parts.size());
  size_t keys_begin = 0, values_begin = 0;
  for (size_t i = 0; i < request.parts.size(); ++i) {
    const PartHeader& header = request.parts[i];
    Part part{&header,
              nullptr,
              request.keys.subspan(keys_begin, header.n_keys),
              request.values.subspan(values_begin, header.n_values),
              {{request.session, request.key_set, header.set_part}, header.n_omitted},
              request.argument == 0 ? Step() : Step(Round(request.argument - 1))};
    keys_begin += header.n_keys;
    values_begin += header.n_values;
    reply->parts[i].shard = header.shard;
    if (header.shard.value >= table.spec->num_shards) {
      SetCode(&reply->parts[i], Code::kShapeMismatch);
    } else if (table.shards[header.shard.value] == nullptr) {
      SetCode(&reply->parts[i], Code::kMoved);
    } else {
      const Code code = rules.Admit(request.op, table.spec->id, header);
      SetCode(&reply->parts[i], code);
      if (code == Code::kOk) part.shard = table.shards[header.shard.value].get();
    }
    parts.push_back(part);
  }
  return parts;
}

void RequestHandler::Submit(const Request& request, ReplySink& replies) {
  const std::shared_ptr<const Snapshot> snapshot = this->snapshot();
  PlainRules rules(*snapshot->map);
  replies.OnReply(Handle(request, *snapshot, rules));
}

OwnedReply RequestHandler::Handle(const Request& request, const Snapshot& snapshot,
                                  PartRules& rules) {
  n_requests_.fetch_add(1, std::memory_order_relaxed);
  OwnedReply reply;
  reply.request_id = request.request_id;
  reply.cluster_id = snapshot.map->cluster_id;
  reply.boot_id = boot_id_;
  reply.map_version = snapshot.map->version;
  reply.code = CheckMessage(request, *snapshot.map);
  const auto found = snapshot.tables.find(request.table);
  if (reply.code == Code::kOk && found == snapshot.tables.end()) {
    reply.code =
        request.stamp.map_version > snapshot.map->version ? Code::kRetry : Code::kTableNotFound;
  }
  if (reply.code == Code::kOk) {
    const ServedTable& table = *found->second;
    const std::vector<Part> parts = FindParts(request, table, rules, &reply);
    switch (request.op) {
      case Op::kPull:
        HandlePull(parts, &reply);
        break;
      case Op::kPush:
      case Op::kAssign:
      case Op::kRemove:
      case Op::kSetLr:
        HandleWrite(request, parts, rules, &reply);
        break;
      case Op::kContains:
        HandleContains(request, parts, &reply);
        break;
      case Op::kScan:
        HandleScan(request, parts, table, &reply);
        break;
      case Op::kStats:
        HandleStats(parts, &reply);
        break;
    }
  }
  return reply;
}

void RequestHandler::HandlePull(std::span<const Part> parts, OwnedReply* reply) {
  size_t n_values = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].shard == nullptr) continue;
    // A stranger may ask for many times the bytes it sends. The product cannot overflow: counts
    // have 32 bits and widths are bounded by kRowWidthMax.
    size_t count = 0;
    Code code = parts[i].shard->CountValues(parts[i].selection, parts[i].key_set, &count);
    if (count > kReplyValuesMax - n_values) code = Code::kShapeMismatch;
    SetCode(&reply->parts[i], code);
    if (code != Code::kOk) continue;
    reply->parts[i].n_values = static_cast<uint32_t>(count);
    n_values += count;
  }
  reply->values = buffers_->Allocate(n_values * sizeof(float));
  size_t n_pulled = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    PartResult& result = reply->parts[i];
    if (parts[i].shard == nullptr || !IsOk(result)) continue;
    float* const values = reply->values.As<float>().data() + n_pulled;
    const PullResult pulled =
        parts[i].shard->Pull(parts[i].selection, parts[i].key_set, parts[i].step, values);
    SetCode(&result, pulled.code);
    result.remembered = pulled.remembered;
    result.detail = pulled.left_out_in;
    // Places that were known a moment ago may be gone, with another thread's removal.
    if (pulled.code != Code::kOk) result.n_values = 0;
    n_pulled += result.n_values;
  }
  reply->values.Truncate(n_pulled * sizeof(float));
}

void RequestHandler::HandleWrite(const Request& request, std::span<const Part> parts,
                                 PartRules& rules, OwnedReply* reply) {
  const Write::Kind kind = KindOf(request.op);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].shard == nullptr) continue;
    const Write write{kind,
                      request.session,
                      parts[i].header->sequence,
                      parts[i].selection,
                      parts[i].values,
                      parts[i].key_set,
                      parts[i].step};
    const WriteResult result = parts[i].shard->Apply(write);
    rules.OnWritten(request.table, parts[i].header->shard, i, write, result);
    SetCode(&reply->parts[i], result.code);
    reply->parts[i].remembered = result.remembered;
    reply->parts[i].detail = result.detail;
  }
}

void RequestHandler::HandleContains(const Request& request, std::span<const Part> parts,
                                    OwnedReply* reply) {
  // One flag per key of the request, those of refused parts included: they stay 0.
  reply->flags = buffers_->Allocate(request.keys.size());
  const std::span<uint8_t> flags = reply->flags.As<uint8_t>();
  std::ranges::fill(flags, uint8_t{0});
  size_t begin = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].shard != nullptr) {
      if (parts[i].shard->is_sparse()) {
        parts[i].shard->Contains(parts[i].selection, flags.data() + begin);
      } else {
        SetCode(&reply->parts[i], Code::kShapeMismatch);
      }
    }
    begin += parts[i].selection.size();
  }
}

void RequestHandler::HandleScan(const Request& request, std::span<const Part> parts,
                                const ServedTable& table, OwnedReply* reply) {
  if (parts.size() != 1 || parts[0].selection.size() != 1 || request.argument == 0) {
    reply->parts.clear();
    reply->code = Code::kMalformed;
    return;
  }
  if (parts[0].shard == nullptr) return;
  PartResult& result = reply->parts[0];
  if (!parts[0].shard->is_sparse()) {
    SetCode(&result, Code::kShapeMismatch);
    return;
  }
  const size_t rows_max = std::min<size_t>(
      limits::kScanRowsMax,
      std::max<size_t>(1, kScanValuesGoal / std::max<size_t>(table.spec->row_width, 1)));
  ScanBatch batch;
  parts[0].shard->Scan(parts[0].selection[0], std::min<size_t>(request.argument, rows_max), &batch);
  result.n_keys = static_cast<uint32_t>(batch.keys.size());
  result.n_values = static_cast<uint32_t>(batch.values.size());
  result.detail = batch.finished ? kScanEnd : batch.next_position;
  reply->keys = ToBuffer(batch.keys, *buffers_);
  reply->values = ToBuffer(batch.values, *buffers_);
}

void RequestHandler::HandleStats(std::span<const Part> parts, OwnedReply* reply) {
  std::vector<uint64_t> fields;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].shard == nullptr) continue;
    const Shard::Figures figures = parts[i].shard->figures();
    fields.insert(fields.end(),
                  {figures.rows, figures.bytes, figures.apply_index.value, figures.folded.value,
                   figures.n_late, figures.left_out.n, figures.left_out.round, figures.left_out.key,
                   std::bit_cast<uint32_t>(figures.lr)});
    reply->parts[i].n_keys = kShardStatsFields;
  }
  reply->keys = ToBuffer(fields, *buffers_);
}

}  // namespace fastps
