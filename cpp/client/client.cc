#include "client/client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"

namespace fastps {
namespace {

Status ClosedStatus() { return Status(Code::kClosed, "the client was closed"); }

}  // namespace

Client::Client(const ZmqRuntime& runtime, SessionId session, BootId boot_id, uint64_t clock,
               std::shared_ptr<const ClusterMap> map, const std::string& scheduler)
    : runtime_(&runtime),
      session_(session),
      epoch_(map->epoch),
      clock_(clock),
      map_(std::move(map)) {
  lanes_.emplace(runtime, *buffers_, session, map_);
  const ClusterId cluster_id = map_->cluster_id;
  const Incarnation incarnation = map_->incarnation;
  const auto heartbeat = [this, boot_id, cluster_id, incarnation] {
    MutexLock lock(mutex_);
    return Heartbeat{.role = Role::kWorker,
                     .id = session_.value,
                     .boot_id = boot_id,
                     .cluster_id = cluster_id,
                     .incarnation = incarnation,
                     .map_version = map_->version,
                     .rows = 0,
                     .requests = n_requests(),
                     .clock = told_clock_ = ClockToTellNow(),
                     .busy_us = busy_us_,
                     .heard = told_.number,
                     .told_minimum = told_.minimum,
                     .told_rounds = told_.rounds};
  };
  const auto on_map = [this, cluster_id](std::shared_ptr<const ClusterMap> newer) {
    if (newer->cluster_id == cluster_id) InstallMap(std::move(newer));
  };
  const auto on_notice = [this, cluster_id](Bytes frame) {
    const std::optional<ClockNotice> notice = DecodeClockNotice(frame);
    if (notice && notice->cluster_id == cluster_id) InstallClocks(*notice);
  };
  control_link_ = std::make_unique<ControlLink>(runtime, scheduler, heartbeat, on_map, on_notice);
}

Client::Client(FindSink find_sink, SessionId session, std::shared_ptr<const ClusterMap> map)
    : runtime_(nullptr),
      find_sink_(std::move(find_sink)),
      session_(session),
      epoch_(map->epoch),
      map_(std::move(map)) {}

Client::~Client() { Close(); }

void Client::Close() {
  std::unique_ptr<ControlLink> control_link;
  std::thread background;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    if (lanes_) lanes_->traffic().FailAll(ClosedStatus());
    StartGated();
    background.swap(background_thread_);
    control_link.swap(control_link_);
  }
  control_link.reset();  // unlocked: its thread may be about to install a map
  waker_.Wake();
  changed_.notify_all();
  if (background.joinable()) background.join();
  MutexLock lock(mutex_);
  while (leading_) changed_.wait_for(lock.native(), std::chrono::milliseconds(1));
  if (lanes_) lanes_->Clear();
}

void Client::InstallMap(std::shared_ptr<const ClusterMap> map) {
  MutexLock lock(mutex_);
  if (map->version <= map_->version || map->epoch < map_->epoch) return;
  map_ = std::move(map);
  plans_.clear();
  if (epoch_ < map_->epoch && !session_ended_ && !*session_refused_) epoch_changed_ = true;
  session_ended_ = session_ <= map_->highest_session && !map_->HasSession(session_);
  if (lanes_) {
    if (const Status open = OpenStatus(); open.ok()) {
      lanes_->traffic().Replan(map_);
      for (std::shared_ptr<Call>& resumed : lanes_->traffic().TakeResumed()) {
        resumed->clock = clock_;  // the scheduler may have heard of the end of its own step
        writes_.push_back(resumed);
        background_.push_back(std::move(resumed));
        NeedBackgroundThread();
      }
    } else {
      lanes_->traffic().FailAll(open);
    }
  }
  if (leading_) waker_.Wake();  // there may be something to send
  StartGated();
  changed_.notify_all();
}

std::shared_ptr<const ShardPlan> Client::PlanOf(TableId table, Use use) {
  MutexLock lock(mutex_);
  std::shared_ptr<const ShardPlan>& plan = plans_[{table, use}];
  if (plan == nullptr) plan = ShardPlan::Make(map_, table, use);
  if (plan != nullptr && plan->serves_both) {
    const Use other = use == Use::kRead ? Use::kWrite : Use::kRead;
    plans_[{table, other}] = plan;
  }
  return plan;
}

Status Client::CheckOpen() {
  MutexLock lock(mutex_);
  return OpenStatus();
}

Status Client::OpenStatus() const {
  if (epoch_changed_) {  // before all else: who rejoins closes what is over
    return Status(Code::kEpochChanged,
                  "the job was restored from a checkpoint, and this call belongs to what was "
                  "before; the client rejoins with its next call: go on from its clock_value");
  }
  if (closed_) return ClosedStatus();
  if (session_ended_ || *session_refused_) {
    return Status(Code::kSessionEnded,
                  "the scheduler ended this client's session (its rank was given to another "
                  "client, or it was silent too long); connect again");
  }
  return {};
}

std::vector<Buffer> Client::GatherAll(const Call& call) {
  std::vector<Buffer> values(call.batch().messages().size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = call.GatherValues(i, *buffers_);
  return values;
}

void Client::Start(const std::shared_ptr<Call>& call, Mode mode, int64_t deadline_ms) {
  n_requests_.fetch_add(1, std::memory_order_relaxed);
  call->n_late_pushes = n_late_pushes_;
  if (call->plan().spec().rounds && call->argument != 0 &&
      (call->op() == Op::kPull || IsWrite(call->op()))) {
    folds_told_->OnCall(call->plan().spec().id, call->argument - 1);
    call->folds_told = folds_told_;
  }
  call->session_refused = session_refused_;
  if (runtime_ == nullptr && RunsNow(*call, mode, deadline_ms)) {
    RunEmbedded(*call, {}, deadline_ms);
    MutexLock lock(mutex_);
    if (mode == Mode::kAsync && IsWrite(call->op()) && !call->status().ok()) {
      writes_.push_back(call);
    }
    return;
  }
  std::vector<Buffer> values;
  if (mode == Mode::kAsync) values = GatherAll(*call);
  MutexLock lock(mutex_);
  call->clock = held_steps_.empty() ? clock_ : std::min(clock_, *held_steps_.begin());
  if (IsWrite(call->op())) {
    ForgetEndedWrites();
    writes_.push_back(call);  // first, so that whatever goes wrong surfaces
  } else if (call->op() == Op::kPull && call->argument != 0 && mode == Mode::kAsync) {
    std::erase_if(pulls_, [this](const auto& pull) { return HasEnded(*pull); });
    pulls_.push_back(call);
  }
  if (Status status = OpenStatus(); !status.ok()) {
    for (size_t i = 0; i < call->batch().messages().size(); ++i) call->FailMessage(i, status);
    return;
  }
  if (mode == Mode::kBlocking || (runtime_ != nullptr && IsOpen(call->gate))) {
    StartNow(call, std::move(values), mode);
    return;
  }
  for (const Buffer& each : values) gated_bytes_ += each.size();
  gated_.push_back({call, std::move(values)});
}

void Client::StartNow(const std::shared_ptr<Call>& call, std::vector<Buffer> values, Mode mode) {
  if (lanes_->traffic().FailIfLost(*call)) return;
  lanes_->traffic().Enqueue(call, std::move(values));
  if (mode == Mode::kAsync) {
    background_.push_back(call);
    NeedBackgroundThread();
  }
  if (leading_) {
    waker_.Wake();
  } else {
    lanes_->SendQueued(NowMs());
    if (mode == Mode::kAsync) changed_.notify_all();
  }
}

void Client::Lead(MutexLock& lock, int64_t deadline_ms) {
  leading_ = true;
  int64_t now_ms = NowMs();
  lanes_->SendQueued(now_ms);
  std::vector<ZmqPollItem> items = lanes_->PollItems();
  items.push_back({nullptr, waker_.fd(), kZmqPollIn, 0});
  const int64_t until_ms =
      std::min({deadline_ms, lanes_->NextTimer(now_ms), now_ms + limits::kWaitSliceMs});
  const int64_t wait_ms = std::max<int64_t>(until_ms - now_ms, 0);
  lock.Unlock();
  runtime_->api().poll(items.data(), static_cast<int>(items.size()), static_cast<long>(wait_ms));
  lock.Lock();
  if (items.back().revents != 0) waker_.Clear();
  items.pop_back();
  now_ms = NowMs();
  lanes_->ReceiveReplies(items, now_ms);
  lanes_->RestartSilent(now_ms);
  if (closed_) lanes_->traffic().FailAll(ClosedStatus());
  lanes_->SendQueued(now_ms);
  TellHeldSteps();
  leading_ = false;
  changed_.notify_all();
}

bool Client::SleepSlice(MutexLock& lock, int64_t deadline_ms) {
  const int64_t now_ms = NowMs();
  if (now_ms >= deadline_ms) return false;
  const int64_t wait_ms = std::min(deadline_ms - now_ms, limits::kWaitSliceMs);
  changed_.wait_for(lock.native(), std::chrono::milliseconds(wait_ms));
  return true;
}

template <class Done>
bool Client::WaitUntil(MutexLock& lock, int64_t deadline_ms, Done done) {
  while (!done()) {
    if (leading_) {
      if (!SleepSlice(lock, deadline_ms)) return false;
    } else {
      if (NowMs() >= deadline_ms) return false;
      Lead(lock, deadline_ms);
    }
  }
  return true;
}

bool Client::Wait(const Call& call, int64_t deadline_ms) {
  MutexLock lock(mutex_);
  if (runtime_ == nullptr) {
    for (;;) {
      RunGated(lock);
      if (!IsGated(call)) return call.done();
      if (!SleepSlice(lock, deadline_ms)) return false;
    }
  }
  return WaitUntil(lock, deadline_ms, [&] { return call.done(); });
}

bool Client::WaitForAny(std::span<const Call* const> calls, int64_t deadline_ms) {
  MutexLock lock(mutex_);
  const auto any_ended = [&] {
    return std::ranges::any_of(calls, [this](const Call* call) { return HasEnded(*call); });
  };
  if (runtime_ != nullptr) return WaitUntil(lock, deadline_ms, any_ended);
  for (;;) {
    RunGated(lock);
    if (any_ended()) return true;
    if (!SleepSlice(lock, deadline_ms)) return false;
  }
}

bool Client::WaitForRoom(int64_t deadline_ms) {
  if (runtime_ == nullptr) return true;
  MutexLock lock(mutex_);
  return WaitUntil(lock, deadline_ms, [this] {
    const size_t bytes = lanes_->traffic().bytes_in_flight() + gated_bytes_;
    return closed_ || bytes < limits::kClientBytesInFlightMax;
  });
}

bool Client::IsDone(const Call& call) {
  MutexLock lock(mutex_);
  if (runtime_ == nullptr) RunGated(lock);
  return HasEnded(call);
}

void Client::Detach(Call& call) {
  MutexLock lock(mutex_);
  while (running_ == &call) changed_.wait(lock.native());
  if (call.done()) return;
  if (!IsWrite(call.op())) {
    std::erase_if(gated_, [&](const GatedCall& each) { return each.call.get() == &call; });
    std::erase_if(pulls_, [&](const auto& pull) { return pull.get() == &call; });
    TellHeldSteps();
  }
  if (runtime_ == nullptr || IsGated(call)) {
    call.Detach();
    return;
  }
  lanes_->traffic().GatherQueued(call);
  call.Detach();
  const auto open = std::ranges::find_if(writes_, [&](const auto& w) { return w.get() == &call; });
  if (open != writes_.end()) {
    background_.push_back(*open);
    NeedBackgroundThread();
  }
  changed_.notify_all();
}

void Client::ForgetEndedWrites() {
  std::erase_if(writes_, [this](const auto& call) {
    return HasEnded(*call) && (call->status().ok() || call->observed);
  });
}

bool Client::WaitForWrites(int64_t deadline_ms, bool pulls) {
  std::vector<std::shared_ptr<Call>> open;
  {
    MutexLock lock(mutex_);
    open = writes_;
    if (pulls) open.insert(open.end(), pulls_.begin(), pulls_.end());
  }
  return std::ranges::all_of(open, [&](const auto& call) { return Wait(*call, deadline_ms); });
}

std::vector<std::shared_ptr<const Call>> Client::UnobservedFailures() {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<const Call>> failed;
  for (const auto& call : writes_) {
    if (FailedUnseen(*call)) failed.push_back(call);
  }
  return failed;
}

std::vector<std::shared_ptr<const Call>> Client::TakeUnobservedFailures() {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<const Call>> failed;
  for (const auto& call : writes_) {
    if (!FailedUnseen(*call)) continue;
    call->observed = true;
    failed.push_back(call);
  }
  ForgetEndedWrites();
  return failed;
}

void Client::NeedBackgroundThread() {
  if (!background_thread_.joinable()) background_thread_ = std::thread([this] { RunBackground(); });
}

void Client::RunBackground() {
  MutexLock lock(mutex_);
  while (!closed_) {
    std::erase_if(background_, [](const auto& call) { return call->done(); });
    if (background_.empty()) {
      changed_.wait(lock.native());
    } else if (leading_) {
      SleepSlice(lock, kNeverMs);
    } else {
      Lead(lock, kNeverMs);
    }
  }
}

}  // namespace fastps
