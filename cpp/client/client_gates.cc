// Client at gates: what the scheduler says of the group, and the calls that wait for it.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "client/client.h"

namespace fastps {

void Client::InstallClocks(const ClockNotice& notice) {
  MutexLock lock(mutex_);
  if (notice.session != session_ || notice.number < told_.number) return;
  // Of one number, the later notice says the same of the group and perhaps more of this worker.
  if (notice.number == told_.number && notice.clock <= told_.clock) return;
  told_ = notice;
  StartGated();
  // Inside one process whoever brings the notice runs what it lets through.
  if (runtime_ == nullptr) RunGated(lock);
  changed_.notify_all();
}

ClockNotice Client::told() {
  MutexLock lock(mutex_);
  return told_;
}

void Client::EndStep(uint64_t clock, uint64_t busy_us) {
  MutexLock lock(mutex_);
  clock_ = std::max(clock_, clock);
  busy_us_ = busy_us;
  if (control_link_ != nullptr) control_link_->SendHeartbeat();
}

uint64_t Client::busy_us() {
  MutexLock lock(mutex_);
  return busy_us_;
}

uint64_t Client::HoldStep() {
  MutexLock lock(mutex_);
  held_steps_.insert(clock_);
  return clock_;
}

void Client::ReleaseStep(uint64_t step) {
  MutexLock lock(mutex_);
  held_steps_.erase(held_steps_.find(step));
  TellHeldSteps();
}

uint64_t Client::ClockToTellNow() const {
  uint64_t clock = held_steps_.empty() ? clock_ : std::min(clock_, *held_steps_.begin());
  for (const auto* calls : {&writes_, &pulls_}) {
    for (const auto& call : *calls) {
      if (call->clock < clock && !HasEnded(*call)) clock = call->clock;
    }
  }
  return clock;
}

uint64_t Client::ClockToTell() {
  MutexLock lock(mutex_);
  return ClockToTellNow();
}

void Client::TellHeldSteps() {
  if (control_link_ == nullptr || told_clock_ == clock_) return;
  if (ClockToTellNow() > told_clock_) control_link_->SendHeartbeat();
}

bool Client::IsOpen(const Gate& gate) const {
  if (gate.always_open()) return true;
  // What opened the gate may rest on a map that is still on its way.
  return gate.IsOpen(told_) && map_->version >= told_.map_version;
}

bool Client::WaitForGate(const Gate& gate, int64_t deadline_ms, Status* status) {
  MutexLock lock(mutex_);
  for (;;) {
    *status = OpenStatus();
    if (!status->ok() || IsOpen(gate)) return true;
    if (!SleepSlice(lock, deadline_ms)) return false;
  }
}

bool Client::IsGated(const Call& call) const {
  return running_ == &call || std::ranges::any_of(gated_, [&](const GatedCall& each) {
           return each.call.get() == &call;
         });
}

void Client::StartGated() {
  const Status open = OpenStatus();
  if (open.ok() && runtime_ == nullptr) return;  // whoever waits runs them
  std::vector<GatedCall> former = std::exchange(gated_, {});
  gated_bytes_ = 0;
  for (GatedCall& each : former) {
    if (!open.ok()) {
      for (size_t i = 0; i < each.call->batch().messages().size(); ++i) {
        each.call->FailMessage(i, open);
      }
    } else if (IsOpen(each.call->gate)) {
      StartNow(each.call, std::move(each.values), Mode::kAsync);
    } else {
      for (const Buffer& values : each.values) gated_bytes_ += values.size();
      gated_.push_back(std::move(each));
    }
  }
}

}  // namespace fastps
