// The stress test: many threads use clients in every way at once, in steps under BSP and without
// any, while sessions and tables come and go; in the end the sums must be exact. Meant for
// sanitizers, which find the races on the way.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "stress/caller.h"
#include "stress/cuts.h"
#include "stress/field.h"
#include "stress/ground.h"
#include "stress/round_field.h"
#include "stress/sessions.h"
#include "stress/views.h"
#include "stress/worker.h"

namespace fastps::stress {
namespace {

constexpr uint32_t kServers = 2;       // inside one process
constexpr uint32_t kChainServers = 3;  // over sockets: tables have one, two or three copies
constexpr uint32_t kDataThreads = 2;
constexpr size_t kClients = 2;

struct Options {
  uint32_t n_threads = 8;
  double seconds = 10;
  uint64_t seed = 1;
  std::string libzmq;  // empty: embedded
};

// Sessions that come, push, leave, and may not push any more.
void RunGuests(Field& field, uint32_t lane, uint64_t seed, int64_t until_ms) {
  for (uint64_t round = 0; NowMs() < until_ms; ++round) {
    SessionId session;
    const std::shared_ptr<Client> client = field.ground->Join(&session);
    KeySets sets = field.MakeSets();
    Worker worker(field, *client, sets, lane, seed + round);
    for (int i = 0; i < 20; ++i) worker.Step();
    worker.Finish();
    if (!client->WaitForWrites(NowMs() + 60'000)) STRESS_FAIL(field, "writes have not ended");
    field.ground->Leave(session);
    Caller caller(field, *client);
    const Key key = KeyOf(0);
    const auto open = caller.StartKeys(Op::kPush, field.sums, {&key, 1},
                                       std::vector<float>(field.n_lanes, 1.0f), Caller::How::kWait);
    if (open != nullptr && caller.Finish(*open, {Code::kSessionEnded}) == Code::kOk) {
      STRESS_FAIL(field, "an ended session could push");
    }
    // A pull under way while the client is closed ends, one way or the other.
    const auto pull = caller.StartKeys(Op::kPull, field.sums, {&key, 1}, {}, Caller::How::kAsync);
    std::thread closer([&] { client->Close(); });
    if (pull != nullptr) caller.Finish(*pull, {Code::kSessionEnded, Code::kClosed});
    client->Close();
    closer.join();
  }
}

// Tables that come and go.
void RunTables(Field& field, int64_t until_ms) {
  for (uint32_t round = 0; NowMs() < until_ms; ++round) {
    const TableSpec spec =
        SpecOf("passing", TableKind::kSparse, RuleKind::kAccumulate, 1, 0, 1 + round % 8);
    const TableId table = field.ground->AddTable(spec).id;
    field.passing_table = table.value;
    std::this_thread::sleep_for(std::chrono::milliseconds(40));
    if (round % 4 == 0) field.passing_table = 0;
    field.ground->DropTable(table);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

int Run(const Options& options) {
  Status status;
  const std::unique_ptr<Ground> ground = Ground::Create(
      options.libzmq, options.libzmq.empty() ? kServers : kChainServers, kDataThreads, &status);
  if (ground == nullptr) {
    std::fprintf(stderr, "stress: %s\n", status.message().c_str());
    return 2;
  }
  Field field(ground.get(), options.n_threads + 1);
  RoundField rounds(field);
  std::atomic<uint64_t> n_views{0};
  std::atomic<uint64_t> n_cuts{0};
  const int64_t begin_ms = NowMs();
  const int64_t until_ms = begin_ms + static_cast<int64_t>(options.seconds * 1000);
  {
    std::vector<std::shared_ptr<Client>> clients;
    std::vector<KeySets> sets;
    for (size_t i = 0; i < kClients; ++i) {
      SessionId session;
      clients.push_back(ground->Join(&session));
      sets.push_back(field.MakeSets());
    }
    std::vector<std::thread> threads;
    for (uint32_t lane = 0; lane < options.n_threads; ++lane) {
      threads.emplace_back([&, lane] {
        Worker worker(field, *clients[lane % kClients], sets[lane % kClients], lane,
                      options.seed * 1000 + lane);
        while (NowMs() < until_ms) worker.Step();
        worker.Finish();
      });
    }
    threads.emplace_back(
        [&] { RunGuests(field, options.n_threads, options.seed * 1'000'000, until_ms); });
    threads.emplace_back([&] { RunTables(field, until_ms); });
    threads.emplace_back([&] { rounds.ComeAndGo(*clients[0], until_ms); });
    std::vector<TableId> tables = {field.sums, field.scalars, field.dense, field.wild};
    for (const auto& table : rounds.tables()) tables.push_back(table->spec.id);
    threads.emplace_back(
        [&] { n_cuts = RunCuts(field, tables, field.sums, options.seed * 77, until_ms); });
    if (!options.libzmq.empty()) {
      threads.emplace_back(
          [&] { n_views = RunViews(field, tables, kChainServers, options.seed, until_ms); });
    }
    for (uint32_t rank = 0; rank < kSlots.value; ++rank) {
      const uint64_t seed = options.seed * 1000 + 500 + rank;
      threads.emplace_back([&, rank, seed] { RunSessions(rounds, Rank(rank), seed, until_ms); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& client : clients) {
      if (!client->WaitForWrites(NowMs() + 60'000)) STRESS_FAIL(field, "writes have not ended");
      for (const auto& failure : client->TakeUnobservedFailures()) {
        if (failure->status().code() == Code::kTableNotFound) continue;
        STRESS_FAIL(field, "a write failed unseen: %s", failure->status().message().c_str());
      }
    }
    CheckSums(field, *clients[0]);
    rounds.CheckAll(*clients[0]);
  }
  if (ground->n_refused() != 0) STRESS_FAIL(field, "a server could not decode a message");
  const auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
  std::printf(
      "rounds: %llu closed, %llu of them without a slow worker; %llu pushes, %llu parts of "
      "them late; %llu pulls checked, %llu with one right answer\n",
      number(ground->closer().closed(kGroup).value), number(ground->closer().n_left_out()),
      number(rounds.n_pushes), number(rounds.n_late), number(rounds.n_pulls),
      number(rounds.n_exact));
  std::printf(
      "stress: %s, %u threads, %.1f s: %llu calls, %llu maps, %llu views "
      "of chains, %llu cuts, %llu failures\n",
      options.libzmq.empty() ? "embedded" : "sockets", options.n_threads,
      static_cast<double>(NowMs() - begin_ms) / 1000, number(field.n_calls),
      number(ground->map_version().value), number(n_views), number(n_cuts),
      number(field.n_failures));
  return field.n_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fastps::stress

int main(int argc, char** argv) {
  fastps::stress::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--threads") == 0) {
      options.n_threads = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    } else if (std::strcmp(argv[i], "--seconds") == 0) {
      options.seconds = std::atof(argv[i + 1]);
    } else if (std::strcmp(argv[i], "--seed") == 0) {
      options.seed = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (std::strcmp(argv[i], "--libzmq") == 0) {
      options.libzmq = argv[i + 1];
    } else {
      argc = 0;
    }
  }
  if (argc % 2 == 0) {
    std::fprintf(stderr,
                 "usage: fastps_stress [--threads 8] [--seconds 10] [--seed 1] [--libzmq PATH]\n"
                 "Without --libzmq the servers are embedded.\n");
    return 2;
  }
  return fastps::stress::Run(options);
}
