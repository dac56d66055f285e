"""From what the processes of a run wrote to the two performances of its policy. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps_bench.timing import Figure

__all__ = ["Run", "default_target", "figures_of"]

CURVE_POINTS = 120
IMPROVEMENT = 0.9  # of the default target: how much of what can be gained


@dataclass(frozen=True)
class Run:
    """One run of one policy. Times are seconds since the workers began.

    Attributes
    ----------
    seconds : float
        Until the last step ended.
    ends : ndarray of float64, shape (n_steps,)
        When each step ended, ascending.
    times, losses : ndarray of float64, shape (n_snapshots,)
        The model's held-out loss; times ascend.
    staleness : dict of int to int
        How many pulls saw each staleness.
    """

    seconds: float
    ends: npt.NDArray[np.float64]
    times: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    staleness: dict[int, int]

    @classmethod
    def of(cls, workers: Sequence[dict[str, Any]], reader: dict[str, Any]) -> Run:
        """Return the run that these files describe: one of each worker, one of the reader."""
        start = min(worker["start"] for worker in workers)
        ends = np.sort(np.concatenate([worker["ends"] for worker in workers])) - start
        staleness: Counter[int] = Counter()
        for worker in workers:
            staleness.update({int(steps): n for steps, n in worker["staleness"].items()})
        times = np.array(reader["times"]) - start
        return cls(
            float(ends[-1]),
            ends,
            times,
            np.array(reader["losses"]),
            dict(sorted(staleness.items())),
        )

    @property
    def steps_per_s(self) -> float:
        """Hardware performance: steps of all workers a second."""
        return len(self.ends) / self.seconds

    @property
    def final_loss(self) -> float:
        """The loss when all steps were done."""
        return float(self.losses[-1])

    def seconds_to(self, target: float) -> float | None:
        """Return when the loss first reached `target`, None if it did not.

        Between two snapshots the loss is taken for a straight line.
        """
        below = np.flatnonzero(self.losses <= target)
        if not len(below):
            return None
        last = int(below[0])
        if last == 0:
            return 0.0
        early, late = self.losses[last - 1], self.losses[last]
        share = (early - target) / (early - late)
        seconds = self.times[last - 1] + share * (self.times[last] - self.times[last - 1])
        # The last snapshot is taken a little after the end; nothing is learned in between.
        return float(min(max(seconds, 0.0), self.seconds))

    def steps_until(self, seconds: float) -> float:
        """Return how many steps had ended by then."""
        return float(np.searchsorted(self.ends, seconds, side="right"))

    def curve(self) -> dict[str, list[float]]:
        """Return the loss by seconds and by steps, in not too many points, for pictures."""
        chosen = np.unique(np.linspace(0, len(self.times) - 1, CURVE_POINTS).astype(int))
        times = np.clip(self.times[chosen], 0.0, self.seconds)
        return {
            "seconds": times.round(4).tolist(),
            "steps": [self.steps_until(at) for at in times],
            "loss": self.losses[chosen].round(6).tolist(),
        }


def default_target(zero_loss: float, bayes_loss: float | None, runs: Sequence[Run]) -> float:
    """Return the loss to reach: most of the way from knowing nothing to the best there is.

    The best is the Bayes loss where it is known, else what the best run came to.
    """
    best = min(run.final_loss for run in runs) if bayes_loss is None else bayes_loss
    return zero_loss - IMPROVEMENT * (zero_loss - best)


def figures_of(runs: Sequence[Run], target: float) -> dict[str, Any]:
    """Return the figures of the repeats of one policy in one scene, as plain values.

    Steps and seconds to the target are None unless every repeat reached it.
    """
    seconds = [run.seconds_to(target) for run in runs]
    reached = [at for at in seconds if at is not None]
    steps = [run.steps_until(at) for run, at in zip(runs, seconds, strict=True) if at is not None]
    all_there = len(reached) == len(runs)
    staleness: Counter[int] = Counter()
    for run in runs:
        staleness.update(run.staleness)
    # The curve of the repeat in the middle.
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    return {
        "repeats": len(runs),
        "reached": len(reached),
        "steps": len(middle.ends),
        "steps_per_s": asdict(Figure.of([run.steps_per_s for run in runs])),
        "steps_to_target": asdict(Figure.of(steps)) if all_there else None,
        "seconds_to_target": asdict(Figure.of(reached)) if all_there else None,
        "final_loss": asdict(Figure.of([run.final_loss for run in runs])),
        "staleness": {str(each): n for each, n in sorted(staleness.items())},
        "curve": middle.curve(),
    }
