// ChainNode at entries: they go down the chain, acknowledgements come up.
#include <algorithm>

#include "base/limits.h"
#include "server/chain_node.h"
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

void ChainNode::AddEntry(ShardChain& chain, const EntryHeader& header, Selection selection,
                         std::span<const float> values) {
  chain.index = header.index;
  if (chain.is_tail()) chain.committed = header.index;
  if (chain.view.sealed) report_changed_ = true;
  if (!chain.successor() || (chain.fill && chain.fill->image == 0)) return;
  fresh_.push_back({&chain, header, selection, values});
}

void ChainNode::SendFresh(int64_t now_ms) {
  if (fresh_.empty()) {
    fold_members_.clear();
    return;
  }
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
  chain.resend.Start(now_ms,
                     chain.heard_in_view ? limits::kChainResendMs : limits::kChainResendSoonMs);
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

void ChainNode::TakeEntries(const ChainMessage& message, const std::string& peer, int64_t now_ms) {
  size_t next_key = 0, next_value = 0;
  for (const EntryHeader& header : message.entries) {
    const Selection selection = message.keys.subspan(next_key, header.n_keys);
    const std::span<const float> values = message.values.subspan(next_value, header.n_values);
    next_key += header.n_keys;
    next_value += header.n_values;
    ShardChain* const chain =
        FindBelow(header.table, header.shard, header.view, message.stamp.from);
    if (chain == nullptr) continue;  // whoever sends it will learn of our view, or we of its
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
    ShardChain* const chain = FindBelow(asked.table, asked.shard, asked.view, message.stamp.from);
    if (chain == nullptr) continue;
    chain->back_peer = peer;
    Acknowledge(*chain, false);
  }
}

void ChainNode::TakeAcks(const ChainMessage& message, int64_t now_ms) {
  for (const ShardAck& ack : message.acks) {
    ShardChain* const chain = FindAbove(ack.table, ack.shard, ack.view, message.stamp.from);
    if (chain == nullptr) continue;
    Link& link = links_[AddressOf(*chain, *chain->successor())];
    link.heard_ms = now_ms;
    chain->heard_in_view = true;
    chain->resend.Start(now_ms, limits::kChainResendMs);
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

}  // namespace fastps
