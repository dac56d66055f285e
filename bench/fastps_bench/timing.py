"""Figures from repeated measurements, and how a measurement tells its progress."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Figure", "Note", "percentile"]

Note = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Figure:
    """The median of repeats, and how far they lie apart."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, repeats: Sequence[float]) -> Figure:
        """Return the figure of at least one repeat."""
        return cls(statistics.median(repeats), min(repeats), max(repeats))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` % of `values` do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank) - 1, 0)]
