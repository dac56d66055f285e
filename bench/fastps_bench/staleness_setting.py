"""What ``fastps-bench staleness`` compares: policies, delays, and the two scenes of its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastps.consistency import ASP, BSP, SSP, Consistency

__all__ = ["POLICIES", "Scene", "Slow", "Stall", "default_scenes", "label", "policy"]

POLICIES = ("bsp", "ssp:1", "ssp:3", "ssp:10", "asp")
FACTOR = 4.0
STALL_SHARE = 0.25
FACTOR_MAX = 1000.0
STALENESS_MAX = 1_000_000


@dataclass(frozen=True)
class Slow:
    """A worker all of whose steps take `factor` times as long."""

    rank: int
    factor: float


@dataclass(frozen=True)
class Stall:
    """Any step of any worker takes `factor` times as long, with probability `share`."""

    share: float
    factor: float


@dataclass(frozen=True)
class Scene:
    """One set of delays, and how the work is shared; every policy runs in it.

    Attributes
    ----------
    slow : tuple of Slow
        Workers that are always slow, each once.
    stall : Stall or None
        Random stalls.
    chunks : bool
        Whether workers fetch each step's work from ``client.chunks``, rather than each doing a
        fixed number of steps.
    """

    slow: tuple[Slow, ...] = ()
    stall: Stall | None = None
    chunks: bool = False

    @property
    def factor_max(self) -> float:
        """How long the slowest possible step is, in ordinary ones."""
        slow = max((each.factor for each in self.slow), default=1.0)
        return slow * (self.stall.factor if self.stall else 1.0)

    def factors(self, seed: Sequence[int], rank: int, n_steps: int) -> npt.NDArray[np.float64]:
        """Return how long each step of a worker is, in ordinary ones; the same for all policies."""
        factors = np.ones(n_steps)
        for each in self.slow:
            if each.rank == rank:
                factors *= each.factor
        if self.stall is not None:
            random = np.random.default_rng([*seed, rank])
            factors[random.random(n_steps) < self.stall.share] *= self.stall.factor
        return factors

    def delays(self) -> str:
        """Say in words what is slow."""
        parts = [f"worker {each.rank} is always {each.factor:g}x slower" for each in self.slow]
        if self.stall is not None:
            parts.append(
                f"{100 * self.stall.share:g} % of all steps take {self.stall.factor:g}x as long"
            )
        return " and ".join(parts) or "nothing is slow"

    def sharing(self) -> str:
        """Say in words who does how much."""
        return "work shared by chunks()" if self.chunks else "every worker does as many steps"


def default_scenes(chunks: bool) -> tuple[Scene, ...]:
    """Return the two kinds of delay that are told apart: by chance, and always the same worker."""
    return (
        Scene(stall=Stall(STALL_SHARE, FACTOR), chunks=chunks),
        Scene(slow=(Slow(0, FACTOR),), chunks=True),
    )


def policy(text: str) -> Consistency:
    """Return what ``bsp``, ``bsp:1`` (a backup worker), ``ssp:3`` or ``asp`` names.

    Raises
    ------
    ValueError
        It names none.
    """
    name, colon, number = text.partition(":")
    if name == "asp" and not colon:
        return ASP()
    if name == "bsp" and not colon:
        return BSP()
    if name in ("bsp", "ssp") and number.isdecimal() and int(number) <= STALENESS_MAX:
        return SSP(int(number)) if name == "ssp" else BSP(backup=int(number))
    raise ValueError(f"{text!r} is none of bsp, bsp:BACKUP, ssp:STEPS and asp")


def label(text: str) -> str:
    """Return how figures call a policy: BSP, BSP(backup 1), SSP(3), ASP."""
    name, _, number = text.partition(":")
    if not number:
        return name.upper()
    return f"{name.upper()}({'backup ' if name == 'bsp' else ''}{int(number)})"
