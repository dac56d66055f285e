#include "server/chain_node.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "server/write_kinds.h"

namespace fastps {
namespace {

EntryHeader HeaderOf(const Entry& entry, TableId table, ShardId shard, ViewNumber view) {
  return {.table = table,
          .shard = shard,
          .view = view,
          .op = static_cast<uint8_t>(OpOf(entry.kind)),
          .code = static_cast<uint8_t>(entry.code),
          .has_step = entry.step.has_value(),
          .index = entry.index,
          .session = entry.session,
          .sequence = entry.sequence,
          .detail = entry.detail,
          .step = entry.step.value_or(Round(0)),
          .n_keys = static_cast<uint32_t>(entry.selection.size()),
          .n_values = static_cast<uint32_t>(entry.values.size())};
}

Entry EntryOf(const EntryHeader& header, Selection selection, std::span<const float> values) {
  return {header.index,
          header.session,
          header.sequence,
          KindOf(static_cast<Op>(header.op)),
          static_cast<Code>(header.code),
          header.detail,
          header.has_step != 0 ? Step(header.step) : Step(),
          selection,
          values};
}

}  // namespace

ChainNode::ChainNode(RequestHandler& handler, ThreadId thread, uint32_t n_threads)
    : handler_(handler),
      thread_(thread),
      n_threads_(n_threads),
      snapshot_(std::make_shared<const Snapshot>(
          Snapshot{std::make_shared<const ClusterMap>(), nullptr, {}})) {}

// Who is who.

const ShardChain* ChainNode::Find(TableId table, ShardId shard) const {
  const auto found = chains_.find(table);
  if (found == chains_.end() || shard.value >= found->second.size()) return nullptr;
  return found->second[shard.value].get();
}

ShardChain* ChainNode::FindChain(TableId table, ShardId shard) {
  return const_cast<ShardChain*>(Find(table, shard));
}

ChainNode::LinkAddress ChainNode::AddressOf(const ShardChain& chain, ServerId server) const {
  const ServerInfo* const info = snapshot_->map->FindServer(server);
  const size_t n_threads = info == nullptr ? 1 : std::max<size_t>(1, info->chain_endpoints.size());
  return {server, ThreadOfShard(chain.id, static_cast<uint32_t>(n_threads))};
}

BootId ChainNode::BootOf(ServerId server) const {
  const ServerInfo* const info = snapshot_->map->FindServer(server);
  return info == nullptr ? BootId{} : info->boot_id;
}

ChainStamp ChainNode::StampTo(BootId to) const {
  const ClusterMap& map = *snapshot_->map;
  return {map.cluster_id, map.epoch, handler_.boot_id(), to, map.version};
}

// Maps.

void ChainNode::Adopt(std::shared_ptr<const Snapshot> snapshot, int64_t now_ms) {
  if (snapshot == snapshot_) return;
  const std::shared_ptr<const Snapshot> former = std::exchange(snapshot_, std::move(snapshot));
  const ClusterMap& map = *snapshot_->map;
  for (auto& [table, chains] : chains_) {
    if (snapshot_->tables.contains(table)) continue;
    for (auto& chain : chains) {
      if (chain != nullptr) Drop(*chain);
    }
  }
  std::erase_if(chains_, [&](const auto& each) { return !snapshot_->tables.contains(each.first); });
  for (const auto& [table, served] : snapshot_->tables) {
    const auto before = former->tables.find(table);
    if (before != former->tables.end() && before->second == served) continue;  // as it was
    const TableRoute& route = *map.FindTable(table);
    auto& chains = chains_[table];
    chains.resize(served->shards.size());
    for (uint32_t i = thread_.value; i < chains.size(); i += n_threads_) {
      std::unique_ptr<ShardChain>& chain = chains[i];
      if (chain != nullptr && chain->shard != served->shards[i]) {
        Drop(*chain);
        chain.reset();
      }
      if (served->shards[i] == nullptr) continue;
      const bool is_new = chain == nullptr;
      if (is_new) {
        chain = std::make_unique<ShardChain>();
        chain->table = table;
        chain->id = ShardId(i);
        chain->shard = served->shards[i];
        if (served->spec->rounds) chain->group = served->spec->rounds->group;
      }
      if (is_new || chain->view != route.views[i]) AdoptView(*chain, route.views[i], now_ms);
    }
  }
  if (former->map->sessions != map.sessions) {
    const auto is_live = [&](SessionId session) {
      return session > map.highest_session || map.HasSession(session);
    };
    for (auto& [table, chains] : chains_) {
      for (auto& chain : chains) {
        if (chain != nullptr) chain->shard->ForgetSessions(is_live);
      }
    }
  }
  FoldClosed(now_ms);
  BeginFills(now_ms);
  SendAcks();
  report_changed_ = true;
  settled_changed_ = true;
}

void ChainNode::AdoptView(ShardChain& chain, const ShardView& view, int64_t now_ms) {
  const auto name = std::pair(chain.table, chain.id);
  const bool other_number = chain.view.number != view.number || chain.view.n_members == 0;
  const std::optional<ServerId> predecessor =
      chain.view.n_members == 0 ? std::nullopt : chain.predecessor();
  const ServerId self = snapshot_->self->id;
  const auto members = view.chain();
  if (other_number) {
    for (auto& [address, link] : links_) link.open.erase(name);
    chain.fill.reset();
  }
  chain.view = view;
  chain.place = static_cast<size_t>(std::ranges::find(members, self) - members.begin());
  chain.is_joiner = chain.place == members.size();
  if (!chain.is_tail() || !view.joiner || (chain.fill && chain.fill->joiner != *view.joiner)) {
    if (chain.fill) {
      for (auto& [address, link] : links_) link.open.erase(name);
      chain.fill.reset();
    }
  }
  if (chain.is_tail() && view.joiner && !chain.fill) chain.fill.emplace().joiner = *view.joiner;
  if (chain.fill) {
    filling_[name] = &chain;
  } else {
    filling_.erase(name);
  }
  if (view.sealed || chain.is_joiner) {
    reported_[name] = &chain;
  } else {
    reported_.erase(name);
  }
  // A sealed head makes no entries: members have reported what will be all that there is.
  if (chain.group) chain.shard->SetLeads(chain.is_head() && !view.sealed, true);
  if (!other_number) {
    Trim(chain);
    return;
  }
  chain.index = chain.shard->apply_index();
  chain.heard_in_view = false;
  if (chain.predecessor() != predecessor) chain.back_peer.clear();
  if (chain.group) {
    chain.folds.clear();
    if (chain.is_head() && !chain.is_tail()) {
      chain.folds.emplace_back(chain.index, chain.shard->folded());
    } else {
      chain.settled = chain.shard->folded();
    }
  }
  if (chain.is_joiner) return;
  if (!chain.is_head()) Bounce(chain);
  if (chain.is_tail()) {
    Commit(chain, chain.index);
  } else {
    SendKept(chain, chain.committed, now_ms, false);
    Acknowledge(chain, false);
  }
}

void ChainNode::Bounce(ShardChain& chain) {
  for (Waiting& waiting : chain.waiting) {
    PendingAnswer& answer = *waiting.answer;
    answer.reply.parts[waiting.part].code = static_cast<uint8_t>(Code::kMoved);
    if (--answer.n_open == 0) {
      out_.answers.push_back({std::move(answer.peer), std::move(answer.reply)});
    }
  }
  chain.waiting.clear();
}

void ChainNode::Drop(ShardChain& chain) {
  Bounce(chain);
  const auto name = std::pair(chain.table, chain.id);
  for (auto& [address, link] : links_) link.open.erase(name);
  filling_.erase(name);
  reported_.erase(name);
  to_acknowledge_.erase(name);
  for (const KeptEntry& entry : chain.kept) kept_bytes_ -= entry.bytes();
  chain.kept.clear();
}

// Requests.

Code ChainNode::Admit(Op op, TableId table, const PartHeader& part) {
  const ShardChain* const chain = Find(table, part.shard);
  if (chain == nullptr || chain->view.number != part.view || chain->is_joiner) return Code::kMoved;
  if (!IsWrite(op)) {
    if (!chain->is_tail()) return Code::kMoved;
    return chain->view.sealed ? Code::kRetry : Code::kOk;
  }
  if (!chain->is_head()) return Code::kMoved;
  const bool has_room = kept_bytes_ < limits::kChainBytesKeptMax &&
                        chain->waiting.size() < limits::kAnswersWaitingMax;
  if (chain->view.sealed || chain->view.read_only || !has_room) return Code::kRetry;
  // Entries carry their keys: the successor knows no key sets.
  return part.n_omitted != 0 && chain->successor() ? Code::kNeedKeys : Code::kOk;
}

void ChainNode::OnWritten(TableId table, ShardId shard, size_t part, const Write& write,
                          const WriteResult& result) {
  ShardChain& chain = *FindChain(table, shard);
  AddFolds(chain);
  const bool is_numbered =
      result.code != Code::kRetry && result.code != Code::kGap && result.code != Code::kNeedKeys;
  if (!is_numbered) return;
  if (result.is_entry) {
    const Entry entry = EntryOf(write, result);
    AddEntry(chain, HeaderOf(entry, table, shard, chain.view.number), entry.selection,
             entry.values);
  }
  if (result.index > chain.committed) waits_.push_back({&chain, result.index, part});
}

void ChainNode::TakeRequest(const Request& request, std::string peer, int64_t now_ms) {
  waits_.clear();
  OwnedReply reply = handler_.Handle(request, *snapshot_, *this);
  if (request.op == Op::kPush) {
    for (PartResult& part : reply.parts) {
      const ShardChain* const chain = Find(request.table, part.shard);
      if (chain != nullptr && chain->successor()) part.remembered = 0;
    }
  }
  SendFresh(now_ms);
  if (waits_.empty()) {
    out_.answers.push_back({std::move(peer), std::move(reply)});
    return;
  }
  const auto answer = std::make_shared<PendingAnswer>(
      PendingAnswer{std::move(peer), std::move(reply), waits_.size()});
  for (const Wait& wait : waits_) {
    wait.chain->waiting.push_back({wait.index, wait.part, answer});
  }
}

// Entries.

void ChainNode::FoldClosed(int64_t now_ms) {
  for (auto& [table, chains] : chains_) {
    for (auto& chain : chains) {
      if (chain == nullptr || !chain->group || !chain->is_head()) continue;
      chain->shard->FoldClosed();
      AddFolds(*chain);
    }
  }
  SendFresh(now_ms);
}

void ChainNode::AddFolds(ShardChain& chain) {
  if (!chain.group) return;
  for (const FoldEntry& fold : chain.shard->TakeFolds()) {
    std::vector<Key>& members = fold_members_.emplace_back();
    for (const RoundMember& member : fold.members) {
      members.push_back(member.rank.value);
      members.push_back(member.session.value);
    }
    const EntryHeader header{.table = chain.table,
                             .shard = chain.id,
                             .view = chain.view.number,
                             .op = kFoldOp,
                             .has_step = 1,
                             .index = fold.index,
                             .session = {},
                             .sequence = {},
                             .step = fold.round,
                             .n_keys = static_cast<uint32_t>(members.size())};
    AddEntry(chain, header, members, {});
    chain.folds.emplace_back(fold.index, Round(fold.round.value + 1));
    Release(chain);
  }
}

EntryFate ChainNode::Apply(ShardChain& chain, const EntryHeader& header, Selection selection,
                           std::span<const float> values) {
  if (header.op != kFoldOp) return chain.shard->ApplyEntry(EntryOf(header, selection, values));
  FoldEntry fold{header.index, header.step, {}};
  for (size_t i = 0; i + 1 < selection.size(); i += 2) {
    fold.members.push_back(
        {Rank(static_cast<uint32_t>(selection[i])), SessionId(selection[i + 1])});
  }
  const EntryFate fate = chain.shard->ApplyFold(fold);
  if (fate == EntryFate::kApplied) {
    chain.settled = Round(fold.round.value + 1);
    settled_changed_ = true;
  }
  return fate;
}

std::map<GroupId, Round> ChainNode::Settled() {
  settled_changed_ = false;
  std::map<GroupId, Round> settled;
  for (const auto& [table, chains] : chains_) {
    for (const auto& chain : chains) {
      if (chain == nullptr || !chain->group || chain->is_joiner) continue;
      const auto [found, is_new] = settled.try_emplace(*chain->group, chain->settled);
      found->second = std::min(found->second, chain->settled);
    }
  }
  return settled;
}

void ChainNode::AddEntry(ShardChain& chain, const EntryHeader& header, Selection selection,
                         std::span<const float> values) {
  chain.index = header.index;
  if (chain.is_tail()) chain.committed = header.index;
  if (chain.view.sealed) report_changed_ = true;
  if (!chain.successor() || (chain.fill && chain.fill->image == 0)) return;
  fresh_.push_back({&chain, header, selection, values});
}

void ChainNode::SendFresh(int64_t now_ms) {
  if (fresh_.empty()) return;
  std::map<std::pair<LinkAddress, bool>, std::vector<const Fresh*>> groups;
  for (const Fresh& fresh : fresh_) {
    const ShardChain& chain = *fresh.chain;
    groups[{AddressOf(chain, *chain.successor()), chain.is_open()}].push_back(&fresh);
  }
  for (const auto& [where, group] : groups) SendGroup(where.first, where.second, group);
  for (const Fresh& fresh : fresh_) {
    if (fresh.chain->is_open()) Expect(*fresh.chain, now_ms);
  }
  fresh_.clear();
  fold_members_.clear();
}

void ChainNode::SendGroup(LinkAddress address, bool is_open, std::span<const Fresh* const> group) {
  size_t n_keys = 0, n_values = 0;
  for (const Fresh* const fresh : group) {
    n_keys += fresh->header.n_keys;
    n_values += fresh->header.n_values;
  }
  Buffer keys = handler_.buffers().Allocate(n_keys * sizeof(Key));
  Buffer values = handler_.buffers().Allocate(n_values * sizeof(float));
  std::vector<EntryHeader> headers;
  size_t next_key = 0, next_value = 0;
  for (const Fresh* const fresh : group) {
    std::ranges::copy(fresh->selection, keys.As<Key>().begin() + next_key);
    std::ranges::copy(fresh->values, values.As<float>().begin() + next_value);
    headers.push_back(fresh->header);
    const KeptEntry& kept = fresh->chain->kept.emplace_back(
        KeptEntry{fresh->header, keys, next_key, values, next_value});
    kept_bytes_ += kept.bytes();
    next_key += fresh->header.n_keys;
    next_value += fresh->header.n_values;
  }
  if (!is_open) return;
  out_.down.push_back({address.server, address.thread,
                       EncodeEntries(StampTo(BootOf(address.server)), headers, std::move(keys),
                                     std::move(values))});
}

void ChainNode::SendKept(ShardChain& chain, ApplyIndex after, int64_t now_ms, bool anew) {
  if (!chain.waits() || !chain.successor() || !chain.is_open()) return;
  const LinkAddress address = AddressOf(chain, *chain.successor());
  const ChainStamp stamp = StampTo(BootOf(address.server));
  const ApplyIndex first = chain.kept.empty() ? ApplyIndex(0) : chain.kept.front().header.index;
  size_t next = after < first ? 0 : static_cast<size_t>(after.value - first.value + 1);
  // What this was filled with it does not keep: the others have it, and only need to say so.
  if (next >= chain.kept.size()) Ask(chain, anew);
  while (next < chain.kept.size()) {
    // As many as make a message of a good size.
    size_t end = next, n_keys = 0, n_values = 0;
    while (end < chain.kept.size() &&
           (end == next || n_values * sizeof(float) < limits::kMessageValuesBytesGoal)) {
      n_keys += chain.kept[end].header.n_keys;
      n_values += chain.kept[end].header.n_values;
      ++end;
    }
    Buffer keys = handler_.buffers().Allocate(n_keys * sizeof(Key));
    Buffer values = handler_.buffers().Allocate(n_values * sizeof(float));
    std::vector<EntryHeader> headers;
    size_t key = 0, value = 0;
    for (; next < end; ++next) {
      const KeptEntry& entry = chain.kept[next];
      std::ranges::copy(entry.selection(), keys.As<Key>().begin() + key);
      std::ranges::copy(entry.content(), values.As<float>().begin() + value);
      key += entry.header.n_keys;
      value += entry.header.n_values;
      headers.push_back(entry.header);
      headers.back().view = chain.view.number;
    }
    out_.down.push_back({address.server, address.thread,
                         EncodeEntries(stamp, headers, std::move(keys), std::move(values)), anew});
    anew = false;
  }
  Expect(chain, now_ms);
}

void ChainNode::Ask(ShardChain& chain, bool anew) {
  const LinkAddress address = AddressOf(chain, *chain.successor());
  const ShardAck question{.table = chain.table,
                          .shard = chain.id,
                          .view = chain.view.number,
                          .held = chain.index,
                          .committed = chain.committed};
  out_.down.push_back({address.server, address.thread,
                       EncodeQuestion(StampTo(BootOf(address.server)), std::span(&question, 1)),
                       anew});
}

void ChainNode::Expect(ShardChain& chain, int64_t now_ms) {
  Link& link = links_[AddressOf(chain, *chain.successor())];
  if (link.open.empty()) link.heard_ms = now_ms;
  if (!link.open.emplace(std::pair(chain.table, chain.id), &chain).second) return;
  // Who did not speak in this view may not know of it yet, and drop what it is sent.
  chain.resend_after_ms = chain.heard_in_view ? limits::kChainResendMs : limits::kChainResendSoonMs;
  chain.resend_at_ms = now_ms + chain.resend_after_ms;
}

void ChainNode::Trim(ShardChain& chain) {
  ApplyIndex needed_after = chain.committed;
  if (chain.is_tail())
    needed_after = chain.fill && chain.fill->image != 0 ? chain.fill->index : chain.index;
  while (!chain.kept.empty() && chain.kept.front().header.index <= needed_after) {
    kept_bytes_ -= chain.kept.front().bytes();
    chain.kept.pop_front();
  }
  if (chain.waits()) return;
  for (auto& [address, link] : links_) link.open.erase({chain.table, chain.id});
}

void ChainNode::Release(ShardChain& chain) {
  while (!chain.folds.empty() && chain.folds.front().first <= chain.committed) {
    chain.settled = chain.folds.front().second;
    chain.folds.pop_front();
    settled_changed_ = true;
  }
  while (!chain.waiting.empty() && chain.waiting.front().index <= chain.committed) {
    PendingAnswer& answer = *chain.waiting.front().answer;
    if (--answer.n_open == 0) {
      out_.answers.push_back({std::move(answer.peer), std::move(answer.reply)});
    }
    chain.waiting.pop_front();
  }
}

void ChainNode::Commit(ShardChain& chain, ApplyIndex committed) {
  chain.committed = std::max(chain.committed, std::min(committed, chain.index));
  Trim(chain);
  Release(chain);
  Acknowledge(chain, false);
}

// Messages of other servers.

void ChainNode::TakeMessage(const ChainMessage& message, const std::string& peer, int64_t now_ms) {
  const ClusterMap& map = *snapshot_->map;
  if (message.stamp.cluster_id != map.cluster_id || message.stamp.epoch != map.epoch ||
      message.stamp.to != handler_.boot_id() || snapshot_->self == nullptr) {
    return;
  }
  switch (message.kind) {
    case ChainMessage::Kind::kEntries:
      TakeEntries(message, peer, now_ms);
      break;
    case ChainMessage::Kind::kAcks:
      TakeAcks(message, now_ms);
      break;
    case ChainMessage::Kind::kQuestion:
      TakeQuestion(message, peer);
      break;
    case ChainMessage::Kind::kSlice:
      TakeSlice(message, peer, now_ms);
      break;
    case ChainMessage::Kind::kProgress:
      TakeProgress(message, now_ms);
      break;
  }
  SendAcks();
}

void ChainNode::TakeEntries(const ChainMessage& message, const std::string& peer, int64_t now_ms) {
  size_t next_key = 0, next_value = 0;
  for (const EntryHeader& header : message.entries) {
    const Selection selection = message.keys.subspan(next_key, header.n_keys);
    const std::span<const float> values = message.values.subspan(next_value, header.n_values);
    next_key += header.n_keys;
    next_value += header.n_values;
    ShardChain* const chain = FindChain(header.table, header.shard);
    if (chain == nullptr || chain->view.number != header.view || !chain->predecessor() ||
        BootOf(*chain->predecessor()) != message.stamp.from ||
        (chain->is_joiner && !chain->is_filled)) {
      continue;  // not of this view: whoever sends it will learn of ours, or we of its
    }
    chain->back_peer = peer;
    switch (Apply(*chain, header, selection, values)) {
      case EntryFate::kApplied:
        AddEntry(*chain, header, selection, values);
        Acknowledge(*chain, false);
        break;
      case EntryFate::kOld:
        Acknowledge(*chain, false);
        break;
      case EntryFate::kGap: {
        const bool may_ask = now_ms >= chain->may_ask_again_ms;
        if (may_ask) chain->may_ask_again_ms = now_ms + limits::kAskAgainMs;
        Acknowledge(*chain, may_ask);
        break;
      }
      case EntryFate::kMalformed:
        break;  // no head sends that
    }
  }
  SendFresh(now_ms);
}

void ChainNode::Acknowledge(ShardChain& chain, bool resend) {
  if (!chain.predecessor() || chain.back_peer.empty()) return;
  auto& [where, asks] = to_acknowledge_[{chain.table, chain.id}];
  where = &chain;
  asks = asks || resend;
}

void ChainNode::SendAcks() {
  std::map<std::pair<std::string, BootId>, std::vector<ShardAck>> acks;
  for (const auto& [name, each] : to_acknowledge_) {
    const auto& [chain, resend] = each;
    acks[{chain->back_peer, BootOf(*chain->predecessor())}].push_back(
        {.table = chain->table,
         .shard = chain->id,
         .view = chain->view.number,
         .resend = resend,
         .held = chain->index,
         .committed = chain->is_joiner ? chain->index : chain->committed});
  }
  to_acknowledge_.clear();
  for (const auto& [where, list] : acks) {
    out_.up.push_back({where.first, EncodeAcks(StampTo(where.second), list)});
  }
}

void ChainNode::TakeQuestion(const ChainMessage& message, const std::string& peer) {
  for (const ShardAck& asked : message.acks) {
    ShardChain* const chain = FindChain(asked.table, asked.shard);
    if (chain == nullptr || chain->view.number != asked.view || !chain->predecessor() ||
        BootOf(*chain->predecessor()) != message.stamp.from ||
        (chain->is_joiner && !chain->is_filled)) {
      continue;
    }
    chain->back_peer = peer;
    Acknowledge(*chain, false);
  }
}

void ChainNode::TakeAcks(const ChainMessage& message, int64_t now_ms) {
  for (const ShardAck& ack : message.acks) {
    ShardChain* const chain = FindChain(ack.table, ack.shard);
    if (chain == nullptr || chain->view.number != ack.view || !chain->successor() ||
        BootOf(*chain->successor()) != message.stamp.from) {
      continue;
    }
    Link& link = links_[AddressOf(*chain, *chain->successor())];
    link.heard_ms = now_ms;
    chain->heard_in_view = true;
    chain->resend_after_ms = limits::kChainResendMs;
    chain->resend_at_ms = now_ms + chain->resend_after_ms;
    if (std::exchange(link.is_silent, false)) report_changed_ = true;
    const ApplyIndex held = std::min(ack.held, chain->index);
    if (chain->fill) {
      if (chain->fill->done) chain->fill->index = std::max(chain->fill->index, held);
      Trim(*chain);
    } else {
      Commit(*chain, std::min(ack.committed, held));
    }
    if (ack.resend != 0) SendKept(*chain, held, now_ms, false);
  }
}

// Filling a joiner.

void ChainNode::BeginFills(int64_t now_ms) {
  size_t n_images = 0;
  for (const auto& [name, chain] : filling_) {
    n_images += chain->fill->image != 0 && !chain->fill->done;
  }
  for (const auto& [name, chain] : filling_) {
    if (n_images >= limits::kImagesMax) return;
    Fill& fill = *chain->fill;
    if (fill.image != 0) continue;
    fill.image = ++last_image_;
    fill.bytes = chain->shard->Image(&fill.index);
    fill.sent = fill.received = 0;
    fill.moved_at_ms = now_ms;
    fill.resend_after_ms = limits::kChainResendSoonMs;
    fill.resend_at_ms = now_ms + fill.resend_after_ms;
    ++n_images;
    SendSlices(*chain, now_ms);
  }
}

void ChainNode::SendSlices(ShardChain& chain, int64_t) {
  Fill& fill = *chain.fill;
  const LinkAddress address = AddressOf(chain, fill.joiner);
  while (fill.sent < fill.bytes.size() && fill.sent - fill.received < limits::kImageWindowBytes) {
    const size_t size = std::min(limits::kImageSliceBytes, fill.bytes.size() - fill.sent);
    Buffer bytes = handler_.buffers().Allocate(size);
    std::memcpy(bytes.data(), fill.bytes.data() + fill.sent, size);
    const ImageSlice slice{.table = chain.table,
                           .shard = chain.id,
                           .view = chain.view.number,
                           .image = fill.image,
                           .offset = fill.sent,
                           .total = fill.bytes.size()};
    out_.down.push_back({address.server, address.thread,
                         EncodeSlice(StampTo(BootOf(fill.joiner)), slice, std::move(bytes))});
    fill.sent += size;
  }
}

void ChainNode::TakeSlice(const ChainMessage& message, const std::string& peer, int64_t) {
  const ImageSlice& slice = message.slice;
  ShardChain* const chain = FindChain(slice.table, slice.shard);
  if (chain == nullptr || chain->view.number != slice.view || !chain->is_joiner ||
      BootOf(chain->view.tail()) != message.stamp.from) {
    return;
  }
  Loading& loading = chain->loading;
  ImageProgress progress{.table = slice.table,
                         .shard = slice.shard,
                         .view = slice.view,
                         .image = slice.image,
                         .received = slice.total};
  if (!chain->is_filled) {
    if (loading.image != slice.image) loading = {slice.image, {}};
    if (slice.offset == loading.bytes.size()) {
      loading.bytes.insert(loading.bytes.end(), message.slice_bytes.begin(),
                           message.slice_bytes.end());
    }
    progress.received = loading.bytes.size();
    if (progress.received == slice.total) {
      chain->is_filled = chain->shard->LoadImage(loading.bytes).ok();
      progress.refused = !chain->is_filled;
      loading = {};
      if (chain->is_filled) {
        chain->index = chain->shard->apply_index();
        report_changed_ = true;
      }
    }
  }
  chain->back_peer = peer;
  out_.up.push_back({peer, EncodeProgress(StampTo(message.stamp.from), std::span(&progress, 1))});
}

void ChainNode::TakeProgress(const ChainMessage& message, int64_t now_ms) {
  for (const ImageProgress& progress : message.progress) {
    ShardChain* const chain = FindChain(progress.table, progress.shard);
    if (chain == nullptr || !chain->fill || chain->view.number != progress.view ||
        chain->fill->image != progress.image || chain->fill->done ||
        BootOf(chain->fill->joiner) != message.stamp.from) {
      continue;
    }
    Fill& fill = *chain->fill;
    fill.moved_at_ms = now_ms;
    fill.resend_after_ms = limits::kChainResendMs;
    fill.resend_at_ms = now_ms + fill.resend_after_ms;
    if (progress.refused != 0) {
      const ServerId joiner = fill.joiner;
      fill = Fill();
      fill.joiner = joiner;
      Trim(*chain);
      continue;
    }
    fill.received = std::max(fill.received, std::min<size_t>(progress.received, fill.bytes.size()));
    fill.sent = std::max(fill.sent, fill.received);
    fill.done = fill.received == fill.bytes.size();
    if (fill.done) {
      fill.bytes = {};
      SendKept(*chain, fill.index, now_ms, false);
    } else {
      SendSlices(*chain, now_ms);
    }
  }
  BeginFills(now_ms);
}

// Time.

bool ChainNode::needs_ticks() const {
  if (!filling_.empty()) return true;
  return std::ranges::any_of(
      links_, [](const auto& each) { return !each.second.open.empty() || each.second.is_silent; });
}

void ChainNode::Tick(int64_t now_ms) {
  const int64_t last_tick_ms = std::exchange(last_tick_ms_, now_ms);
  const bool was_away = now_ms - last_tick_ms > limits::kPauseMs;
  const bool tells = now_ms / limits::kChainWaitingMs != last_tick_ms / limits::kChainWaitingMs;
  for (auto& [address, link] : links_) {
    if (was_away) link.heard_ms = now_ms;
    const bool is_silent = !link.open.empty() && now_ms - link.heard_ms >= limits::kChainSilenceMs;
    if (is_silent != link.is_silent) report_changed_ = true;
    link.is_silent = is_silent;
    if (link.open.empty()) continue;
    const auto open = link.open;  // sending changes it
    if (tells) {
      for (const auto& [name, chain] : open) Acknowledge(*chain, false);
    }
    // Nothing at all came: the connection may be broken.
    bool anew = now_ms - std::max(link.heard_ms, link.renewed_ms) >= limits::kChainResendMs;
    for (const auto& [name, chain] : open) {
      if (now_ms < chain->resend_at_ms) continue;
      chain->resend_after_ms = std::min(chain->resend_after_ms * 2, limits::kChainResendMsMax);
      chain->resend_at_ms = now_ms + chain->resend_after_ms;
      if (anew) link.renewed_ms = now_ms;
      SendKept(*chain, chain->fill ? chain->fill->index : chain->committed, now_ms,
               std::exchange(anew, false));
    }
  }
  for (const auto& [name, chain] : filling_) {
    Fill& fill = *chain->fill;
    if (was_away) fill.moved_at_ms = now_ms;
    if (fill.image == 0 || fill.done) continue;
    if (now_ms < fill.resend_at_ms) continue;
    fill.resend_after_ms = std::min(fill.resend_after_ms * 2, limits::kChainResendMsMax);
    fill.resend_at_ms = now_ms + fill.resend_after_ms;
    fill.sent = fill.received;
    SendSlices(*chain, now_ms);
    if (now_ms - fill.moved_at_ms >= limits::kChainSilenceMs) report_changed_ = true;
  }
  BeginFills(now_ms);
  SendAcks();
}

void ChainNode::AddToReport(Report* report) {
  report_changed_ = false;
  for (const auto& [name, chain] : reported_) {
    ShardProgress progress{chain->table,           chain->id,
                           chain->view.number,     chain->index,
                           chain->shard->folded(), ShardProgress::State::kMember};
    if (chain->is_joiner) {
      progress.state =
          chain->is_filled ? ShardProgress::State::kFilled : ShardProgress::State::kFilling;
    }
    report->shards.push_back(progress);
  }
  const auto add_silent = [&](ServerId server) {
    if (std::ranges::find(report->silent, server) == report->silent.end()) {
      report->silent.push_back(server);
    }
  };
  for (const auto& [address, link] : links_) {
    if (link.is_silent) add_silent(address.server);
  }
  for (const auto& [name, chain] : filling_) {
    const Fill& fill = *chain->fill;
    if (fill.image != 0 && !fill.done &&
        last_tick_ms_ - fill.moved_at_ms >= limits::kChainSilenceMs) {
      add_silent(fill.joiner);
    }
  }
}

}  // namespace fastps
