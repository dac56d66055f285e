"""Consistency models, as values, and the gates they put before calls. Pure.

A worker's *clock* is the number of steps it ended with `Client.clock`. The *minimum* is the lowest
clock among the workers of its group that count. Under BSP the pushes of step c make up *round* c,
which is closed when all of these workers have ended the step. Definitions: "Consistency" in
ARCHITECTURE.md.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fastps import _values
from fastps.errors import ConfigError, ValueRangeError

__all__ = ["ASP", "BSP", "SSP", "Consistency", "Gate", "from_json", "from_text"]


@dataclass(frozen=True)
class Gate:
    """What must hold before a call may start. The default holds always.

    Attributes
    ----------
    minimum : int
        Steps that every worker of the group must have ended.
    rounds : int
        Rounds of the group that must be closed.
    """

    minimum: int = 0
    rounds: int = 0

    def __bool__(self) -> bool:
        return self.minimum > 0 or self.rounds > 0


class Consistency:
    """Base of all consistency models: the gates of ASP, which are always open."""

    in_rounds: ClassVar[bool] = False  # whether pushes wait until their round is closed

    def pull_gate(self, clock: int) -> Gate:
        """Return the gate of a pull by a worker at `clock`."""
        return Gate()

    def push_gate(self, clock: int) -> Gate:
        """Return the gate of a push."""
        return Gate()

    def write_gate(self, clock: int) -> Gate:
        """Return the gate of an assign, a remove or a set_lr."""
        return Gate()

    def to_json(self) -> dict[str, Any]:
        """Return the model as a dict of plain values; `from_json` reads it."""
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

    A pull at clock c waits until every worker has ended step c - 1 - staleness. It reflects every
    push of every live worker in steps before c - staleness, and the caller's own pushes
    acknowledged before it was called; it may reflect later ones.

    Parameters
    ----------
    staleness : int
        How many steps a worker may be ahead of the slowest, >= 0.

    Raises
    ------
    ConfigError, ValueRangeError
        `staleness` is no integer, or negative.

    Examples
    --------
    >>> SSP(3).pull_gate(10)
    Gate(minimum=7, rounds=0)
    """

    staleness: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "staleness", _count("SSP", "staleness", self.staleness))

    def pull_gate(self, clock: int) -> Gate:
        """Return the gate of a pull: no worker is more than `staleness` steps behind."""
        return Gate(minimum=max(0, clock - self.staleness))


@dataclass(frozen=True)
class BSP(Consistency):
    """Bulk synchronous parallel (Valiant, CACM 1990): rounds that all workers end together.

    A pull at clock c reflects exactly the pushes of steps before c, and nothing of step c, not even
    the caller's own. The pushes of a round are added up in rank order and applied once, so that any
    number of servers and threads gives the same bits as one process doing the same steps.

    Parameters
    ----------
    backup : int, default 0
        How many slow workers a round is closed without (Chen et al. 2016, "Revisiting distributed
        synchronous SGD"), >= 0. Their late pushes have no effect, and are counted.

    Raises
    ------
    ConfigError, ValueRangeError
        `backup` is no integer, or negative.

    Examples
    --------
    >>> BSP().pull_gate(10), BSP().push_gate(10)
    (Gate(minimum=0, rounds=10), Gate(minimum=0, rounds=9))
    """

    in_rounds: ClassVar[bool] = True

    backup: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "backup", _count("BSP", "backup", self.backup))

    def pull_gate(self, clock: int) -> Gate:
        """Return the gate of a pull: every earlier round is closed."""
        return Gate(rounds=clock)

    def push_gate(self, clock: int) -> Gate:
        """Return the gate of a push: at most two rounds are open, so servers' memory is bounded."""
        return Gate(rounds=max(0, clock - 1))

    def write_gate(self, clock: int) -> Gate:
        """Return the gate of other writes: they fall between two rounds."""
        return Gate(rounds=clock)


MODELS: Mapping[str, type[Consistency]] = {"ASP": ASP, "SSP": SSP, "BSP": BSP}


def from_json(described: object) -> Consistency:
    """Return the model that `Consistency.to_json` described. It may come from anywhere.

    Raises
    ------
    ConfigError, ValueRangeError
        It describes none, or numbers that none can have.

    >>> from_json(SSP(3).to_json())
    SSP(staleness=3)
    """
    return _values.from_json("consistency", MODELS, described)


def from_text(text: str) -> Consistency:
    """Return the model that a command line names: ``asp``, ``bsp``, ``bsp:backup`` or ``ssp:s``.

    Raises
    ------
    ConfigError
        It names none.

    >>> from_text("ssp:3"), from_text("bsp")
    (SSP(staleness=3), BSP(backup=0))
    """
    name, colon, number = text.lower().partition(":")
    count = int(number) if re.fullmatch("[0-9]{1,19}", number) else None
    if name == "ssp" and count is not None:
        return SSP(count)
    if name == "bsp" and (count is not None or not colon):
        return BSP(count or 0)
    if text.lower() == "asp":
        return ASP()
    raise ConfigError(
        f"{text!r} is no consistency; use asp (nobody waits), ssp:S (at most S steps ahead of the "
        "slowest worker) or bsp (steps that all end together)"
    )


def _count(owner: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(
            f"{owner}: {name} is {value!r} ({type(value).__name__}), needed is an integer"
        )
    if value < 0:
        raise ValueRangeError(f"{owner}: {name} is {value!r}, needed is an integer >= 0")
    return int(value)
