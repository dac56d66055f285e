"""What is known of pushes into lanes: counts shared between processes, logs, and the comparison.

Each worker pushes 1 into its own lane of shared keys. What it has called and what was acknowledged
it counts in a page of shared memory, so that whoever pulls can say at any time what the rows may
hold. Each push and pull is logged with when it began and ended.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = Any

N_KEYS = 64  # they lie on all shards
KEYS = np.random.default_rng(11).integers(0, 2**64, N_KEYS, dtype=np.uint64)
FOUND_MAX = 20  # violations told of


class Page:
    """Numbers of one lane that its worker writes, and that others may read at any time."""

    NAMES = ("called", "returned")

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(self.NAMES)))
        with path.open("r+b") as file:
            # Of numpy, which writes a number at once; struct writes zeros first.
            self._numbers = np.frombuffer(mmap.mmap(file.fileno(), 0), np.int64)

    def __getitem__(self, name: str) -> int:
        return int(self._numbers[self.NAMES.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._numbers[self.NAMES.index(name)] = value


class Call(NamedTuple):
    """A push (kind 0) or pull (1) that was answered; times are of time.monotonic()."""

    kind: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


PUSH, PULL = 0, 1
_CALL = struct.Struct("qdd")


class Log:
    """A file of calls: one process appends, another one reads what is new."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._read = 0

    def append(self, call: Call) -> None:
        os.write(self._file, _CALL.pack(*call))

    def new(self) -> Iterator[Call]:
        data = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
        data = data[: len(data) - len(data) % _CALL.size]
        self._read += len(data)
        return (Call(*each) for each in _CALL.iter_unpack(data))

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Sums:
    """Compares what a session pulls with what all lanes called and got acknowledged.

    Under ASP a session is promised its own acknowledged pushes. Those of others it may miss while
    it has not heard of a new view yet, and a server that was silent has not, either: the two of
    them go on with the old one. Who pulls when all have heard must see everything.
    """

    pages: Sequence[Page]
    own: int | None = None  # the lane of which all that is acknowledged must be there; None: all
    found: list[str] = field(default_factory=list)
    n_pulls: int = 0
    last: Array = 0

    def check(self, pull: Any, what: str) -> None:
        """Pull; require acknowledged <= value <= called, and that no value goes back."""
        least = np.array(
            [
                page["returned"] if self.own in (None, lane) else 0
                for lane, page in enumerate(self.pages)
            ]
        )
        values = pull()
        most = np.array([page["called"] for page in self.pages])
        self.n_pulls += 1
        self._require(values >= least, f"{what}: acknowledged pushes are lost", values, least)
        self._require(values <= most, f"{what}: more than was ever pushed", values, most)
        self._require(values >= self.last, f"{what}: a value went back", values, self.last)
        self.last = values

    def must_be(self, values: Array, what: str) -> None:
        """Nobody pushes any more, and all is acknowledged."""
        called = np.array([page["called"] for page in self.pages])
        self._require(values == called, f"{what}: not just what was pushed", values, called)

    def _require(self, is_right: Array, what: str, values: Array, bound: Array) -> None:
        if np.all(is_right) or len(self.found) >= FOUND_MAX:
            return
        wrong = np.argwhere(~is_right)
        row, lane = wrong[0]
        bounds = np.broadcast_to(bound, values.shape)
        self.found.append(
            f"{what}: {len(wrong)} values, for example key {KEYS[row]} (number {row}) of lane "
            f"{lane}: {values[row, lane]:.0f} beside {bounds[row, lane]:.0f} "
            f"at {time.monotonic():.3f}"
        )


def pages_in(folder: Path, n_lanes: int) -> list[Page]:
    return [Page(folder / f"page-{lane}") for lane in range(n_lanes)]
