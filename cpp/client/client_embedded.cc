// Client inside one process: calls that run on the caller's thread from end to end.
#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "client/client.h"

namespace fastps {

bool Client::RunsNow(const Call& call, Mode mode, int64_t deadline_ms) {
  MutexLock lock(mutex_);
  RunGated(lock);
  // What was called earlier acts earlier, also when another thread is at it.
  while (IsWrite(call.op()) && running_ != nullptr && NowMs() < deadline_ms) {
    changed_.wait_for(lock.native(), std::chrono::milliseconds(limits::kWaitSliceMs));
    RunGated(lock);
  }
  return mode == Mode::kBlocking || (IsOpen(call.gate) && running_ == nullptr);
}

void Client::RunGated(MutexLock& lock) {
  while (running_ == nullptr) {
    const auto next = std::ranges::find_if(
        gated_, [this](const GatedCall& each) { return IsOpen(each.call->gate); });
    if (next == gated_.end()) return;
    const GatedCall taken = std::move(*next);
    gated_.erase(next);
    for (const Buffer& values : taken.values) gated_bytes_ -= values.size();
    running_ = taken.call.get();
    lock.Unlock();
    // The servers have folded: nothing is left to wait for.
    RunEmbedded(*taken.call, taken.values, NowMs() + limits::kGatedCallMs);
    lock.Lock();
    running_ = nullptr;
    changed_.notify_all();
  }
}

OwnedReply Client::SubmitEmbedded(Call& call, size_t index, BootId boot_id, RequestSink& sink,
                                  const Buffer& values) const {
  struct DirectReply final : ReplySink {
    OwnedReply reply;
    void OnReply(OwnedReply taken) override { reply = std::move(taken); }
  };
  const auto submit = [&](const Request& request) {
    DirectReply direct;
    sink.Submit(request, direct);
    return std::move(direct.reply);
  };
  const std::vector<PartHeader> parts = call.PartsOf(index);
  const Request whole = RequestOf(call, index, session_, boot_id, parts, values);
  if (!call.MayOmitKeys(index)) return submit(whole);
  std::vector<PartHeader> without_keys = parts;
  OmitKeys(&without_keys);
  OwnedReply reply = submit(RequestOf(call, index, session_, boot_id, without_keys, values));
  // Without sequences a part must not be applied twice, so only those that need their keys go
  // again.
  size_t keys_begin = 0, values_begin = 0;
  bool forgotten = false;
  for (size_t i = 0; i < reply.parts.size(); ++i) {
    if (static_cast<Code>(reply.parts[i].code) == Code::kNeedKeys) {
      forgotten = true;
      if (!IsWrite(call.op())) break;
      Request one = whole;
      one.parts = std::span(parts).subspan(i, 1);
      one.keys = whole.keys.subspan(keys_begin, parts[i].n_keys);
      one.values = whole.values.subspan(values_begin, parts[i].n_values);
      const OwnedReply again = submit(one);
      if (!again.parts.empty()) reply.parts[i] = again.parts[0];
    }
    keys_begin += parts[i].n_keys;
    values_begin += parts[i].n_values;
  }
  if (!forgotten) return reply;
  call.ForgetKeySet(index);
  return IsWrite(call.op()) ? std::move(reply) : submit(whole);
}

void Client::RunEmbedded(Call& call, std::span<const Buffer> gathered, int64_t deadline_ms) {
  Status status;
  {
    MutexLock lock(mutex_);
    status = OpenStatus();
  }
  const auto messages = call.batch().messages();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!status.ok()) {
      call.FailMessage(i, status);
      continue;
    }
    const ServerId server = call.plan().lanes[messages[i].lane].server;
    const BootId boot_id = call.plan().map->FindServer(server)->boot_id;
    RequestSink* const sink = find_sink_(boot_id);
    if (sink == nullptr) {
      call.FailMessage(i, LostStatus());
      continue;
    }
    const Buffer values = gathered.empty() ? call.GatherValues(i, *buffers_) : gathered[i];
    for (;;) {
      const OwnedReply reply = SubmitEmbedded(call, i, boot_id, *sink, values);
      if (call.OnReply(i, ViewOf(reply)) == Call::Verdict::kDone) break;
      // The server has not heard of this client's session or table yet.
      if (NowMs() >= deadline_ms) {
        call.FailMessage(i, Status(Code::kTimeout, "the deadline passed"));
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

}  // namespace fastps
