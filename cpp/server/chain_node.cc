#include "server/chain_node.h"

#include <algorithm>

#include "base/limits.h"

namespace fastps {

ChainNode::ChainNode(RequestHandler& handler, ThreadId thread, uint32_t n_threads)
    : handler_(handler),
      thread_(thread),
      n_threads_(n_threads),
      snapshot_(std::make_shared<const Snapshot>(
          Snapshot{std::make_shared<const ClusterMap>(), nullptr, {}})) {}

const ShardChain* ChainNode::Find(TableId table, ShardId shard) const {
  const auto found = chains_.find(table);
  if (found == chains_.end() || shard.value >= found->second.size()) return nullptr;
  return found->second[shard.value].get();
}

ShardChain* ChainNode::FindChain(TableId table, ShardId shard) {
  return const_cast<ShardChain*>(Find(table, shard));
}

bool ChainNode::IsFrom(const ShardChain& chain, ViewNumber view, std::optional<ServerId> neighbour,
                       BootId from) const {
  return chain.view.number == view && neighbour && BootOf(*neighbour) == from;
}

ShardChain* ChainNode::FindBelow(TableId table, ShardId shard, ViewNumber view, BootId from) {
  ShardChain* const chain = FindChain(table, shard);
  if (chain == nullptr || !IsFrom(*chain, view, chain->predecessor(), from)) return nullptr;
  return chain->is_joiner && !chain->is_filled ? nullptr : chain;
}

ShardChain* ChainNode::FindAbove(TableId table, ShardId shard, ViewNumber view, BootId from) {
  ShardChain* const chain = FindChain(table, shard);
  return chain != nullptr && IsFrom(*chain, view, chain->successor(), from) ? chain : nullptr;
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

void ChainNode::Adopt(std::shared_ptr<const Snapshot> snapshot, int64_t now_ms) {
  if (snapshot == snapshot_) return;
  const std::shared_ptr<const Snapshot> former = std::exchange(snapshot_, std::move(snapshot));
  const ClusterMap& map = *snapshot_->map;
  const auto is_over = [&](TableId table) {
    return former->map->epoch != map.epoch || !snapshot_->tables.contains(table);
  };
  for (auto& [table, chains] : chains_) {
    if (!is_over(table)) continue;
    for (auto& chain : chains) {
      if (chain != nullptr) Drop(*chain);
    }
  }
  std::erase_if(chains_, [&](const auto& each) { return is_over(each.first); });
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
  // Also where this stays the head: who is answered in a new view must know it, or it could read
  // what it wrote from a former tail that does not.
  Bounce(chain);
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
      TakeSlice(message, peer);
      break;
    case ChainMessage::Kind::kProgress:
      TakeProgress(message, now_ms);
      break;
  }
  SendAcks();
}

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
      if (!chain->resend.IsDue(now_ms)) continue;
      chain->resend.Double(now_ms);
      if (anew) link.renewed_ms = now_ms;
      SendKept(*chain, chain->fill ? chain->fill->index : chain->committed, now_ms,
               std::exchange(anew, false));
    }
  }
  for (const auto& [name, chain] : filling_) {
    Fill& fill = *chain->fill;
    if (was_away) fill.moved_at_ms = now_ms;
    if (fill.image == 0 || fill.done || !fill.resend.IsDue(now_ms)) continue;
    fill.resend.Double(now_ms);
    fill.sent = fill.received;
    SendSlices(*chain);
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
