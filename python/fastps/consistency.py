"""Consistency models, as values. Definitions: "Consistency" in ARCHITECTURE.md.

What is there so far is `ASP`; a table asked for with another model raises `ConfigError`.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

from fastps import _values
from fastps.errors import ConfigError, ValueRangeError

__all__ = ["ASP", "BSP", "SSP", "Consistency"]


class Consistency:
    """Base of all consistency models."""

    def to_json(self) -> dict[str, Any]:
        """Return the model as a dict of plain values."""
        return _values.to_json(self)


@dataclass(frozen=True)
class ASP(Consistency):
    """Asynchronous parallel: a pull never waits.

    It reflects the caller's own pushes acknowledged before it was called, and may reflect any of
    others (Dean et al., NIPS 2012, "Downpour SGD").
    """


@dataclass(frozen=True)
class SSP(Consistency):
    """Stale synchronous parallel (Ho et al., NIPS 2013).

    Parameters
    ----------
    staleness : int
        How many steps a worker may be ahead of the slowest, >= 0.

    Raises
    ------
    ConfigError, ValueRangeError
        `staleness` is no integer, or negative.
    """

    staleness: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "staleness", _count("SSP", "staleness", self.staleness))


@dataclass(frozen=True)
class BSP(Consistency):
    """Bulk synchronous parallel: a pull at step c reflects exactly the pushes of steps before c.

    Parameters
    ----------
    backup : int, default 0
        How many slow workers a step may go on without, >= 0.

    Raises
    ------
    ConfigError, ValueRangeError
        `backup` is no integer, or negative.
    """

    backup: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "backup", _count("BSP", "backup", self.backup))


def _count(owner: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(
            f"{owner}: {name} is {value!r} ({type(value).__name__}), needed is an integer"
        )
    if value < 0:
        raise ValueRangeError(f"{owner}: {name} is {value!r}, needed is an integer >= 0")
    return int(value)
