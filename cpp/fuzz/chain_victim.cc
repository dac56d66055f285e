#include "fuzz/chain_victim.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "wire/map_codec.h"

namespace fastps::fuzz {
namespace {

constexpr uint32_t kServers = 4;  // the last two exist in name only
constexpr uint32_t kShards = 3;
constexpr size_t kLettersMax = 200;

BootId BootOf(uint32_t server) { return {{77, server}}; }

ShardView ViewOf(uint32_t number, std::vector<uint32_t> chain,
                 std::optional<uint32_t> joiner = {}) {
  ShardView view;
  view.number = ViewNumber(number);
  for (const uint32_t member : chain) view.members[view.n_members++] = ServerId(member);
  if (joiner) view.joiner = ServerId(*joiner);
  return view;
}

TableRoute RouteOf(uint32_t id, TableKind kind, RuleKind rule, uint64_t width, uint64_t n_rows) {
  TableRoute route;
  route.spec.id = TableId(id);
  route.spec.name = "chains" + std::to_string(id);
  route.spec.kind = kind;
  route.spec.rule.kind = rule;
  if (rule == RuleKind::kAdam) route.spec.rule.constants = {0.1f, 0.9f, 0.99f, 1e-6f};
  route.spec.row_width = width;
  route.spec.n_rows = n_rows;
  route.spec.num_shards = kShards;
  route.spec.replication = 2;
  // Head and tail; a middle; somebody to fill.
  route.views = {ViewOf(1, {0, 1}), ViewOf(1, {2, 0, 1}), ViewOf(1, {1}, 0)};
  return route;
}

std::vector<std::vector<std::byte>> CopyOf(const ChainFrames& chain) {
  std::vector<std::vector<std::byte>> frames = {chain.head};
  for (const Buffer* section : {&chain.keys, &chain.values}) {
    const auto bytes = section->As<std::byte>();
    if (!bytes.empty()) frames.emplace_back(bytes.begin(), bytes.end());
  }
  return frames;
}

std::vector<Bytes> ViewsOf(std::span<const std::vector<std::byte>> frames) {
  return {frames.begin(), frames.end()};
}

}  // namespace

ChainVictim::ChainVictim() : map_(std::make_shared<ClusterMap>()) {
  map_->cluster_id = ClusterId(1);
  map_->version = MapVersion(1);
  map_->highest_session = SessionId(3);
  map_->sessions = {SessionId(1), SessionId(3)};
  for (uint32_t i = 0; i < kServers; ++i) {
    map_->servers.push_back({ServerId(i), BootOf(i), false, {"client"}, {"chain"}});
  }
  map_->tables = {RouteOf(1, TableKind::kSparse, RuleKind::kAccumulate, 1, 0),
                  RouteOf(2, TableKind::kSparse, RuleKind::kAdam, 3, 0),
                  RouteOf(3, TableKind::kSparse, RuleKind::kAccumulate, 2, 0),
                  RouteOf(4, TableKind::kDense, RuleKind::kAccumulate, 3, 8)};
  map_->tables[2].spec.rounds = RoundsSpec{GroupId(0), Round(0)};
  passing_ = map_->tables.back();
  for (uint32_t i = 0; i < kNodes; ++i) {
    nodes_.push_back(std::make_unique<Node>(BootOf(i)));
    Install(*nodes_[i]);
    Settle(i);
  }
}

void ChainVictim::Install(Node& node) {
  const std::string bytes = EncodeClusterMap(*map_);
  auto copy = std::make_shared<ClusterMap>();
  FASTPS_CHECK(DecodeClusterMap(std::as_bytes(std::span(bytes)), copy.get()).ok());
  FASTPS_CHECK(node.handler.InstallMap(std::move(copy)).ok());
  node.chains.Adopt(node.handler.snapshot(), now_ms_);
}

// What comes in.

void ChainVictim::Ask(Fields& fields) {
  const uint32_t number = fields.Below(kNodes);
  Node& node = *nodes_[number];
  Shaped shaped = ShapeRequest(fields, *map_);
  Request& request = shaped.request;
  // Most writes are next of their session.
  for (PartHeader& part : shaped.parts) {
    if (part.sequence == Sequence(0) || part.sequence.value > 200) continue;
    part.sequence = Sequence(++sequences_[{request.session, request.table, part.shard}]);
  }
  request.stamp = {map_->cluster_id, map_->epoch, map_->incarnation, node.handler.boot_id(),
                   map_->version};
  shaped.View();
  const std::vector<ExactBytes> exact = shaped.Frames(false);
  std::vector<Bytes> frames;
  for (const ExactBytes& frame : exact) frames.push_back(frame.bytes());
  Request decoded;
  FASTPS_CHECK(node.decoder.DecodeRequest(frames, &decoded).ok());
  const std::string peer = "client " + std::to_string(++n_asked_);
  asked_[peer] = {request.session, request.table, shaped.parts};
  node.chains.TakeRequest(decoded, peer, now_ms_);
  Settle(number);
}

void ChainVictim::Give(Node& node, const std::string& peer,
                       std::span<const std::vector<std::byte>> frames) {
  std::vector<ExactBytes> exact;
  for (const auto& frame : frames) exact.emplace_back(frame, false);
  std::vector<Bytes> views;
  for (const ExactBytes& frame : exact) views.push_back(frame.bytes());
  ChainMessage message;
  if (!node.chain_decoder.Decode(views, &message).ok()) return;
  node.chains.TakeMessage(message, peer, now_ms_);
}

void ChainVictim::TakeFrames(std::span<const Bytes> frames) {
  ChainDecoder decoder;
  ChainMessage message;
  if (!decoder.Decode(frames, &message).ok()) return;
  const uint32_t number = message.stamp.map_version.value % kNodes;
  message.stamp.cluster_id = map_->cluster_id;
  message.stamp.epoch = map_->epoch;
  message.stamp.to = BootOf(number);
  message.stamp.from = BootOf(message.stamp.from.bits[0] % kServers);
  nodes_[number]->chains.TakeMessage(message, "stranger", now_ms_);
  Settle(number);
}

void ChainVictim::Deliver(Fields& fields) {
  if (under_way_.empty()) return;
  const size_t which = fields.Below(static_cast<uint32_t>(under_way_.size()));
  const uint8_t how = fields.Get<uint8_t>();
  Letter letter = under_way_[which];
  if (how < 200 || how >= 220) {
    under_way_.erase(under_way_.begin() + static_cast<std::ptrdiff_t>(which));
  }
  if (how >= 180 && how < 200) return;  // lost; from 200 on it comes once more
  if (how >= 220) {
    auto& frame = letter.frames[how % letter.frames.size()];
    frame[fields.Get<uint16_t>() % frame.size()] ^= static_cast<std::byte>(fields.Get<uint8_t>());
  }
  Give(*nodes_[letter.to], letter.peer, letter.frames);
  Settle(letter.to);
}

void ChainVictim::Forge(Fields& fields) {
  const uint32_t number = fields.Below(kNodes);
  Node& node = *nodes_[number];
  const uint8_t where = fields.Get<uint8_t>();
  const ShardChain* const chain =
      node.chains.Find(TableId(1 + where % 4), ShardId(where / 4 % kShards));
  if (chain == nullptr) return;
  bool goes_down = false;
  const ChainFrames forged = MakeForged(fields, *chain, &goes_down);
  Give(node, "forger", CopyOf(forged));
  Settle(number);
}

ChainFrames ChainVictim::MakeForged(Fields& fields, const ShardChain& chain, bool* goes_down) {
  const uint8_t kind = fields.Get<uint8_t>() % 8;
  *goes_down = kind < 4 || kind == 6;
  const std::optional<ServerId> neighbour = *goes_down ? chain.predecessor() : chain.successor();
  const uint8_t from = fields.Get<uint8_t>();
  const ServerId sender = neighbour && from < 220 ? *neighbour : ServerId(from % kServers);
  const ServerId self = chain.is_joiner ? *chain.view.joiner : chain.view.members[chain.place];
  const ChainStamp stamp{map_->cluster_id, map_->epoch, BootOf(sender.value), BootOf(self.value),
                         map_->version};
  const auto view = [&] {
    const uint8_t form = fields.Get<uint8_t>();
    return form < 230 ? chain.view.number : ViewNumber(form % 8);
  };
  // Something near `index`, or anything.
  const auto near = [&](ApplyIndex index) {
    const uint8_t form = fields.Get<uint8_t>();
    if (form >= 250) return ApplyIndex(fields.Get<uint64_t>());
    return ApplyIndex(form < 150 ? index.value : index.value + form % 8 - 4);
  };
  if (kind < 3) {
    std::vector<EntryHeader> entries;
    std::vector<Key> keys;
    std::vector<float> values;
    ApplyIndex index(near(chain.index).value + 1);
    const TableSpec& spec = map_->tables[chain.table.value - 1].spec;
    for (uint32_t n = 1 + fields.Below(4); n > 0; --n, ++index.value) {
      EntryHeader entry;
      entry.table = chain.table;
      entry.shard = chain.id;
      entry.view = view();
      entry.index = index;
      if (index == ApplyIndex(0)) entry.index = ApplyIndex(1);
      constexpr uint8_t kOps[] = {2, 2, 2, 3, 4, 8, kFoldOp, kFoldOp};
      entry.op = kOps[fields.Below(8)];
      entry.session = SessionId(fields.Below(4));
      entry.sequence = Sequence(1 + fields.Get<uint8_t>());
      entry.code = fields.Get<uint8_t>();
      if (entry.code < 220) entry.code = 0;
      entry.has_step = entry.op == kFoldOp || fields.Below(2) == 1;
      entry.step = Round(fields.Below(6));
      entry.detail = fields.Below(8) == 0;
      entry.n_keys = fields.Below(6) * 2;
      for (uint32_t i = 0; i < entry.n_keys; ++i) {
        const uint8_t key = fields.Get<uint8_t>();
        keys.push_back(key < 250 ? key % 40 : fields.Get<uint64_t>());
      }
      if (entry.op != kFoldOp && entry.op != 4) {
        const uint8_t form = fields.Get<uint8_t>();
        entry.n_values = static_cast<uint32_t>(entry.n_keys * spec.row_width);
        if (form >= 200) entry.n_values = form % 16;
        if (entry.op == 8 && form < 200) entry.n_values = 1;
        for (uint32_t i = 0; i < entry.n_values; ++i) values.push_back(fields.Get<uint8_t>());
      }
      entries.push_back(entry);
    }
    Buffer key_bytes = buffers_->Allocate(keys.size() * sizeof(Key));
    std::ranges::copy(keys, key_bytes.As<Key>().begin());
    Buffer value_bytes = buffers_->Allocate(values.size() * sizeof(float));
    std::ranges::copy(values, value_bytes.As<float>().begin());
    return EncodeEntries(stamp, entries, std::move(key_bytes), std::move(value_bytes));
  }
  if (kind < 6) {
    const ShardAck ack{.table = chain.table,
                       .shard = chain.id,
                       .view = view(),
                       .resend = static_cast<uint8_t>(fields.Below(2)),
                       .held = near(chain.index),
                       .committed = near(chain.index)};
    const std::span<const ShardAck> one(&ack, 1);
    return kind == 3 ? EncodeQuestion(stamp, one) : EncodeAcks(stamp, one);
  }
  if (kind == 6) {
    ImageSlice slice{.table = chain.table, .shard = chain.id, .view = view()};
    slice.image = fields.Below(3);
    slice.offset = fields.Below(2) == 0 ? chain.loading.bytes.size() : fields.Get<uint16_t>();
    Buffer bytes = buffers_->Allocate(1 + fields.Below(100));
    for (std::byte& byte : bytes.As<std::byte>()) byte = std::byte(fields.Get<uint8_t>());
    const uint8_t more = fields.Get<uint8_t>();
    slice.total = slice.offset + bytes.size() + (more < 128 ? 0 : more);
    return EncodeSlice(stamp, slice, std::move(bytes));
  }
  const ImageProgress progress{
      .table = chain.table,
      .shard = chain.id,
      .view = view(),
      .refused = static_cast<uint8_t>(fields.Below(4) == 0),
      .image = chain.fill && fields.Below(4) != 0 ? chain.fill->image : fields.Below(4),
      .received =
          chain.fill && fields.Below(2) != 0 ? chain.fill->bytes.size() : fields.Get<uint64_t>()};
  return EncodeProgress(stamp, std::span(&progress, 1));
}

void ChainVictim::ChangeMap(Fields& fields) {
  const uint8_t what = fields.Get<uint8_t>() % 16;
  if (what == 0) {
    const bool is_there = map_->tables.size() == 4;
    if (is_there) {
      passing_ = map_->tables.back();
      map_->tables.pop_back();
    } else {
      map_->tables.push_back(passing_);
    }
  } else if (what == 1) {
    const uint32_t who = fields.Below(8);
    map_->highest_session = SessionId(std::max<uint64_t>(map_->highest_session.value, who));
    map_->sessions.clear();
    for (uint64_t i = 1; i <= map_->highest_session.value; ++i) {
      if (i == 1 || (who >> (i % 3) & 1) != 0) map_->sessions.push_back(SessionId(i));
    }
  } else if (what > 2) {  // 2: the same again
    const uint8_t where = fields.Get<uint8_t>();
    TableRoute& route = map_->tables[where % map_->tables.size()];
    ShardView& view = route.views[where / 4 % kShards];
    const uint8_t form = fields.Get<uint8_t>();
    std::vector<uint32_t> chain;
    for (uint32_t n = 1 + form % 3; n > 0; --n) {
      const uint8_t member = fields.Get<uint8_t>();
      const uint32_t server = member < 200 ? member % kNodes : member % kServers;
      if (std::ranges::find(chain, server) == chain.end()) chain.push_back(server);
    }
    std::optional<uint32_t> joiner;
    if (form & 4) joiner = fields.Below(kServers);
    if (joiner && std::ranges::find(chain, *joiner) != chain.end()) joiner.reset();
    const bool same_members = form >= 128;  // flags and joiners change within a view
    ShardView next = same_members ? view : ViewOf(view.number.value + 1, chain);
    next.joiner.reset();
    if (joiner && !next.HasMember(ServerId(*joiner))) next.joiner = ServerId(*joiner);
    next.sealed = (form & 8) != 0 && (form & 16) != 0;
    next.read_only = (form & 96) == 96;
    view = next;
  }
  ++map_->version.value;
  Publish(fields);
}

void ChainVictim::Publish(Fields& fields) {
  const uint8_t who = fields.Get<uint8_t>();
  for (uint32_t i = 0; i < kNodes; ++i) {
    if (who < 64 && who % kNodes == i) continue;  // hears of it with the next
    Install(*nodes_[i]);
    Settle(i);
  }
}

void ChainVictim::CloseRound(Fields& fields) {
  const uint8_t form = fields.Get<uint8_t>();
  if (form % 4 != 0) {
    ClosedRound round{GroupId(0), Round(rounds_.size()), {}};
    if (form & 16) round.members.push_back({Rank(0), SessionId(1)});
    if (form & 32) round.members.push_back({Rank(1), SessionId(3)});
    rounds_.push_back(std::move(round));
  }
  uint64_t forgotten = rounds_.size();
  for (const auto& node : nodes_) forgotten = std::min(forgotten, node->handler.heard());
  for (uint32_t i = 0; i < kNodes; ++i) {
    if (form < 100 && form % kNodes == i) continue;
    Node& node = *nodes_[i];
    RoundsNotice notice{map_->cluster_id,
                        node.handler.map_version(),
                        std::min<uint64_t>(node.handler.taken(), 1 + form % 8) + 1,
                        forgotten,
                        {}};
    if (form & 64) notice.first_number = node.handler.taken() + 1;
    for (size_t n = notice.first_number - 1; n < rounds_.size(); ++n) {
      notice.rounds.push_back(rounds_[n]);
    }
    node.handler.CloseRounds(std::move(notice));
    FASTPS_CHECK(node.handler.taken() <= rounds_.size());
    node.chains.FoldClosed(now_ms_);
    node.chains.NoteSettled();
    Settle(i);
  }
}

void ChainVictim::Wait(Fields& fields) {
  constexpr int64_t kTimes[] = {1, 10, 25, 100, 500, 3000};
  now_ms_ += kTimes[fields.Below(6)];
  for (uint32_t i = 0; i < kNodes; ++i) {
    nodes_[i]->chains.Tick(now_ms_);
    Settle(i);
  }
}

void ChainVictim::Report(Fields& fields) {
  Node& node = *nodes_[fields.Below(kNodes)];
  fastps::Report report{map_->cluster_id,          ServerId(0), node.handler.boot_id(),
                        node.chains.map_version(), {},          {}};
  node.chains.AddToReport(&report);
  FASTPS_CHECK(!node.chains.report_changed());
  const std::string bytes = EncodeReport(report);
  const auto decoded = DecodeReport(std::as_bytes(std::span(bytes)));
  FASTPS_CHECK(decoded && decoded->shards == report.shards && decoded->silent == report.silent);
}

// What must hold.

void ChainVictim::Settle(uint32_t number) {
  Node& node = *nodes_[number];
  const ChainNode::Out out = node.chains.TakeOut();
  for (const ChainNode::Answer& answer : out.answers) TakeAnswer(answer);
  const std::string name = "server " + std::to_string(number);
  for (const ChainNode::Down& down : out.down) {
    Letter letter{down.server.value, name, CopyOf(down.frames)};
    FASTPS_CHECK(down.server.value < kServers && down.server.value != number);
    FASTPS_CHECK(down.thread == ThreadId(0));
    CheckSent(node, letter.frames, false);
    if (down.server.value < kNodes) under_way_.push_back(std::move(letter));
  }
  for (const ChainNode::Up& up : out.up) {
    Letter letter{up.peer == "server 0" ? 0u : 1u, "", CopyOf(up.frames)};
    CheckSent(node, letter.frames, true);
    if (up.peer.starts_with("server")) under_way_.push_back(std::move(letter));
  }
  while (under_way_.size() > kLettersMax) under_way_.pop_front();
  CheckShards(node);
  if (node.chains.settled_changed()) node.handler.Settle(node.chains.Settled());
  FASTPS_CHECK(node.handler.heard() >= node.heard);
  node.heard = node.handler.heard();
  FASTPS_CHECK(node.heard <= node.handler.taken());
}

void ChainVictim::TakeAnswer(const ChainNode::Answer& answer) {
  const auto found = asked_.find(answer.peer);
  FASTPS_CHECK(found != asked_.end());  // once, and only who asked
  const Asked asked = std::move(found->second);
  asked_.erase(found);
  std::vector<std::byte> head;
  EncodeReplyHead(answer.reply, &head);
  std::vector<Bytes> frames = {head};
  for (const Buffer* section : {&answer.reply.keys, &answer.reply.values, &answer.reply.flags}) {
    if (section->size() != 0) frames.push_back(section->As<std::byte>());
  }
  Reply reply;
  Decoder decoder;
  FASTPS_CHECK(decoder.DecodeReply(frames, &reply).ok());
  FASTPS_CHECK(reply.code != Code::kOk || reply.parts.size() == asked.parts.size());
  for (size_t i = 0; i < asked.parts.size(); ++i) {
    const PartHeader& part = asked.parts[i];
    if (part.sequence == Sequence(0)) continue;
    // What used no sequence goes again.
    const Code code = reply.code != Code::kOk ? reply.code : static_cast<Code>(reply.parts[i].code);
    uint64_t& last = sequences_[{asked.session, asked.table, part.shard}];
    if (code == Code::kGap) last = std::min(last, reply.parts[i].detail - 1);
    if (reply.code != Code::kOk || code == Code::kRetry || code == Code::kMoved ||
        code == Code::kNeedKeys || code == Code::kShapeMismatch) {
      last = std::min(last, part.sequence.value - 1);
    }
  }
}

void ChainVictim::CheckSent(Node& node, std::span<const std::vector<std::byte>> frames,
                            bool is_up) {
  const std::vector<Bytes> views = ViewsOf(frames);
  ChainDecoder decoder;
  ChainMessage message;
  FASTPS_CHECK(decoder.Decode(views, &message).ok());
  FASTPS_CHECK(message.stamp.from == node.handler.boot_id());
  FASTPS_CHECK(message.stamp.to != node.handler.boot_id());
  const bool goes_up =
      message.kind == ChainMessage::Kind::kAcks || message.kind == ChainMessage::Kind::kProgress;
  FASTPS_CHECK(goes_up == is_up);
  std::map<ShardName, ApplyIndex> last;
  for (const EntryHeader& entry : message.entries) {
    const ShardChain* const chain = node.chains.Find(entry.table, entry.shard);
    FASTPS_CHECK(chain != nullptr && chain->view.number == entry.view);
    FASTPS_CHECK(entry.index <= chain->index && chain->successor());
    // Without keys nobody knows whose values these are.
    const bool needs_keys = entry.op == uint8_t(Op::kPush) || entry.op == uint8_t(Op::kAssign);
    FASTPS_CHECK(!needs_keys || entry.n_values == 0 || entry.n_keys != 0);
    ApplyIndex& before = last[{entry.table, entry.shard}];
    FASTPS_CHECK(before == ApplyIndex(0) || entry.index.value == before.value + 1);
    before = entry.index;
  }
  for (const ShardAck& ack : message.acks) {
    const ShardChain* const chain = node.chains.Find(ack.table, ack.shard);
    FASTPS_CHECK(chain != nullptr && chain->view.number == ack.view);
    FASTPS_CHECK(ack.committed <= ack.held && ack.held <= chain->index);
  }
}

void ChainVictim::CheckShards(Node& node) {
  std::map<ShardName, Seen> seen;
  for (uint32_t table = 1; table <= 4; ++table) {
    for (uint32_t shard = 0; shard < kShards; ++shard) {
      const ShardName name{table, shard};
      const ShardChain* const chain = node.chains.Find(name.first, name.second);
      if (chain == nullptr) continue;
      FASTPS_CHECK(chain->index == chain->shard->apply_index());
      FASTPS_CHECK(chain->committed <= chain->index);
      FASTPS_CHECK(!chain->is_tail() || chain->committed == chain->index);
      if (!chain->kept.empty()) {
        FASTPS_CHECK(chain->kept.back().header.index == chain->index);
        FASTPS_CHECK(chain->kept.front().header.index.value + chain->kept.size() - 1 ==
                     chain->index.value);
      }
      if (!chain->waiting.empty()) {
        FASTPS_CHECK(chain->is_head() && chain->waiting.front().index > chain->committed);
        FASTPS_CHECK(chain->waiting.back().index <= chain->index);
      }
      if (chain->fill) {
        FASTPS_CHECK(chain->is_tail() && chain->fill->joiner == chain->view.joiner);
        FASTPS_CHECK(chain->fill->index <= chain->index);
      }
      const auto before = node.seen.find(name);
      if (before != node.seen.end() && before->second.shard == chain->shard) {
        FASTPS_CHECK(chain->index >= before->second.index);
        FASTPS_CHECK(chain->committed >= before->second.committed);
      }
      seen[name] = {chain->shard, chain->index, chain->committed};
    }
  }
  node.seen = std::move(seen);
}

}  // namespace fastps::fuzz
