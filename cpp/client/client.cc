#include "client/client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"

namespace fastps {
namespace {

Status ClosedStatus() { return Status(Code::kClosed, "the client was closed"); }

Status LostStatus() { return Status(Code::kServerLost, "every copy of the shard is lost"); }

}  // namespace

Client::Client(const ZmqRuntime& runtime, SessionId session, BootId boot_id,
               std::shared_ptr<const ClusterMap> map, const std::string& scheduler)
    : runtime_(&runtime), session_(session), map_(std::move(map)) {
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
                     .requests = n_requests()};
  };
  const auto on_map = [this, cluster_id](std::shared_ptr<const ClusterMap> newer) {
    if (newer->cluster_id == cluster_id) InstallMap(std::move(newer));
  };
  control_link_ = std::make_unique<ControlLink>(runtime, scheduler, heartbeat, on_map);
}

Client::Client(FindSink find_sink, SessionId session, std::shared_ptr<const ClusterMap> map)
    : runtime_(nullptr),
      find_sink_(std::move(find_sink)),
      session_(session),
      map_(std::move(map)) {}

Client::~Client() { Close(); }

void Client::Close() {
  control_link_.reset();
  std::thread background;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    FailAll(ClosedStatus());
    background.swap(background_thread_);
  }
  waker_.Wake();
  changed_.notify_all();
  if (background.joinable()) background.join();
  MutexLock lock(mutex_);
  while (leading_) changed_.wait_for(lock.native(), std::chrono::milliseconds(1));
  lanes_.clear();
}

void Client::InstallMap(std::shared_ptr<const ClusterMap> map) {
  MutexLock lock(mutex_);
  if (map->version <= map_->version) return;
  map_ = std::move(map);
  plans_.clear();
  session_ended_ = session_ <= map_->highest_session && !map_->HasSession(session_);
  if (leading_) {
    lanes_changed_ = true;
    waker_.Wake();
  } else {
    DropLostLanes();
  }
  changed_.notify_all();
}

std::shared_ptr<const ShardPlan> Client::PlanOf(TableId table) {
  MutexLock lock(mutex_);
  std::shared_ptr<const ShardPlan>& plan = plans_[table];
  if (plan == nullptr) plan = ShardPlan::Make(map_, table);
  return plan;
}

Status Client::CheckOpen() const {
  if (closed_) return ClosedStatus();
  if (session_ended_) {
    return Status(Code::kSessionEnded,
                  "the scheduler ended this client's session (its rank was given to another "
                  "client, or it was silent too long); connect again");
  }
  return {};
}

Request Client::RequestOf(const Call& call, size_t index, std::span<const PartHeader> parts,
                          const Buffer& values, BootId boot_id) const {
  const ClusterMap& map = *call.plan().map;
  const PlannedMessage& planned = call.batch().messages()[index];
  Request request;
  request.stamp = {map.cluster_id, map.epoch, map.incarnation, boot_id, map.version};
  request.op = call.op();
  request.table = call.plan().spec().id;
  request.session = session_;
  request.argument = call.argument;
  request.parts = parts;
  request.keys = call.batch().keys().As<Key>().subspan(planned.keys_begin, planned.n_keys);
  request.values = values.As<float>();
  return request;
}

void Client::Start(const std::shared_ptr<Call>& call, Mode mode, int64_t deadline_ms) {
  n_requests_.fetch_add(1, std::memory_order_relaxed);
  if (runtime_ == nullptr) {
    RunEmbedded(*call, deadline_ms);
    return;
  }
  std::vector<Buffer> values(call->batch().messages().size());
  if (mode == Mode::kAsync) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = call->GatherValues(i, *buffers_);
  }
  MutexLock lock(mutex_);
  if (Status status = CheckOpen(); !status.ok()) {
    for (size_t i = 0; i < values.size(); ++i) call->FailMessage(i, status);
    return;
  }
  if (FailOnLostServers(*call)) return;
  if (IsWrite(call->op())) {
    ForgetEndedWrites();
    writes_.push_back(call);
  }
  EnqueueAll(call, mode == Mode::kAsync ? std::move(values) : std::vector<Buffer>());
  if (mode == Mode::kAsync) {
    background_.push_back(call);
    NeedBackgroundThread();
  }
  if (leading_) {
    waker_.Wake();
  } else {
    SendQueued(NowMs());
    if (mode == Mode::kAsync) changed_.notify_all();
  }
}

bool Client::FailOnLostServers(Call& call) {
  const auto messages = call.batch().messages();
  std::vector<bool> lost(messages.size());
  bool any_lost = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ServerId server = call.plan().lanes[messages[i].lane].server;
    const ServerInfo* const info = map_->FindServer(server);
    lost[i] = info == nullptr || info->lost;
    any_lost = any_lost || lost[i];
  }
  if (!any_lost) return false;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (lost[i]) call.FailMessage(i, LostStatus());
  }
  call.FailRest();
  return true;
}

Client::Lane* Client::LaneOf(const ShardPlan& plan, uint32_t lane) {
  const LaneAddress address = plan.lanes[lane];
  const auto [found, is_new] = lanes_.try_emplace(address);
  if (is_new) {
    const ServerInfo& server = *plan.map->FindServer(address.server);
    found->second.boot_id = server.boot_id;
    found->second.endpoint = server.endpoints[address.thread.value];
  }
  return &found->second;
}

void Client::EnqueueAll(const std::shared_ptr<Call>& call, std::vector<Buffer> values) {
  const ShardPlan& plan = call->plan();
  std::vector<Sequence>& sequences = last_sequences_[plan.spec().id];
  sequences.resize(plan.spec().num_shards);
  const auto messages = call->batch().messages();
  for (size_t i = 0; i < messages.size(); ++i) {
    auto message = std::make_shared<OutMessage>();
    message->call = call;
    message->index = i;
    message->number = ++last_message_number_;
    message->parts = call->PartsOf(i);
    if (IsWrite(call->op())) {
      for (PartHeader& part : message->parts) {
        part.sequence = Sequence(++sequences[part.shard.value].value);
      }
    }
    if (!values.empty()) {
      message->values = std::move(values[i]);
      message->gathered = true;
    }
    LaneOf(plan, messages[i].lane)->in_flight.Enqueue(std::move(message));
  }
}

void Client::SendQueued(int64_t now_ms) {
  for (auto& [address, lane] : lanes_) {
    while (OutMessage* const message = lane.in_flight.NextToSend(now_ms)) {
      const RequestId id(++last_request_id_);
      if (!SendOne(lane, *message, id)) break;
      lane.in_flight.OnSent(id, now_ms);
    }
  }
}

bool Client::SendOne(Lane& lane, OutMessage& message, RequestId id) {
  if (!lane.socket) {
    lane.socket.emplace(*runtime_, kZmqDealer);
    // Fails only for an endpoint of wrong form; the silence that follows ends in the deadline.
    (void)lane.socket->Connect(lane.endpoint);
  }
  if (!message.gathered) {
    message.values = message.call->GatherValues(message.index, *buffers_);
    message.gathered = true;
  }
  Request request =
      RequestOf(*message.call, message.index, message.parts, message.values, lane.boot_id);
  request.request_id = id;
  EncodeRequestHead(request, &head_);
  OutFrame frames[3] = {{head_, {}}};
  size_t n_frames = 1;
  if (!request.keys.empty()) {
    frames[n_frames++] = {std::as_bytes(request.keys), message.call->batch().keys()};
  }
  if (!request.values.empty()) {
    frames[n_frames++] = {std::as_bytes(request.values), message.values};
  }
  return lane.socket->Send({frames, n_frames});
}

int64_t Client::NextTimer(int64_t now_ms) const {
  int64_t at_ms = kNeverMs;
  for (const auto& [address, lane] : lanes_) {
    at_ms = std::min({at_ms, lane.in_flight.resend_at_ms(), lane.in_flight.pause_ends_ms(now_ms)});
  }
  return at_ms;
}

void Client::Lead(MutexLock& lock, int64_t deadline_ms) {
  leading_ = true;
  int64_t now_ms = NowMs();
  SendQueued(now_ms);
  std::vector<ZmqPollItem> items = {{nullptr, waker_.fd(), kZmqPollIn, 0}};
  std::vector<Lane*> polled;
  for (auto& [address, lane] : lanes_) {
    if (!lane.in_flight.has_sent()) continue;
    items.push_back({lane.socket->raw(), 0, kZmqPollIn, 0});
    polled.push_back(&lane);
  }
  const int64_t until_ms =
      std::min({deadline_ms, NextTimer(now_ms), now_ms + limits::kWaitSliceMs});
  const int64_t wait_ms = std::max<int64_t>(until_ms - now_ms, 0);
  lock.Unlock();
  runtime_->api().poll(items.data(), static_cast<int>(items.size()), static_cast<long>(wait_ms));
  lock.Lock();
  if (items[0].revents != 0) waker_.Clear();
  now_ms = NowMs();
  for (size_t i = 0; i < polled.size(); ++i) {
    if (items[i + 1].revents != 0) ReceiveReplies(*polled[i], now_ms);
  }
  RestartSilentLanes(now_ms);
  if (lanes_changed_) DropLostLanes();
  if (closed_) FailAll(ClosedStatus());
  SendQueued(now_ms);
  leading_ = false;
  changed_.notify_all();
}

void Client::ReceiveReplies(Lane& lane, int64_t now_ms) {
  InMessage message(*runtime_);
  while (lane.socket->Receive(&message)) {
    Reply reply;
    if (!decoder_.DecodeReply(message.frames(), &reply).ok()) continue;
    std::shared_ptr<OutMessage> answered = lane.in_flight.TakeReplied(reply.request_id, now_ms);
    if (answered == nullptr) continue;
    if (answered->call->OnReply(answered->index, reply) == Call::Verdict::kAgain) {
      lane.in_flight.EnqueueAgain(std::move(answered), now_ms);
    }
  }
}

void Client::RestartSilentLanes(int64_t now_ms) {
  for (auto& [address, lane] : lanes_) {
    if (now_ms < lane.in_flight.resend_at_ms()) continue;
    lane.socket.reset();
    lane.in_flight.RestartAll(now_ms);
  }
}

void Client::DropLostLanes() {
  lanes_changed_ = false;
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    const ServerInfo* const server = map_->FindServer(lane->first.server);
    const bool lost = server == nullptr || server->lost;
    if (!lost && !session_ended_) {
      ++lane;
      continue;
    }
    const Status status = lost ? LostStatus() : CheckOpen();
    for (const auto& message : lane->second.in_flight.TakeAll()) {
      message->call->FailMessage(message->index, status);
    }
    lane = lanes_.erase(lane);
  }
}

void Client::FailAll(const Status& status) {
  for (auto& [address, lane] : lanes_) {
    for (const auto& message : lane.in_flight.TakeAll()) {
      message->call->FailMessage(message->index, status);
    }
  }
}

bool Client::Wait(const Call& call, int64_t deadline_ms) {
  if (runtime_ == nullptr) return call.done();
  MutexLock lock(mutex_);
  while (!call.done()) {
    const int64_t now_ms = NowMs();
    if (now_ms >= deadline_ms) return false;
    if (leading_) {
      const int64_t wait_ms = std::min(deadline_ms - now_ms, limits::kWaitSliceMs);
      changed_.wait_for(lock.native(), std::chrono::milliseconds(wait_ms));
    } else {
      Lead(lock, deadline_ms);
    }
  }
  return true;
}

bool Client::IsDone(const Call& call) {
  MutexLock lock(mutex_);
  return call.done();
}

void Client::Detach(Call& call) {
  if (runtime_ == nullptr) return;
  MutexLock lock(mutex_);
  if (call.done()) return;
  for (auto& [address, lane] : lanes_) {
    lane.in_flight.ForEachQueued([&](OutMessage& message) {
      if (message.call.get() != &call || message.gathered) return;
      message.values = call.GatherValues(message.index, *buffers_);
      message.gathered = true;
    });
  }
  call.Detach();
  const auto open = std::ranges::find_if(writes_, [&](const auto& w) { return w.get() == &call; });
  if (open != writes_.end()) {
    background_.push_back(*open);
    NeedBackgroundThread();
  }
  changed_.notify_all();
}

void Client::ForgetEndedWrites() {
  std::erase_if(writes_, [](const auto& call) {
    return call->done() && (call->status().ok() || call->observed);
  });
}

bool Client::WaitForWrites(int64_t deadline_ms) {
  std::vector<std::shared_ptr<Call>> open;
  {
    MutexLock lock(mutex_);
    open = writes_;
  }
  return std::ranges::all_of(open, [&](const auto& call) { return Wait(*call, deadline_ms); });
}

Status Client::TakeUnobservedFailure() {
  MutexLock lock(mutex_);
  Status first;
  for (const auto& call : writes_) {
    if (!call->done() || call->status().ok() || call->observed) continue;
    call->observed = true;
    if (first.ok()) first = call->status();
  }
  ForgetEndedWrites();
  return first;
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
      changed_.wait_for(lock.native(), std::chrono::milliseconds(limits::kWaitSliceMs));
    } else {
      Lead(lock, kNeverMs);
    }
  }
}

void Client::RunEmbedded(Call& call, int64_t deadline_ms) {
  struct DirectReply final : ReplySink {
    OwnedReply reply;
    void OnReply(OwnedReply taken) override { reply = std::move(taken); }
  };
  Status status;
  {
    MutexLock lock(mutex_);
    status = CheckOpen();
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
    const Buffer values = call.GatherValues(i, *buffers_);
    const std::vector<PartHeader> parts = call.PartsOf(i);
    for (;;) {
      DirectReply direct;
      sink->Submit(RequestOf(call, i, parts, values, boot_id), direct);
      if (call.OnReply(i, ViewOf(direct.reply)) == Call::Verdict::kDone) break;
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
