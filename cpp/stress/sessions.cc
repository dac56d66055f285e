#include "stress/sessions.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <thread>

#include "base/clock.h"
#include "stress/round_worker.h"

namespace fastps::stress {
namespace {

constexpr size_t kThreads = 2;

// Where the threads of a session wait for each other. May be used again and again.
class Meeting {
 public:
  void Wait() {
    MutexLock lock(mutex_);
    const uint64_t number = number_;
    if (++n_here_ == kThreads) {
      n_here_ = 0;
      ++number_;
      all_here_.notify_all();
    }
    while (number == number_) all_here_.wait(lock.native());
  }

 private:
  Mutex mutex_;
  std::condition_variable_any all_here_;
  size_t n_here_ FASTPS_GUARDED_BY(mutex_) = 0;
  uint64_t number_ FASTPS_GUARDED_BY(mutex_) = 0;
};

struct Session {
  SessionId id;
  std::shared_ptr<Client> client;
  std::unique_ptr<KeySet> set;
  Meeting meeting;
  // Changed by the first thread while the others wait.
  uint64_t clock = 0;
  bool leaving = false;
};

// The first thread's part at the end of a step.
void EndStep(RoundField& rounds, Session& session) {
  Field& field = rounds.field();
  if (!session.client->WaitForWrites(NowMs() + 60'000)) STRESS_FAIL(field, "writes do not end");
  field.ground->EndSteps(*session.client, session.id, session.clock + 1);
  // Left out of rounds it goes on at the open one, as soon as it is told.
  session.clock = std::max(session.clock + 1, session.client->told().clock);
}

void RunThread(RoundField& rounds, Session& session, size_t thread, uint64_t seed, size_t n_steps) {
  RoundWorker worker(rounds, *session.client, session.id, *session.set, seed + thread);
  for (size_t step = 0;; ++step) {
    for (size_t n = worker.Random(6); n > 0; --n) worker.Act(session.clock, false);
    if (worker.Random(40) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    session.meeting.Wait();
    if (thread == 0) session.leaving = step == n_steps;
    session.meeting.Wait();
    if (session.leaving) break;
    worker.FinishStep();
    session.meeting.Wait();
    if (thread == 0) EndStep(rounds, session);
    session.meeting.Wait();
  }
  if (thread == 0) {
    rounds.field().ground->Leave(session.id);
  } else {
    for (int n = 0; n < 4; ++n) worker.Act(session.clock, true);
  }
  session.meeting.Wait();
  worker.FinishAll();
}

}  // namespace

void RunSessions(RoundField& rounds, Rank rank, uint64_t seed, int64_t until_ms) {
  std::mt19937_64 random(seed);
  std::vector<Key> keys;
  for (size_t row = 0; row < kRoundRows; ++row) keys.push_back(KeyOf(row));
  while (NowMs() < until_ms) {
    Session session;
    session.client = rounds.field().ground->JoinGroup(rank, &session.id, &session.clock);
    session.set = std::make_unique<KeySet>(keys, KeySetSignature{{100 + rank.value, 9}});
    const size_t n_steps = random() % 60;
    const uint64_t thread_seed = random();
    std::vector<std::thread> threads;
    for (size_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back(
          [&, thread] { RunThread(rounds, session, thread, thread_seed, n_steps); });
    }
    for (std::thread& thread : threads) thread.join();
    session.client->Close();
  }
}

}  // namespace fastps::stress
