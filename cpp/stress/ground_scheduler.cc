// What the scheduler's thread of a Ground does: it takes heartbeats, closes rounds and brings maps,
// closed rounds and clock notices to whom they concern, until they say that they heard.
#include <poll.h>

#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "stress/ground.h"
#include "wire/map_codec.h"

namespace fastps::stress {
namespace {

constexpr long kPollMs = 20;

std::string AddressOf(Bytes frame) {
  return {reinterpret_cast<const char*>(frame.data()), frame.size()};
}

}  // namespace

void Ground::RunScheduler() {
  std::optional<InMessage> message;
  if (runtime_ != nullptr) message.emplace(*runtime_);
  while (!stopping_) {
    if (runtime_ != nullptr) {
      ZmqPollItem items[] = {{scheduler_socket_->raw(), 0, kZmqPollIn, 0},
                             {nullptr, waker_.fd(), kZmqPollIn, 0}};
      runtime_->api().poll(items, 2, kPollMs);
    } else {
      pollfd item{waker_.fd(), POLLIN, 0};
      (void)poll(&item, 1, kPollMs);
    }
    waker_.Clear();
    if (message) TakeHeartbeats(&*message);
    closer_->Advance([this] { return map_version(); });
    if (runtime_ == nullptr) GiveNews();
    closer_->Settle();
    if (runtime_ != nullptr) SendNews();
  }
}

void Ground::TakeHeartbeats(InMessage* message) {
  while (scheduler_socket_->Receive(message)) {
    if (message->frames().size() != 2) continue;
    const std::optional<Heartbeat> heartbeat = DecodeHeartbeat(message->frames()[1]);
    if (!heartbeat) {
      TakeReport(message->frames()[1]);
      continue;
    }
    Peer& peer = peers_[AddressOf(message->frames()[0])];
    peer.last = *heartbeat;
    // What it does not say that it heard is sent again.
    peer.sent_map = heartbeat->map_version;
    if (heartbeat->role == Role::kServer) {
      peer.sent_rounds = heartbeat->heard;
      closer_->OnHeard(heartbeat->id, heartbeat->heard);
    } else {
      if (heartbeat->heard < peer.sent_notice.first) peer.sent_notice = {};
      closer_->EndSteps(SessionId(heartbeat->id), heartbeat->clock);
    }
  }
}

void Ground::TakeReport(Bytes frame) {
  const std::optional<Report> report = DecodeReport(frame);
  if (!report) return;
  MutexLock lock(mutex_);
  for (const ShardProgress& shard : report->shards) {
    reports_[{report->server, shard.table, shard.shard}] = {report->map_version, shard};
  }
}

void Ground::SendNews() {
  const std::shared_ptr<const ClusterMap> newest = map();
  const std::string map_frame = kMapFrameTag + EncodeClusterMap(*newest);
  for (auto next = peers_.begin(); next != peers_.end();) {
    const std::string& address = next->first;
    Peer& peer = next->second;
    bool is_there = true;
    const auto send = [&](const std::string& frame) {
      const OutFrame frames[] = {{std::as_bytes(std::span(address)), {}},
                                 {std::as_bytes(std::span(frame)), {}}};
      is_there = scheduler_socket_->Send(frames) && is_there;
    };
    if (peer.sent_map < newest->version) {
      send(map_frame);
      peer.sent_map = newest->version;
    }
    if (peer.last.role == Role::kServer) {
      RoundsNotice notice = closer_->RoundsAfter(peer.sent_rounds);
      if (!notice.rounds.empty()) {
        peer.sent_rounds = notice.first_number + notice.rounds.size() - 1;
        send(EncodeRoundsNotice(notice));
        // Some come twice at the same time.
        if (notice.first_number % 2 == 0) {
          servers_[peer.last.id]->handler().CloseRounds(std::move(notice));
        }
      }
    } else if (const auto notice = closer_->NoticeFor(SessionId(peer.last.id))) {
      if (std::pair(notice->number, notice->clock) != peer.sent_notice) {
        peer.sent_notice = {notice->number, notice->clock};
        send(EncodeClockNotice(*notice));
      }
    }
    next = is_there ? std::next(next) : peers_.erase(next);
  }
}

void Ground::GiveNews() {
  for (;;) {
    const RoundsNotice notice = closer_->RoundsAfter(n_given_);
    if (notice.rounds.empty()) break;
    // Servers put it aside while the map that it rests on is still on its way.
    const bool will_do = installed_ >= notice.map_version.value;
    embedded_->CloseRounds(notice);
    if (!will_do) break;
    n_given_ = notice.first_number + notice.rounds.size() - 1;
  }
  for (size_t i = 0; i < map()->servers.size(); ++i) closer_->OnHeard(i, n_given_);
  closer_->Settle();
  std::map<SessionId, std::weak_ptr<Client>> clients;
  {
    MutexLock lock(mutex_);
    clients = clients_;
  }
  for (const auto& [session, weak] : clients) {
    const std::optional<ClockNotice> notice = closer_->NoticeFor(session);
    if (!notice) continue;
    if (const std::shared_ptr<Client> client = weak.lock()) client->InstallClocks(*notice);
  }
}

}  // namespace fastps::stress
