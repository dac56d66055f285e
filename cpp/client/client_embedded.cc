// Client inside one process: calls that run on the caller's thread from end to end.
#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "client/client.h"

namespace fastps {
namespace {

OwnedReply Ask(RequestSink& sink, const Request& request) {
  struct DirectReply final : ReplySink {
    OwnedReply reply;
    void OnReply(OwnedReply taken) override { reply = std::move(taken); }
  };
  DirectReply direct;
  sink.Submit(request, direct);
  return std::move(direct.reply);
}

Request RequestOfMessage(const Call& call, size_t index, SessionId session, BootId boot_id,
                         std::span<const PartHeader> parts, const Buffer& values) {
  const PlannedMessage& planned = call.batch().messages()[index];
  const auto keys = call.batch().keys().As<Key>().subspan(planned.keys_begin, planned.n_keys);
  return RequestOf(call, StampOf(*call.plan().map, boot_id), session, parts, keys, values);
}

// Asks again for those parts of a write that were not taken: one that was would be applied twice,
// without sequences.
void AskForRest(RequestSink& sink, const Request& whole, OwnedReply* reply) {
  reply->code = Code::kOk;
  size_t keys_begin = 0, values_begin = 0;
  for (size_t i = 0; i < whole.parts.size(); ++i) {
    const PartHeader& part = whole.parts[i];
    if (static_cast<Code>(reply->parts[i].code) != Code::kOk) {
      Request one = whole;
      one.parts = whole.parts.subspan(i, 1);
      one.keys = whole.keys.subspan(keys_begin, part.n_keys);
      one.values = whole.values.subspan(values_begin, part.n_values);
      const OwnedReply again = Ask(sink, one);
      if (again.parts.empty()) {
        reply->code = again.code;
      } else {
        reply->parts[i] = again.parts[0];
      }
    }
    keys_begin += part.n_keys;
    values_begin += part.n_values;
  }
}

}  // namespace

bool Client::RunsNow(const Call& call, Mode mode, int64_t deadline_ms) {
  MutexLock lock(mutex_);
  RunGated(lock);
  // What was called earlier acts earlier, also when another thread is at it.
  while (IsWrite(call.op()) && running_ != nullptr && SleepSlice(lock, deadline_ms)) RunGated(lock);
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
  const std::vector<PartHeader> parts = call.PartsOf(index);
  const Request whole = RequestOfMessage(call, index, session_, boot_id, parts, values);
  if (!call.MayOmitKeys(index)) return Ask(sink, whole);
  std::vector<PartHeader> without_keys = parts;
  OmitKeys(&without_keys);
  OwnedReply reply =
      Ask(sink, RequestOfMessage(call, index, session_, boot_id, without_keys, values));
  const bool forgotten = std::ranges::any_of(reply.parts, [](const PartResult& part) {
    return static_cast<Code>(part.code) == Code::kNeedKeys;
  });
  if (!forgotten) return reply;
  call.ForgetKeySet(index);
  if (!IsWrite(call.op())) return Ask(sink, whole);
  AskForRest(sink, whole, &reply);
  return reply;
}

void Client::RunEmbedded(Call& call, std::span<const Buffer> gathered, int64_t deadline_ms) {
  Status status = CheckOpen();
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
      for (const PartHeader& part : messages[i].parts) {
        call.NameLost(part.shard, call.plan().route->views[part.shard.value].chain());
      }
      call.FailMessage(i, Status(Code::kServerLost, "Their rows are gone; start the job again"));
      continue;
    }
    const Buffer values = gathered.empty() ? call.GatherValues(i, *buffers_) : gathered[i];
    OwnedReply reply = SubmitEmbedded(call, i, boot_id, *sink, values);
    while (call.OnReply(i, ViewOf(reply)) != Call::Verdict::kDone) {
      // The server has not heard of this client's session or table yet, or a round is not folded;
      // or it has heard of a map that ends all this.
      if (status = CheckOpen(); !status.ok()) {
        call.FailMessage(i, status);
        break;
      }
      if (NowMs() >= deadline_ms) {
        call.FailMessage(i, Status(Code::kTimeout, "the deadline passed"));
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (IsWrite(call.op()) && !reply.parts.empty()) {
        const std::vector<PartHeader> parts = call.PartsOf(i);
        AskForRest(*sink, RequestOfMessage(call, i, session_, boot_id, parts, values), &reply);
      } else {
        reply = SubmitEmbedded(call, i, boot_id, *sink, values);
      }
    }
  }
}

}  // namespace fastps
