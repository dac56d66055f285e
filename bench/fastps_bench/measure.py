"""Measures one target: fill, pulls, pushes, one key at a time; then checks every row."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastps_bench.targets import Target, Wait
from fastps_bench.timing import Figure, Note, percentile
from fastps_bench.workload import Expectation, Request, Work

__all__ = ["Plan", "measure"]


@dataclass(frozen=True)
class Plan:
    """How often to measure.

    Attributes
    ----------
    repeats : int
        Of every figure; one more comes first, to warm up.
    n_single : int
        Requests of one key in a repeat.
    in_flight : int
        Requests under way at a time; with 1 each waits for the one before.
    """

    repeats: int
    n_single: int
    in_flight: int


def measure(target: Target, work: Work, plan: Plan, note: Note) -> dict[str, Any]:
    """Return the figures of `target`, all from a run whose outcome was right.

    Raises
    ------
    AssertionError
        A pull returned, or the table held in the end, anything but what it must.
    """
    return _Measurement(target, work, plan, note).run()


class _Measurement:
    def __init__(self, target: Target, work: Work, plan: Plan, note: Note) -> None:
        self._target = target
        self._work = work
        self._plan = plan
        self._note = note
        self._expectation = Expectation(work)
        self._requests = work.requests()
        self._gradients = work.gradients()
        first = self._requests[0]
        self._single = [
            Request(first.indices[at : at + 1], first.keys[at : at + 1])
            for at in range(min(plan.n_single, work.batch))
        ]

    def run(self) -> dict[str, Any]:
        fill = self._fill()
        for request in self._requests[:2]:
            self._expectation.check(request, self._target.pull(request))
        pull = self._rates("pull", self._start_pull)
        push = self._rates("push", self._start_push)
        pull_one = self._latencies("pull", self._target.pull)
        push_one = self._latencies("push", self._push_one)
        # Replayed in the same order; all that is told of time comes after this.
        for request in self._requests * (self._plan.repeats + 1):
            self._expectation.push(request)
        for request in self._single * (self._plan.repeats + 1):
            self._expectation.push(request)
        checksum = self._check_all()
        rows, n_bytes = self._target.rows_and_bytes()
        if rows != self._work.n_keys:
            raise AssertionError(f"there are {rows} rows instead of {self._work.n_keys}")
        return {
            "checksum": checksum,
            "bytes_per_key": n_bytes / rows,
            "fill_mkeys_s": fill,
            "pull_mkeys_s": asdict(pull),
            "push_mkeys_s": asdict(push),
            "pull_one_us": pull_one,
            "push_one_us": push_one,
        }

    def _fill(self) -> float:
        """Create all rows; return million rows a second, the making of keys and values left out."""
        seconds = 0.0
        for request in self._work.blocks():
            self._note("fill", int(request.indices[0]), self._work.n_keys)
            values = self._work.initial(request.indices)
            start = time.perf_counter()
            self._target.assign(request, values)
            seconds += time.perf_counter() - start
        return self._work.n_keys / seconds / 1e6

    def _rates(self, name: str, start: Callable[[Request], Wait]) -> Figure:
        n_keys = self._work.batch * len(self._requests)
        rates = []
        for repeat in range(self._plan.repeats + 1):
            self._note(name, repeat, self._plan.repeats + 1)
            waiting: deque[Wait] = deque()
            begin = time.perf_counter()
            for request in self._requests:
                if len(waiting) == self._plan.in_flight:
                    waiting.popleft()()
                waiting.append(start(request))
            while waiting:
                waiting.popleft()()
            rates.append(n_keys / (time.perf_counter() - begin) / 1e6)
        return Figure.of(rates[1:])

    def _start_pull(self, request: Request) -> Wait:
        if self._plan.in_flight > 1:
            return self._target.start_pull(request)
        self._target.pull(request)  # the blocking call hands nothing to another thread
        return _done

    def _start_push(self, request: Request) -> Wait:
        if self._plan.in_flight > 1:
            return self._target.start_push(request, self._gradients)
        self._target.push(request, self._gradients)
        return _done

    def _push_one(self, request: Request) -> None:
        self._target.push(request, self._gradients[:1])

    def _latencies(self, name: str, call: Callable[[Request], object]) -> dict[str, Any]:
        medians, tails = [], []
        for repeat in range(self._plan.repeats + 1):
            self._note(f"{name} one key", repeat, self._plan.repeats + 1)
            microseconds = []
            for request in self._single:
                begin = time.perf_counter()
                call(request)
                microseconds.append((time.perf_counter() - begin) * 1e6)
            medians.append(percentile(microseconds, 50))
            tails.append(percentile(microseconds, 99))
        return {"p50": asdict(Figure.of(medians[1:])), "p99": asdict(Figure.of(tails[1:]))}

    def _check_all(self) -> float:
        total = 0.0
        for request in self._work.blocks():
            self._note("check", int(request.indices[0]), self._work.n_keys)
            total += self._expectation.check(request, self._target.pull(request))
        return total


def _done() -> None:
    """Nothing is left to wait for."""
