#include "fuzz/victim.h"

#include <bit>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "client/shard_plan.h"
#include "fuzz/chain_victim.h"

namespace fastps::fuzz {
namespace {

constexpr uint32_t kShards = 2;
constexpr size_t kGatedValues = 64;  // room enough for any gated call

TableRoute RouteOf(uint32_t id, TableKind kind, RuleKind rule, uint64_t width, uint64_t n_rows,
                   std::optional<RoundsSpec> rounds = {}) {
  TableRoute route;
  route.spec.id = TableId(id);
  route.spec.name = "t" + std::to_string(id);
  route.spec.kind = kind;
  route.spec.rule.kind = rule;
  if (rule == RuleKind::kAdagrad) route.spec.rule.constants = {0.1f, 1e-6f};
  if (rule == RuleKind::kAdam) route.spec.rule.constants = {0.1f, 0.9f, 0.99f, 1e-6f};
  route.spec.row_width = width;
  route.spec.n_rows = n_rows;
  route.spec.num_shards = kShards;
  route.spec.rounds = rounds;
  ShardView view;
  view.number = ViewNumber(1);
  view.members = {ServerId(0)};
  view.n_members = 1;
  route.views.assign(kShards, view);
  return route;
}

std::shared_ptr<const ClusterMap> MakeMap() {
  auto map = std::make_shared<ClusterMap>();
  map->cluster_id = ClusterId(1);
  map->version = MapVersion(1);
  map->highest_session = SessionId(3);
  map->sessions = {SessionId(1), SessionId(3)};
  map->servers = {{ServerId(0), kBootId, false, {}, {}}};
  map->tables = {
      RouteOf(1, TableKind::kSparse, RuleKind::kAccumulate, 1, 0),
      RouteOf(2, TableKind::kSparse, RuleKind::kAdam, 3, 0),
      RouteOf(3, TableKind::kDense, RuleKind::kAdagrad, 4, 7),
      RouteOf(4, TableKind::kDense, RuleKind::kAdam, 5, 3),
      RouteOf(5, TableKind::kSparse, RuleKind::kAccumulate, 2, 0, RoundsSpec{GroupId(0), Round(1)}),
      RouteOf(6, TableKind::kDense, RuleKind::kAdagrad, 3, 5, RoundsSpec{GroupId(1), Round(0)})};
  return map;
}

// Only what a server must never answer with: counts that differ from what it sends.
struct CheckedReplies final : ReplySink {
  int n_replies = 0;
  volatile uint64_t sum_of_all = 0;
  void OnReply(OwnedReply reply) override {
    ++n_replies;
    std::vector<std::byte> head;
    EncodeReplyHead(reply, &head);
    std::vector<Bytes> frames = {head};
    for (const Buffer* section : {&reply.keys, &reply.values, &reply.flags}) {
      if (section->size() != 0) frames.push_back(section->As<std::byte>());
    }
    Reply decoded;
    Decoder decoder;
    FASTPS_CHECK(decoder.DecodeReply(frames, &decoded).ok());
    uint64_t sum = 0;  // reads every value, so that a sanitizer sees what was not written
    for (const float value : decoded.values) sum += std::bit_cast<uint32_t>(value);
    for (const uint64_t key : decoded.keys) sum += key;
    for (const uint8_t flag : decoded.flags) sum += flag;
    sum_of_all = sum_of_all + sum;
  }
};

}  // namespace

const std::shared_ptr<const ClusterMap>& FirstMap() {
  static const auto* const map = new std::shared_ptr<const ClusterMap>(MakeMap());
  return *map;
}

Victim::Victim() : handler(kBootId), values_(kGatedValues) {
  FASTPS_CHECK(handler.InstallMap(FirstMap()).ok());
}

Victim::~Victim() = default;

ChainVictim& Victim::chains() {
  if (chains_ == nullptr) chains_ = std::make_unique<ChainVictim>();
  return *chains_;
}

void Victim::Submit(Request request) {
  // A stranger knows the names of the cluster: what it may not do is crash it.
  request.stamp.cluster_id = FirstMap()->cluster_id;
  request.stamp.epoch = FirstMap()->epoch;
  request.stamp.boot_id = kBootId;
  CheckedReplies replies;
  handler.Submit(request, replies);
  FASTPS_CHECK(replies.n_replies == 1);
}

Client& Victim::worker() {
  if (worker_ != nullptr) return *worker_;
  // A server that has got another map may say "not yet" for ever: then it counts as lost.
  const auto find_sink = [this](BootId) {
    return handler.map_version() == FirstMap()->version ? &handler : nullptr;
  };
  worker_ = std::make_unique<Client>(find_sink, SessionId(1), FirstMap());
  uint64_t number = 0;
  for (const TableId table : {TableId(5), TableId(6)}) {
    const std::shared_ptr<const ShardPlan> plan = ShardPlan::Make(FirstMap(), table, Use::kWrite);
    const std::vector<Key> keys = {3, 5, 3};
    for (const Op op : {Op::kPush, Op::kPull}) {
      Status status;
      const std::shared_ptr<const Batch> batch = plan->spec().kind == TableKind::kSparse
                                                     ? MakeKeyBatch(*plan, keys, *buffers, &status)
                                                     : MakeWholeBatch(*plan, *buffers);
      FASTPS_CHECK(batch->n_places() <= kGatedValues);
      auto call = std::make_shared<Call>(op, plan, batch,
                                         CallArrays{values_.data(), values_.data(), nullptr});
      // A step that the servers take at once, however the gates come to be opened.
      call->argument = plan->spec().rounds->first.value + 1;
      ++number;
      call->gate = {number % 2, number, number / 2};
      worker_->Start(call, Client::Mode::kAsync, 0);
      gated_.push_back(std::move(call));
    }
  }
  return *worker_;
}

void Victim::RunGated() {
  // A deadline long over: nobody waits for a server that says "not yet".
  for (const auto& call : gated_) (void)worker_->Wait(*call, 0);
}

std::unique_ptr<Victim, void (*)(Victim*)> MakeVictim() {
  return {new Victim(), [](Victim* victim) { delete victim; }};
}

}  // namespace fastps::fuzz
