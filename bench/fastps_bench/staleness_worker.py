"""The processes of one run of ``fastps-bench staleness``: the workers, and a reader of the model.

``python -m fastps_bench.staleness_worker CASE.json`` under fastps-launch. The reader is a worker of
the group "eval": it copies the model every few milliseconds without ever waiting or making others
wait, and works out the losses when the workers have finished. Times are those of CLOCK_MONOTONIC,
which all processes of a machine share.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastps
from fastps import _core
from fastps.models.metrics import sigmoid
from fastps.optimizers import SGD, AdaGrad
from fastps_bench.staleness_data import Problem, log_loss, read_problem
from fastps_bench.staleness_setting import Scene, Slow, Stall, policy
from fastps_bench.worker import Notes

__all__ = ["OPTIMIZERS", "READERS", "RunPlan", "main"]

OPTIMIZERS = {"sgd": SGD, "adagrad": AdaGrad}
READERS = "eval"  # the group of the reader
MODEL, SIGNALS = "model", "signals"
READY, FINISHED = 0, 1  # of the signals: readers that are there, workers that finished
POLL_SECONDS = 0.005
READY_SECONDS = 60.0
SNAPSHOTS = 80  # in the shortest run that is possible
SNAPSHOT_SECONDS_MIN = 0.01
SNAPSHOTS_MAX = 2000
SETTLE_SECONDS = 0.2  # after which the last round under BSP is in the rows


@dataclass(frozen=True)
class RunPlan:
    """What the processes of one run do.

    Attributes
    ----------
    policy : str
        See `staleness_setting.policy`.
    scene : Scene
        Delays and how work is shared.
    workers, steps : int
        Workers, and the steps of each; with chunks, of all on average.
    step_ms : float
        How long an ordinary step sleeps.
    batch : int
        Examples of a step.
    optimizer, lr : str, float
        Rule of the servers.
    seed : tuple of int
        Of stalls and minibatches.
    folder : str
        Where the problem is, and where results are written.
    """

    policy: str
    scene: Scene
    workers: int
    steps: int
    step_ms: float
    batch: int
    optimizer: str
    lr: float
    seed: tuple[int, ...]
    folder: str

    @property
    def seconds_max(self) -> float:
        """How long the run may take before something must be wrong."""
        return 120 + 10 * self.workers * self.steps * self.step_ms / 1e3 * self.scene.factor_max

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> RunPlan:
        """Return what `to_json` described."""
        scene = plan["scene"]
        slow = tuple(Slow(**each) for each in scene["slow"])
        stall = Stall(**scene["stall"]) if scene["stall"] else None
        described = Scene(slow, stall, scene["chunks"])
        return cls(**{**plan, "scene": described, "seed": tuple(plan["seed"])})


def main(path: Path) -> int:
    """Take part in the run that a file describes; return the exit code.

    The file has plan and result; rank 0 of the workers writes the latter when all is well.
    """
    case = json.loads(path.read_text())
    plan = RunPlan.from_json(case["plan"])
    problem = read_problem(Path(plan.folder) / "problem.npz")
    with fastps.connect(require_cluster=True) as client:
        if client.group == READERS:
            _Reader(client, plan, problem).run()
            return 0
        _Learner(client, plan, problem).run()
        if client.rank == 0:
            Path(case["result"]).write_text("{}")
    return 0


class _Learner:
    def __init__(self, client: fastps.Client, plan: RunPlan, problem: Problem) -> None:
        self._client = client
        self._plan = plan
        self._problem = problem
        self._signals = client.dense_table(SIGNALS, shape=(2,))
        self._model = client.sparse_table(
            MODEL,
            optimizer=OPTIMIZERS[plan.optimizer](lr=plan.lr),
            consistency=policy(plan.policy),
        )
        self._matrix = problem.train.matrix(len(problem.keys))
        self._note = Notes() if client.rank == 0 else _no_note

    def run(self) -> None:
        """Make all steps; write when each ended."""
        plan, rank = self._plan, self._client.rank
        total = plan.workers * plan.steps
        n_own = total if plan.scene.chunks else plan.steps
        seconds = plan.scene.factors(plan.seed, rank, n_own) * (plan.step_ms / 1e3)
        ends: list[float] = []
        try:
            self._await_reader()
            self._client.barrier(timeout=READY_SECONDS)
            start = time.monotonic()
            for item in self._items(rank):
                self._step(item, float(seconds[len(ends)]))
                ends.append(time.monotonic())
                self._note("steps", item + 1 if plan.scene.chunks else len(ends), n_own)
            self._client.barrier(timeout=plan.seconds_max)
        finally:
            self._signals.push(np.array([1], np.float32), rows=[FINISHED])
        written = {"start": start, "ends": ends, "staleness": self._model.stats()["staleness"]}
        (Path(plan.folder) / f"steps-{rank}.json").write_text(json.dumps(written))
        self._client.barrier(timeout=READY_SECONDS)  # rank 0 tells that all is written

    def _items(self, rank: int) -> Iterator[int]:
        plan = self._plan
        if plan.scene.chunks:
            return self._client.chunks(range(plan.workers * plan.steps))
        return iter(range(rank * plan.steps, (rank + 1) * plan.steps))

    def _step(self, item: int, seconds: float) -> None:
        random = np.random.default_rng([*self._plan.seed, self._plan.workers, item])
        targets = self._problem.train.targets
        rows = random.integers(0, len(targets), self._plan.batch)
        matrix, features = self._matrix.take(rows)
        keys = self._problem.keys[features]
        weights = self._model.pull(keys)
        time.sleep(seconds)
        residuals = sigmoid(matrix.margins(weights)) - targets[rows]
        self._model.push(
            keys, matrix.gradient(residuals.astype(np.float32)) / np.float32(len(rows))
        )
        self._client.clock()

    def _await_reader(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while self._signals.pull()[READY] < 1:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the reader of the model was not there in {READY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)


class _Reader:
    def __init__(self, client: fastps.Client, plan: RunPlan, problem: Problem) -> None:
        self._client = client
        self._plan = plan
        # Rows that no held-out example has need not be read.
        used, columns = np.unique(problem.held_out.columns, return_inverse=True)
        held_out = problem.held_out
        self._matrix = _core.CsrMatrix(
            held_out.indptr, columns.astype(np.int32), held_out.values, len(used)
        )
        self._targets = held_out.targets
        self._keys = fastps.KeySet(problem.keys[used])
        shortest = plan.steps * plan.step_ms / 1e3
        self._pause = max(SNAPSHOT_SECONDS_MIN, shortest / SNAPSHOTS)

    def run(self) -> None:
        """Copy the model until the workers have finished; write its losses."""
        deadline = time.monotonic() + self._plan.seconds_max
        signals, model = self._table(SIGNALS, deadline), self._table(MODEL, deadline)
        times, models = [time.monotonic()], [model.pull(self._keys)]
        signals.push(np.array([1], np.float32), rows=[READY])
        finished = False
        while not finished:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the workers did not end in {self._plan.seconds_max:g} s")
            time.sleep(self._pause)
            finished = bool(signals.pull()[FINISHED] >= self._plan.workers)
            begin = time.monotonic()
            models.append(model.pull(self._keys))
            times.append((begin + time.monotonic()) / 2)
            if len(times) == SNAPSHOTS_MAX:  # a very slow run: half as often from now on
                times, models, self._pause = times[::2], models[::2], 2 * self._pause
        time.sleep(SETTLE_SECONDS)
        times.append(time.monotonic())
        models.append(model.pull(self._keys))
        losses = [log_loss(self._matrix.margins(weights), self._targets) for weights in models]
        written = {"times": times, "losses": losses}
        (Path(self._plan.folder) / "losses.json").write_text(json.dumps(written))

    def _table(self, name: str, deadline: float) -> Any:
        while True:
            try:
                return self._client.table(name)
            except fastps.TableNotFoundError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def _no_note(what: str, done: int, total: int) -> None:
    """Tell nobody: rank 0 speaks for all."""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
