// RoundWorker: what one thread of a session under BSP does within its steps, at random: pushes and
// pulls with their step, behind gates, waited for at the server, given up, too early and too late.
// It checks that each pull shows exactly the rounds before its step.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "stress/caller.h"
#include "stress/round_field.h"

namespace fastps::stress {

class RoundWorker {
 public:
  // `client` and `set` are shared by the threads of the session. The set holds all rows.
  RoundWorker(RoundField& rounds, Client& client, SessionId session, KeySet& set, uint64_t seed)
      : rounds_(rounds),
        field_(rounds.field()),
        client_(client),
        session_(session),
        set_(set),
        random_(seed),
        caller_(rounds.field(), client) {}

  // One random operation in step `clock`. Under `in_doubt` the session may end at any moment: only
  // what ends with it is started.
  void Act(uint64_t clock, bool in_doubt);
  // The step ends: waits for what was started in it.
  void FinishStep();
  // The session has ended.
  void FinishAll();

  size_t Random(size_t n) { return random_() % n; }

 private:
  enum class Way {
    kGated,       // asynchronous, behind its gate
    kWaitFirst,   // waits for the gate, then for the call
    kServer,      // waits for the call, no gate: the server says again and again "not yet"
    kServerAsync  // the same, asynchronous
  };
  struct OpenPull {
    std::unique_ptr<OpenCall> open;
    std::shared_ptr<const RoundTable> table;
    std::vector<size_t> rows;
    Round from;
  };

  Way RandomWay(bool in_doubt) { return in_doubt ? Way(Random(2)) : Way(Random(4)); }
  // Embedded, a write may queue behind others for whoever tells clocks, which must find its rounds
  // folded: so it has passed its gate, as those of Python have.
  Way RandomWriteWay(bool in_doubt) { return RandomWay(in_doubt || field_.ground->is_embedded()); }
  // So may an asynchronous pull. One that waits for its call runs where it was made.
  Way RandomPullWay(bool in_doubt) {
    const Way way = RandomWay(in_doubt);
    return way == Way::kServerAsync && field_.ground->is_embedded() ? Way::kServer : way;
  }
  std::shared_ptr<const RoundTable> RandomTable();
  std::vector<size_t> RandomRows();
  // False: the session has ended before the gate was open.
  bool WaitForGate(const Gate& gate);
  std::unique_ptr<OpenCall> Start(Op op, const RoundTable& table, std::span<const size_t> rows,
                                  std::vector<float> values, Way way, Terms terms);
  Code Finish(OpenCall& open);
  void FinishPull(OpenPull& pull);

  void Push(uint64_t clock, bool in_doubt);
  void Pull(uint64_t clock, bool in_doubt);
  void PullSet(uint64_t clock);
  void PullAsStranger();
  void GiveUpPull(uint64_t clock);  // of the next step: its gate is closed
  void Wild(uint64_t clock, bool in_doubt);
  void Foreign();
  void PushGatedByMinimum(uint64_t clock);  // as under SSP

  RoundField& rounds_;
  Field& field_;
  Client& client_;
  const SessionId session_;
  KeySet& set_;
  bool has_ended_ = false;
  std::mt19937_64 random_;
  Caller caller_;
  std::vector<std::unique_ptr<OpenCall>> writes_;
  std::vector<OpenPull> pulls_;
};

}  // namespace fastps::stress
