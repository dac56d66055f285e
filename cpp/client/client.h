// Client: what a worker's session sends and waits for. Any thread may call any method.
//
// Over sockets the threads that wait share the work: one of them leads, which is to say it polls
// and uses the sockets while the others sleep; a blocking call of a single thread therefore needs
// no thread hand-off. A background thread leads for asynchronous calls only. Embedded, a call runs
// on the caller's thread from end to end.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/mutex.h"
#include "base/status.h"
#include "client/call.h"
#include "client/gate.h"
#include "client/lanes.h"
#include "client/shard_plan.h"
#include "transport/control_link.h"
#include "transport/waker.h"
#include "transport/zmq_socket.h"
#include "wire/notices.h"
#include "wire/request_sink.h"

namespace fastps {

class Client {
 public:
  using FindSink = std::function<RequestSink*(BootId)>;

  // Over sockets: heartbeats, with the `boot_id` the session was joined with, and maps go by
  // `scheduler`.
  // `clock` is where the session starts.
  Client(const ZmqRuntime& runtime, SessionId session, BootId boot_id, uint64_t clock,
         std::shared_ptr<const ClusterMap> map, const std::string& scheduler);
  // Embedded: `find_sink` gives the server of a boot id, called directly.
  Client(FindSink find_sink, SessionId session, std::shared_ptr<const ClusterMap> map);
  ~Client();  // closes
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Makes `map` the one in force unless it is older. One of a later epoch than the first ends the
  // session and everything that is open.
  void InstallMap(std::shared_ptr<const ClusterMap> map);
  // Whether one was installed. A session that had ended before it has missed the change.
  bool epoch_changed() const { return epoch_changed_.load(std::memory_order_relaxed); }

  // Takes in where the group stands now; older notices and those for others are ignored.
  void InstallClocks(const ClockNotice& notice);
  ClockNotice told();

  // Ends a step: `clock` is the number of steps ended, `busy_us` the time worked in all of them.
  // The scheduler hears it with the next heartbeat, which goes at once.
  void EndStep(uint64_t clock, uint64_t busy_us);

  // The scheduler must not hear of a step's end before its writes are acknowledged, whichever
  // thread made them, nor before its pulls under BSP, which must see nothing of the step, are
  // answered. HoldStep begins such a call and returns its step, ReleaseStep ends it. What was
  // started holds its step by itself.
  uint64_t HoldStep();
  void ReleaseStep(uint64_t step);
  // The number of ended steps that the scheduler may hear of.
  uint64_t ClockToTell();
  uint64_t busy_us();

  // Waits until `gate` is open; false when `deadline_ms` came first. Not Ok once the session ended.
  bool WaitForGate(const Gate& gate, int64_t deadline_ms, Status* status);

  // How the shards of `table` lie now for `use`; null when the map has no such table.
  std::shared_ptr<const ShardPlan> PlanOf(TableId table, Use use);

  BufferPool& buffers() { return *buffers_; }

  enum class Mode {
    kBlocking,  // the caller waits next; its arrays live until Wait says done or Detach returns
    kAsync,     // the arrays of a write are copied before Start returns
  };
  // Waits until an asynchronous call may start: what is in flight has a bound. False when
  // `deadline_ms` came first.
  bool WaitForRoom(int64_t deadline_ms);

  // Sends `call` on its way. An error that is known at once ends the call before anything is sent.
  // An asynchronous call whose gate is closed starts when it opens. Embedded calls run at once, or,
  // when their gate is closed, inside whatever waits for them; `deadline_ms` bounds them.
  void Start(const std::shared_ptr<Call>& call, Mode mode, int64_t deadline_ms);

  // Waits until `call` is done; false when `deadline_ms` came first.
  bool Wait(const Call& call, int64_t deadline_ms);

  // Waits until one of `calls` is done; false when `deadline_ms` came first.
  bool WaitForAny(std::span<const Call* const> calls, int64_t deadline_ms);

  bool IsDone(const Call& call);

  // The caller stops waiting: its arrays are not touched after this returns. A write goes on until
  // it is acknowledged.
  void Detach(Call& call);

  // Waits until every write started so far has ended; with `pulls` also every asynchronous pull
  // that belongs to a step. False when `deadline_ms` came first.
  bool WaitForWrites(int64_t deadline_ms, bool pulls = false);

  // Not Ok when the client was closed, or its session or epoch has ended.
  Status CheckOpen();

  // The failed writes whose failures nobody was told of, in call order.
  std::vector<std::shared_ptr<const Call>> UnobservedFailures();
  // The same; from now on they count as told.
  std::vector<std::shared_ptr<const Call>> TakeUnobservedFailures();

  // Ends all calls with kClosed and lets the sockets go. May be called twice.
  void Close();

  // Pushes whose round was closed without them.
  uint64_t n_late_pushes() const { return n_late_pushes_->load(std::memory_order_relaxed); }
  uint64_t n_requests() const { return n_requests_.load(std::memory_order_relaxed); }

 private:
  Status OpenStatus() const FASTPS_REQUIRES(mutex_);
  // One round of the leader's work: send, wait for answers without the mutex, take them.
  // Requires: nobody leads.
  void Lead(MutexLock& lock, int64_t deadline_ms) FASTPS_REQUIRES(mutex_);
  void ForgetEndedWrites() FASTPS_REQUIRES(mutex_);
  bool FailedUnseen(const Call& call) const FASTPS_REQUIRES(mutex_) {
    return HasEnded(call) && !call.status().ok() && !call.observed;
  }
  // Waits until `done()`, which the mutex guards; leads while nobody does. False: the deadline
  // came.
  template <class Done>
  bool WaitUntil(MutexLock& lock, int64_t deadline_ms, Done done) FASTPS_REQUIRES(mutex_);
  // Sleeps until something changes or a slice is over; false when `deadline_ms` has come.
  bool SleepSlice(MutexLock& lock, int64_t deadline_ms) FASTPS_REQUIRES(mutex_);
  void NeedBackgroundThread() FASTPS_REQUIRES(mutex_);
  void RunBackground();
  // A call whose gate is closed, with its values when it is a write.
  struct GatedCall {
    std::shared_ptr<Call> call;
    std::vector<Buffer> values;
  };
  bool IsOpen(const Gate& gate) const FASTPS_REQUIRES(mutex_);
  void StartNow(const std::shared_ptr<Call>& call, std::vector<Buffer> values, Mode mode)
      FASTPS_REQUIRES(mutex_);
  // Starts, over sockets, what waits for a gate that is open now; ends all of it when the session
  // has ended.
  void StartGated() FASTPS_REQUIRES(mutex_);
  // The same inside one process: runs on this thread, without the mutex, one call at a time.
  void RunGated(MutexLock& lock) FASTPS_REQUIRES(mutex_);
  bool IsGated(const Call& call) const FASTPS_REQUIRES(mutex_);
  bool HasEnded(const Call& call) const FASTPS_REQUIRES(mutex_) {
    return !IsGated(call) && call.done();  // in this order: a gated call may be running
  }
  uint64_t ClockToTellNow() const FASTPS_REQUIRES(mutex_);
  // Tells the scheduler of steps that were held back and are not any more.
  void TellHeldSteps() FASTPS_REQUIRES(mutex_);
  // Gathers the values of every message of a write.
  std::vector<Buffer> GatherAll(const Call& call);
  // Embedded: whether a call runs inside Start.
  bool RunsNow(const Call& call, Mode mode, int64_t deadline_ms);
  void RunEmbedded(Call& call, std::span<const Buffer> values, int64_t deadline_ms);
  // One message of an embedded call, handled by the server when this returns.
  OwnedReply SubmitEmbedded(Call& call, size_t index, BootId boot_id, RequestSink& sink,
                            const Buffer& values) const;

  const ZmqRuntime* const runtime_;  // null when embedded
  const FindSink find_sink_;         // empty over sockets
  const SessionId session_;
  const Epoch epoch_;  // that the session belongs to
  const std::shared_ptr<BufferPool> buffers_ = BufferPool::Create();
  std::atomic<uint64_t> n_requests_{0};
  const std::shared_ptr<std::atomic<bool>> session_refused_ =
      std::make_shared<std::atomic<bool>>(false);
  const std::shared_ptr<FoldsTold> folds_told_ = std::make_shared<FoldsTold>();
  const std::shared_ptr<std::atomic<uint64_t>> n_late_pushes_ =
      std::make_shared<std::atomic<uint64_t>>(0);
  std::atomic<bool> epoch_changed_{false};  // set with the mutex held
  Waker waker_;

  Mutex mutex_;
  std::condition_variable_any changed_;  // a call ended, the lead is free, or work came
  bool leading_ FASTPS_GUARDED_BY(mutex_) = false;
  bool closed_ FASTPS_GUARDED_BY(mutex_) = false;
  bool session_ended_ FASTPS_GUARDED_BY(mutex_) = false;
  ClockNotice told_ FASTPS_GUARDED_BY(mutex_);  // the newest
  uint64_t clock_ FASTPS_GUARDED_BY(mutex_) = 0;
  uint64_t busy_us_ FASTPS_GUARDED_BY(mutex_) = 0;
  uint64_t told_clock_ FASTPS_GUARDED_BY(mutex_) = 0;  // that the scheduler was told
  std::multiset<uint64_t> held_steps_ FASTPS_GUARDED_BY(mutex_);
  std::vector<GatedCall> gated_ FASTPS_GUARDED_BY(mutex_);   // in call order
  size_t gated_bytes_ FASTPS_GUARDED_BY(mutex_) = 0;         // of their values
  const Call* running_ FASTPS_GUARDED_BY(mutex_) = nullptr;  // embedded: a gated call
  std::shared_ptr<const ClusterMap> map_ FASTPS_GUARDED_BY(mutex_);
  std::map<std::pair<TableId, Use>, std::shared_ptr<const ShardPlan>> plans_
      FASTPS_GUARDED_BY(mutex_);
  std::optional<Lanes> lanes_ FASTPS_GUARDED_BY(mutex_);                 // none when embedded
  std::vector<std::shared_ptr<Call>> writes_ FASTPS_GUARDED_BY(mutex_);  // open, or failed unseen
  std::vector<std::shared_ptr<Call>> pulls_ FASTPS_GUARDED_BY(mutex_);   // open, of a step
  std::vector<std::shared_ptr<Call>> background_ FASTPS_GUARDED_BY(mutex_);  // nobody waits here
  std::thread background_thread_ FASTPS_GUARDED_BY(mutex_);
  std::unique_ptr<ControlLink> control_link_ FASTPS_GUARDED_BY(mutex_);
};

}  // namespace fastps
