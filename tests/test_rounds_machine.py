"""Whatever workers do in whatever order: rounds, minimum and waits are as promised.

A model keeps, for each rank and session, the steps whose word was taken while their round was open.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastps.scheduler import messages as m
from scheduler_story import Job, bsp

WORKERS = 3
RANKS = st.integers(0, WORKERS + 1)


class GroupMachine(RuleBasedStateMachine):
    """One group with a BSP table, from its start to everybody's barrier."""

    backup = 0

    def __init__(self) -> None:
        super().__init__()
        self.job = Job(servers=1, workers=WORKERS, lease=1.0)
        self.job.server(1)
        # A group of its own starts at clock 0; the table is made by a rank of it.
        self.live = {0: self.job.join(0, pid=1)}
        self.job.beat(self.live[0])
        self.job.table(self.live[0], consistency=bsp(self.backup))
        self.job.beat_server(1, 0)
        self.clocks = self.job.state.groups["default"].clocks
        self.taken: dict[int, set[tuple[int, int]]] = {}  # by round
        self.waits: dict[int, tuple[int, bool]] = {}  # rank -> request, whether in the barrier
        self.highest = (0, 0)
        self.log: list = []
        self.passed = 0

    def _collect(self) -> None:
        """Take the entries published since, and let the server have them."""
        for sent in self.job.rounds:
            assert sent.first_number == len(self.log) + 1
            self.log += sent.entries
        self.job.rounds.clear()
        self.job.beat_server(1, 0, heard=len(self.log))
        for rank, (request, _) in list(self.waits.items()):
            if not self.job.waits(request):
                del self.waits[rank]

    def _forget(self, rank: int) -> None:
        del self.live[rank]
        self.waits.pop(rank, None)

    # What may happen.

    @rule(rank=RANKS)
    def join(self, rank: int) -> None:
        """A launched, restarted or late worker, or one that replaces a live one."""
        ended = self.clocks.clock_of(rank)
        before = self.clocks.minimum
        self.waits.pop(rank, None)
        if rank in self.live:
            self.job.answer(m.ProcessExited("worker", rank + 1, "default", rank, final=False))
            self._collect()
        self.live[rank] = self.job.join(rank, pid=rank + 1)
        assert self.live[rank].clock >= max(before, ended or 0)
        self.job.beat(self.live[rank])
        self._collect()

    @rule(data=st.data(), n=st.integers(1, 3))
    def step(self, data: st.DataObject, n: int) -> None:
        """A worker that does not wait ends steps; several when heartbeats were lost."""
        free = sorted(self.live.keys() - self.waits.keys())
        if not free:
            return
        rank = data.draw(st.sampled_from(free))
        joined = self.live[rank]
        held = self.job.clock_of(joined)
        assert held is not None
        n = 1 if self.backup else n  # with backup workers each clock() waits for the answer
        for ended in range(max(held, self.clocks.rounds), held + n):
            self.taken.setdefault(ended, set()).add((rank, joined.session))
        self.job.beat(joined, held + n)
        self._collect()

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """An old heartbeat comes late."""
        if self.live:
            joined = self.live[data.draw(st.sampled_from(sorted(self.live)))]
            held = self.job.clock_of(joined)
            assert held is not None
            believed = self.job._clocks[joined.session]
            self.job.beat(joined, data.draw(st.integers(0, held)))
            self.job._clocks[joined.session] = max(believed, held)
            self._collect()

    @rule(data=st.data(), clean=st.booleans(), chunks=st.booleans())
    def wait_for_others(self, data: st.DataObject, clean: bool, chunks: bool) -> None:
        free = sorted(self.live.keys() - self.waits.keys())
        if not free:
            return
        rank = data.draw(st.sampled_from(free))
        session = self.live[rank].session
        number = self.job.state.groups["default"].barriers.passed + 1
        message: m.Message = m.Barrier(session, number, clean)
        if chunks:
            # The one item of a pass that somebody else may hold.
            message = m.NextChunk(session, number, 1, False, None, clean)
        request = self.job.ask(message)
        if self.job.waits(request):
            self.waits[rank] = (request, not chunks)
        elif chunks:
            self.job.answer(m.ReturnChunk(session, number, None))
        self._collect()

    @precondition(lambda self: self.waits)
    @rule(data=st.data())
    def give_up_waiting(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.waits)))
        session = self.live[rank].session
        number = self.job.state.groups["default"].barriers.passed + 1
        if not self.waits.pop(rank)[1]:
            for each in range(1, number + 1):
                self.job.answer(m.ReturnChunk(session, each, None))
        passed = self.job.answer(m.StopWaiting(session))
        assert passed.clock == self.clocks.clock_of(rank)
        self._collect()

    @rule(rank=RANKS, final=st.booleans())
    def process_exits(self, rank: int, final: bool) -> None:
        if rank in self.live:
            self._forget(rank)
        self.job.answer(m.ProcessExited("worker", rank + 1, "default", rank, final))
        self._collect()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.live)))
        self.job.answer(m.Leave(self.live[rank].session))
        self._forget(rank)
        self._collect()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def fall_silent(self, data: st.DataObject) -> None:
        """One worker's lease runs out while all others speak."""
        silent = data.draw(st.sampled_from(sorted(self.live)))
        for _ in range(2):
            for rank, joined in self.live.items():
                if rank != silent:
                    self.job.beat(joined)
            self._collect()
            self.job.wait(0.6)
        self._forget(silent)
        self._collect()

    # What must hold.

    @invariant()
    def the_minimum_never_falls(self) -> None:
        assert self.clocks.minimum >= self.highest[0]
        assert self.clocks.rounds >= self.highest[1]
        self.highest = (self.clocks.minimum, self.clocks.rounds)

    @invariant()
    def the_minimum_is_below_every_clock_that_counts(self) -> None:
        counting = [
            self.clocks.clock_of(rank)
            for rank in self.clocks.ranks()
            if not self.clocks.is_idle(rank)
        ]
        assert all(clock >= self.clocks.minimum for clock in counting)
        # And not lower than it need be.
        assert not counting or self.clocks.minimum == min(counting)

    @invariant()
    def only_those_who_wait_are_idle(self) -> None:
        idle = {rank for rank in self.clocks.ranks() if self.clocks.is_idle(rank)}
        assert idle <= self.waits.keys()

    @invariant()
    def rounds_follow_the_minimum(self) -> None:
        assert self.clocks.minimum <= self.clocks.rounds
        if self.backup == 0:
            assert self.clocks.minimum == self.clocks.rounds
        counting = [
            self.clocks.clock_of(rank)
            for rank in self.clocks.ranks()
            if not self.clocks.is_idle(rank)
        ]
        needed = max(1, len(counting) - self.backup)
        ended = sum(clock > self.clocks.rounds for clock in counting)
        assert ended < needed, "a round is open that should be closed"

    @invariant()
    def each_round_closed_once_in_order_with_exactly_those_who_ended_it(self) -> None:
        assert [entry.round for entry in self.log] == list(range(self.clocks.rounds))
        for entry in self.log:
            assert set(entry.members) == self.taken.get(entry.round, set())
            assert list(entry.members) == sorted(entry.members)

    @invariant()
    def workers_are_told_the_truth(self) -> None:
        for joined in self.live.values():
            told = self.job.notices.get(joined.session)
            if told:
                assert (told[-1].minimum, told[-1].rounds) == self.highest
                assert told[-1].number == self.clocks.notice

    @invariant()
    def a_barrier_with_all_in_it_is_passed(self) -> None:
        group = self.job.state.groups["default"]
        waiting = set(group.barriers.waiting())
        assert not waiting or waiting != set(self.clocks.ranks())

    def teardown(self) -> None:
        """Those that are left step, then meet: nobody waits for ever."""
        group = self.job.state.groups["default"]
        for rank in list(group.expected):
            self.job.answer(m.ProcessExited("worker", 99, "default", rank, final=True))
        self._collect()
        for rank in sorted(self.live.keys() - self.waits.keys()):
            held = self.clocks.clock_of(rank)
            assert held is not None
            goal = max(self.clocks.clock_of(each) or 0 for each in self.live) + 1
            self.job.beat(self.live[rank], goal)
        free = self.live.keys() - self.waits.keys()
        counting = [rank for rank in self.clocks.ranks() if not self.clocks.is_idle(rank)]
        if free and set(counting) <= free:
            assert self.clocks.minimum >= min(self.clocks.clock_of(rank) or 0 for rank in free)
        waiting = {rank: request for rank, (request, _) in self.waits.items()}
        number = group.barriers.passed + 1
        for rank in sorted(self.live):
            if rank not in waiting or not self.waits[rank][1]:
                waiting[rank] = self.job.ask(m.Barrier(self.live[rank].session, number, True))
        assert not any(self.job.waits(request) for request in waiting.values())
        if self.live:
            assert group.barriers.passed == number
        assert not any(self.clocks.is_idle(rank) for rank in self.clocks.ranks())


class BackupMachine(GroupMachine):
    """The same with one backup worker."""

    backup = 1


SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("machine", [GroupMachine, BackupMachine])
def test_whatever_workers_do_rounds_are_as_promised(machine: type[GroupMachine]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=SETTINGS)
