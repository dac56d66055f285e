// ChainNode filling a joiner: the tail sends an image of its shard, in slices.
#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "server/chain_node.h"

namespace fastps {

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
    // The first entry of a shard that was loaded did not come through here.
    chain->index = chain->committed = fill.index;
    fill.sent = fill.received = 0;
    fill.moved_at_ms = now_ms;
    fill.resend.Start(now_ms, limits::kChainResendSoonMs);
    ++n_images;
    SendSlices(*chain);
  }
}

void ChainNode::SendSlices(ShardChain& chain) {
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

void ChainNode::TakeSlice(const ChainMessage& message, const std::string& peer) {
  const ImageSlice& slice = message.slice;
  ShardChain* const chain = FindChain(slice.table, slice.shard);
  if (chain == nullptr || !chain->is_joiner ||
      !IsFrom(*chain, slice.view, chain->predecessor(), message.stamp.from)) {
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
    ShardChain* const chain =
        FindAbove(progress.table, progress.shard, progress.view, message.stamp.from);
    if (chain == nullptr || !chain->fill || chain->fill->image != progress.image ||
        chain->fill->done) {
      continue;
    }
    Fill& fill = *chain->fill;
    fill.moved_at_ms = now_ms;
    fill.resend.Start(now_ms, limits::kChainResendMs);
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
      SendSlices(*chain);
    }
  }
  BeginFills(now_ms);
}

}  // namespace fastps
