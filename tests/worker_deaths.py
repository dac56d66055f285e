"""Groups of workers of which one is killed, and what must be true of the others and of the tables.

Each worker pushes 1 into its own lane of shared keys (float32 counts exactly), and a gradient of
its own to a model under BSP whose every bit the test can compute.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import bsp_model
from dying_workers import (
    CALL_SECONDS,
    KEYS,
    MODEL,
    MODEL_WIDTH,
    N_LANES,
    TABLES,
    Life,
    Page,
    gradients_of,
)
from fastps.control import SocketControl
from fastps.scheduler import messages as m
from jobs import is_running, paused, until

VICTIM = 1  # its rank, between those of the survivors: sums are in rank order
N_ITEMS = 6
PHASES = ("computing", "pushing", "ssp gate", "bsp gate", "barrier", "chunk")


class Hand:
    """A worker as the test sees it.

    Attributes
    ----------
    ended : set of int
        The steps that it ended.
    """

    def __init__(self, connection: Connection, life: Life) -> None:
        self._connection = connection
        self.lane, self.page = life.lane, Page(Path(life.page))
        connection.send(life)
        joined = self.answer()
        self.pid, self.rank, self.clock = joined["pid"], joined["rank"], joined["clock"]
        self.ended: set[int] = set()

    def ask(self, verb: str, *arguments: Any) -> None:
        self._connection.send((verb, arguments))

    def answer(self) -> Any:
        """What the last call returned; it must have ended by its deadline, without an error."""
        outcome, value = self.outcome()
        assert outcome == "done", f"{outcome}: {value}"
        return value

    def outcome(self) -> tuple[str, Any]:
        """How the last call ended: "done" or an error's name, and its result or message."""
        # One verb makes some calls, each with this deadline; nothing may come near it.
        assert self._connection.poll(CALL_SECONDS + 10), "a call did not end by its deadline"
        answer: tuple[str, Any] = self._connection.recv()
        return answer

    def do(self, verb: str, *arguments: Any) -> Any:
        self.ask(verb, *arguments)
        return self.answer()

    def step(self) -> None:
        self.took([self.do("step")])

    def took(self, steps: list[int]) -> None:
        self.ended.update(steps)
        self.clock = max([self.clock, *(step + 1 for step in steps)])

    def must_have_ended(self, call: Any) -> None:
        """Require that the last call was answered with the end of the session."""
        outcome, message = self.outcome()
        assert outcome == "SessionEndedError", (call, outcome, message)

    def has_ended(self, call: tuple[str, ...]) -> bool:
        self.ask(*call)
        outcome, message = self.outcome()
        assert outcome in ("done", "SessionEndedError"), (call, outcome, message)
        return outcome != "done"

    @property
    def is_in_call(self) -> bool:
        """Whether it said that it enters its phase, and its main thread sleeps."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return self.page["phase"] == 1 and stat.rpartition(")")[2].split()[0] == "S"

    @property
    def in_flight(self) -> int:
        return sum(self.page[f"{name} called"] - self.page[f"{name} returned"] for name in TABLES)

    def kill(self) -> bool:
        """Kill it; return whether it was still in the call that it was asked for."""
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: not is_running(self.pid), what="the end of a killed worker")
        try:
            self._connection.recv()
        except (EOFError, ConnectionError):
            return True
        finally:
            self._connection.close()
        return False


class Arena:
    """A group of two survivors and a victim that comes back for the next death.

    Parameters
    ----------
    folder : Path
        For the workers' pages.
    control : SocketControl
        A way to the scheduler.
    group : str
        The group's name.
    bring : callable (rank) -> Connection
        Start a worker, or wait for one.
    tell : callable (pid) -> None
        Called after a worker was killed.
    returns : bool
        Whether the scheduler expects a killed worker back.
    """

    def __init__(
        self,
        folder: Path,
        control: SocketControl,
        group: str,
        bring: Callable[[int], Connection],
        tell: Callable[[int], None] = lambda pid: None,
        returns: bool = False,
    ) -> None:
        self._folder, self._control, self.group, self._bring = folder, control, group, bring
        self.tell, self.returns = tell, returns
        self._lives: list[Hand] = []
        self._dead: dict[int, Any] = {}  # lane -> what its pushes came to, once it is settled
        self._model = bsp_model.Model(MODEL, np.zeros((KEYS.size, MODEL_WIDTH), np.float32))
        self._folded = 0
        self._passes = self._held = 0
        self.n_silent = 0
        self.n_kills = dict.fromkeys(PHASES, 0)
        come = [self.start(rank) for rank in range(3)]  # of the launcher's, any may be first
        come.sort(key=lambda hand: hand.rank)
        self.victim: Hand | None = come.pop(VICTIM)
        self.survivors = come

    def start(self, rank: int) -> Hand:
        """Take in the next worker."""
        lane = len(self._lives)
        page = self._folder / f"page-{self.group}-{lane}".replace(" ", "-")
        self._lives.append(Hand(self._bring(rank), Life(lane, str(page))))
        return self._lives[-1]

    @property
    def lanes_left(self) -> int:
        return N_LANES - len(self._lives)

    @property
    def live(self) -> list[Hand]:
        return [*self.survivors, *([self.victim] if self.victim else [])]

    def status(self) -> dict[str, Any]:
        groups = self._control.call(m.GetStatus(), CALL_SECONDS)[0].status["groups"]
        (group,) = (each for each in groups if each["name"] == self.group)
        return group

    def session_of(self, hand: Hand) -> dict[str, Any] | None:
        workers = self.status()["workers"]
        return next((each for each in workers if each["pid"] == hand.pid), None)

    # One death.

    def death(self, phase: str, n: int) -> None:
        """Kill the victim in a phase, see that the others go on, and check everything.

        Where that can be, every second time the others wait for the victim before it dies.
        """
        if self.victim is None:
            self.revive()
        self.advance()
        self._enter(phase, n)
        call: tuple[Any, ...] = ("steps", 2)
        if phase == "chunk":
            call = ("work", self._passes, N_ITEMS)
        elif phase == "barrier":
            call = ("barrier",)
        # At a gate or in a barrier the victim would no more wait if the others went on.
        early = n % 2 == 1 and phase in ("computing", "pushing", "chunk")
        if early:
            self._ask_survivors(call)
        self._kill(phase)
        if not early:
            self._ask_survivors(call)
        if self.returns or (phase == "ssp gate" and n % 2):
            self.revive()  # in the second case before anybody found out
            if phase == "barrier":
                self.victim.ask("barrier")
            elif phase != "chunk":
                self.victim.ask("steps", max(0, self.survivors[0].clock + 2 - self.victim.clock))
        answers = [hand.answer() for hand in self.survivors]
        if self.victim is not None and phase != "chunk":
            answers.append(self.victim.answer())
        if phase == "chunk":
            self._check_chunks(answers)
        elif phase != "barrier":
            for hand, steps in zip(self.live, answers, strict=True):
                hand.took(steps)
        self.advance()

    def revive(self) -> Hand:
        """Start the victim's rank again; it begins at max(minimum, its clock)."""
        ended = [hand.clock for hand in self._lives if hand.rank == VICTIM]
        self.victim = self.start(VICTIM)
        expected = max(self.status()["minimum_clock"], *ended, 0)
        assert self.victim.clock == expected
        return self.victim

    def advance(self) -> None:
        """Let all that live take steps to one clock and meet; the minimum moves with them."""
        target = max(hand.clock for hand in self.live) + 1
        for hand in self.live:
            hand.ask("steps", target - hand.clock)
        for hand in self.live:
            hand.took(hand.answer())
        for hand in self.live:
            hand.ask("barrier")
        for hand in self.live:
            hand.answer()
        status = self.status()
        assert status["minimum_clock"] == status["rounds"] == target
        assert {each["pid"] for each in status["workers"]} == {each.pid for each in self.live}
        self.check()

    def silence(self, phase: str) -> None:
        """Stop the victim in a phase until the others went on without it, then let it wake.

        Its writes and waits are refused at once; clock() and pulls that wait for nobody may be
        answered until it has heard.
        """
        victim = self.victim or self.revive()
        self.advance()
        is_in_call = phase not in ("computing", "chunk")
        if phase == "chunk":
            self._passes += 1
            self._held = victim.do("begin_chunks", self._passes, N_ITEMS)
        elif is_in_call:
            self._enter(phase, 1)
        with paused(victim.pid):
            self.victim = None
            if phase.endswith("gate"):
                # The others open its gate; later than this it is not told so.
                until(lambda: self.session_of(victim) is None, what="the end of its lease")
            call = ("work", self._passes, N_ITEMS) if phase == "chunk" else ("steps", 3)
            self._ask_survivors(call)
            answers = [hand.answer() for hand in self.survivors]
            if phase == "chunk":
                self._check_chunks(answers)
            else:
                for hand, steps in zip(self.survivors, answers, strict=True):
                    hand.took(steps)
            self.advance()
        if is_in_call:
            victim.must_have_ended(phase)
        elif phase == "chunk":
            victim.ask("next_chunk")
            victim.must_have_ended(phase)
        for call in [*(("push", name) for name in TABLES), ("barrier",)]:
            victim.ask(*call)
            victim.must_have_ended(call)
        for call in [*(("pull", name) for name in TABLES), ("clock",)]:
            until(lambda call=call: victim.has_ended(call), what=f"an error of {call}")
        self.check()
        self.advance()
        victim.kill()
        self.n_silent += 1

    def close(self) -> None:
        for hand in self.live:
            hand.do("close")

    def _ask_survivors(self, call: tuple[Any, ...]) -> None:
        for hand in self.survivors:
            hand.ask(*call)

    def _enter(self, phase: str, n: int) -> None:
        """Have the victim enter its phase, and see it there."""
        victim = self.victim
        assert victim is not None
        if phase == "computing":
            victim.ask("compute")
        elif phase == "pushing":
            victim.ask("push_on", 1 + n % 5)
        elif phase == "barrier":
            victim.ask("wait_in_barrier", n % 2 == 0)
            until(lambda: VICTIM in self.status()["in_barrier"], what="the victim in a barrier")
        elif phase == "chunk":
            self._passes += 1
            victim.ask("hold_a_chunk", self._passes, N_ITEMS)
        else:
            for _ in range(2 if phase == "ssp gate" else 1):
                victim.step()
            # Steps are told after clock() returned; what the dead did not tell does not count.
            until(lambda: self.session_of(victim)["clock"] == victim.clock, what="the told clock")
            victim.ask("wait_at_" + phase.replace(" ", "_"))
            until(lambda: victim.is_in_call, what="the victim at a gate")
        until(lambda: victim.page["phase"] == 1, what="the victim in its phase")

    def _kill(self, phase: str) -> None:
        victim, self.victim = self.victim, None
        assert victim is not None
        is_hit = victim.kill() and (phase != "pushing" or victim.in_flight > 0)
        self.n_kills[phase] += is_hit
        self.tell(victim.pid)
        if self.returns and phase == "barrier":
            # Else the others may pass the barrier with the dead one, without who comes after it.
            until(lambda: self.session_of(victim) is None, what="the launcher's word")
        self._held = victim.page["item"]

    # What must be true.

    def check(self) -> None:
        """Compare all tables with what all lives did, dead ones included.

        Requires: all that live are at one clock, and idle.
        """
        for name in (*TABLES, "model"):
            for hand in self.live:
                hand.ask("pull", name)
            rows, *others = [hand.answer() for hand in self.live]
            assert all(other.tobytes() == rows.tobytes() for other in others), name
            if name == "model":
                assert rows.tobytes() == self._folded_model().tobytes()
                continue
            for life in self._lives:
                self._check_lane(name, life, rows[:, life.lane])
            assert not rows[:, len(self._lives) :].any()

    def _check_lane(self, table: str, life: Hand, values: Any) -> None:
        if table == "bsp":
            # Just the rounds that it ended: what was pending in an open one is gone.
            assert np.all(values == len(life.ended)), (life.lane, values, life.ended)
            return
        called, returned = life.page[f"{table} called"], life.page[f"{table} returned"]
        if life in self.live:
            assert called == returned
        assert np.all((values >= returned) & (values <= called)), (life.lane, values, returned)
        if life not in self.live:
            settled = self._dead.setdefault((table, life.lane), values)
            assert np.array_equal(values, settled), "something of a dead worker came later"

    def _folded_model(self) -> Any:
        """The model after all closed rounds, computed here."""
        clock = self.live[0].clock
        rows = np.arange(KEYS.size)
        in_order = sorted(self._lives, key=lambda life: life.rank)
        for step in range(self._folded, clock):
            members = [life for life in in_order if step in life.ended]
            self._model.fold([[(rows, gradients_of(life.lane, step))] for life in members])
        self._folded = clock
        return self._model.w

    def _check_chunks(self, done: list[list[int]]) -> None:
        """Each item was completed by one worker; the victim had completed its first."""
        items = [item for each in done for item in each]
        assert len(set(items)) == len(items) == N_ITEMS - 1, items
        assert self._held in items
