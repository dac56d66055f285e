"""One schedule: the processes of a job, what is done to them, and what is made of it."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass

from fastps.scheduler import messages as m
from fastps.scheduler.actions import JobShape
from simulator.checkers import Checker, ViolationError
from simulator.faults import Fault, Plan
from simulator.launcher import Launcher
from simulator.network import CALM, Network
from simulator.scheduler_node import ADDRESS, Disk, SchedulerNode
from simulator.server_node import ServerNode
from simulator.trace import Trace
from simulator.worker_node import WorkerNode
from simulator.world import MS, SECOND, World

__all__ = ["Cluster", "Result"]

COMPARE_EVERY = 700 * MS
SLICE = 250 * MS
SERVERS_MAX = 6


@dataclass(frozen=True)
class Result:
    """What came of a schedule. `violation` is empty when all is well."""

    seed: int
    violation: str
    n_events: int
    n_acknowledged: int
    n_pulled: int
    n_views: int
    n_faults: int
    n_lost_shards: int
    sim_seconds: float
    cpu_seconds: float
    trace: str


class Cluster:
    """Everything in a schedule, and the plan's hands."""

    def __init__(self, plan: Plan, trace: bool = False) -> None:
        self.plan = plan
        self.world = World(plan.seed)
        self.trace = Trace(self.world) if trace else None
        self.network = Network(self.world, plan.conditions, self.trace)
        self.shape = JobShape(
            plan.n_servers,
            {"default": plan.n_workers},
            lease=plan.lease,
            patience=20.0,
            min_copies=plan.min_copies,
            max_servers=plan.max_servers,
        )
        self.disk = Disk()
        self.checker = Checker(self)
        self.histories = self.checker.histories
        self.server_of_id: dict[int, ServerNode] = {}
        self.scheduler: SchedulerNode | None = None
        self.servers: dict[str, ServerNode] = {}
        self.workers: list[WorkerNode] = []
        self.closing = False
        self.n_faults = 0
        self._n_pids = 0
        self._n_lives = 0
        self.note("plan", str(plan))
        self.launcher = Launcher(self)
        self.network.start(self.launcher)
        self._start_scheduler()
        for n in range(plan.n_servers):
            self.world.at(n * 3 * MS, None, self._start_server, f"server{n}")
        for n in range(plan.n_workers):
            self.world.at(20 * MS + n * 5 * MS, None, self._start_worker, n)
        for fault in plan.faults:
            self.world.at(fault.at, None, self._apply, fault)
        self.world.at(COMPARE_EVERY, None, self._compare)

    # What processes ask of their surroundings.

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace, if there is one."""
        if self.trace is not None:
            self.trace.note(who, what)

    def new_pid(self) -> int:
        """Return a number that no other process has."""
        self._n_pids += 1
        return self._n_pids

    def live_servers(self) -> list[ServerNode]:
        """Return the servers that live, paused ones too."""
        return [each for each in self.servers.values() if each.alive]

    def is_leaving(self, server_id: int) -> bool:
        """Whether a server is to give its shards away."""
        assert self.scheduler is not None
        server = self.scheduler.state.servers.find(server_id)
        assert server is not None
        return server.leaving

    def scheduler_died(self) -> None:
        """End the scheduler's process."""
        if self.scheduler is not None:
            self.scheduler.kill(closed=True)
            self.scheduler = None

    # The schedule.

    def run(self) -> Result:
        """Run the schedule to its end."""
        began, checker = time.process_time(), self.checker
        violation = ""
        try:
            self._run()
        except ViolationError as error:
            violation = str(error)
        except AssertionError as error:
            # The scheduler's or the simulator's own: what must hold did not.
            violation = f"assertion: {error} in {_place_of(error)}"
            self.note("CHECKER", violation)
        return Result(
            seed=self.plan.seed,
            violation=violation,
            n_events=self.world.n_events,
            n_acknowledged=self.histories.n_acknowledged,
            n_pulled=self.histories.n_pulled,
            n_views=checker.n_views,
            n_faults=self.n_faults,
            n_lost_shards=len(checker.lost_shards()),
            sim_seconds=self.world.now / SECOND,
            cpu_seconds=time.process_time() - began,
            trace=self.trace.text() if self.trace is not None else "",
        )

    def _run(self) -> None:
        plan, world, checker = self.plan, self.world, self.checker
        world.run(plan.load_time)
        if plan.heal:
            self._end_faults()
        self.closing = True
        limit = world.now + plan.settle_time
        what = "nothing ran"
        while what and world.now < limit:
            world.run(world.now + SLICE)
            what = checker.unsettled()
        if what:
            checker.wrong(f"L2/L3: {plan.settle_time // SECOND} s after the faults: {what}")
        checker.final()

    def _compare(self) -> None:
        self.checker.compare_replicas()
        self.world.after(COMPARE_EVERY, None, self._compare)

    def _end_faults(self) -> None:
        self.note("plan", "faults end")
        self.network.heal_all()
        self.network.conditions = CALM
        for process in (*self.live_servers(), *self.workers, self.scheduler):
            if process is not None and process.paused_until > self.world.now:
                process.paused_until = self.world.now
                self.world.at(self.world.now, None, process._wake)
        if self.scheduler is None:
            self._start_scheduler()
        else:
            self.scheduler.dies_before = -1
        for rank, worker in enumerate(self.workers):
            if not worker.alive:
                self._start_worker(rank)
        missing = self.plan.min_copies - len(self.live_servers())
        dead = [address for address, server in self.servers.items() if not server.alive]
        for address in dead[: max(0, missing)]:
            self._start_server(address)

    # Processes.

    def _life(self) -> int:
        self._n_lives += 1
        return self._n_lives

    def _start_scheduler(self) -> None:
        if self.scheduler is not None:
            return
        self.checker.scheduler_started()
        self.note(ADDRESS, "starts")
        self.scheduler = SchedulerNode(self, self._life())
        self.network.start(self.scheduler)

    def _start_server(self, address: str) -> None:
        there = self.servers.get(address)
        if there is not None and there.alive:
            return
        self.note(address, "starts")
        # A registration is sent from within, so it must be reachable before: its life is its name.
        server = ServerNode(self, address, self._life())
        self.servers[address] = server
        self.network.start(server)

    def _start_worker(self, rank: int) -> None:
        if rank < len(self.workers) and self.workers[rank].alive:
            return
        worker = WorkerNode(self, rank, self._life())
        self.network.start(worker)
        if rank == len(self.workers):
            self.workers.append(worker)
        else:
            self.workers[rank] = worker

    # Faults.

    def _apply(self, fault: Fault) -> None:
        done = self._do(fault)
        self.n_faults += done
        self.note("plan", f"{fault}" if done else f"{fault}: left out")

    def _do(self, fault: Fault) -> bool:
        return {
            "crash": self._crash,
            "pause": self._pause,
            "cut": self._cut,
            "cut both": self._cut,
            "scheduler": self._crash_scheduler,
            "scheduler mid step": self._crash_scheduler,
            "join": self._join,
            "scale": self._scale,
        }[fault.kind](fault)

    def _pause(self, fault: Fault) -> bool:
        process = self.network.at.get(fault.who)
        if process is None or not process.alive:
            return False
        process.pause(fault.duration)
        return True

    def _cut(self, fault: Fault) -> bool:
        pairs = [(fault.who, fault.other), (fault.other, fault.who)]
        for pair in pairs[: 2 if fault.kind == "cut both" else 1]:
            self.network.cut(*pair, keeps=fault.flag)
            if self.plan.heal:
                self.world.after(fault.duration, None, self.network.heal, *pair)
        return True

    def _crash_scheduler(self, fault: Fault) -> bool:
        if self.scheduler is None:
            return False
        if fault.kind == "scheduler":
            self.scheduler_died()
        else:
            self.scheduler.dies_before = fault.count
        self.world.after(fault.duration, None, self._start_scheduler)
        return True

    def _join(self, fault: Fault) -> bool:
        if len(self.servers) >= SERVERS_MAX:
            return False
        self._start_server(f"server{len(self.servers)}")
        return True

    def _scale(self, fault: Fault) -> bool:
        self.launcher.tell(m.ScaleServers(max(fault.count, self._least_servers())))
        return True

    def _least_servers(self) -> int:
        return max(spec.replication for spec in self.plan.tables)

    def _crash(self, fault: Fault) -> bool:
        process = self.network.at.get(fault.who)
        if process is None or not process.alive:
            return False
        if isinstance(process, ServerNode):
            if not self.plan.may_lose and self._holds_a_last_copy(process):
                return False
            process.kill(fault.flag)
            final = not fault.duration
            gone = m.ProcessExited("server", process.pid, "", None, final)
            if fault.duration:
                self.world.after(fault.duration, None, self._start_server, fault.who)
        else:
            assert isinstance(process, WorkerNode)
            if process.finished:
                return False
            process.kill(fault.flag)
            gone = m.ProcessExited("worker", process.pid, "default", process.rank, False)
            self.world.after(fault.duration, None, self._start_worker, process.rank)
        if fault.told:
            self.launcher.tell(gone)
        return True

    def _holds_a_last_copy(self, server: ServerNode) -> bool:
        alive = {each.server_id for each in self.live_servers()}
        if len(alive) == 1:
            return True
        return any(
            server.server_id in chain and len(alive & set(chain)) == 1
            for _, chain in self.checker.views.values()
        )


def _place_of(error: AssertionError) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{each.name}:{each.lineno}" for each in frames[:-5:-1])
