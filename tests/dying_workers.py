"""A worker that does what a test tells it, one call after another, until it is killed.

It answers on a connection, and counts its pushes in a page of shared memory that outlives it: so
the test knows what it was doing when it died. This module is imported by a fork server before
workers are forked, so it must not open any client.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import fastps

Array = Any

N_KEYS = 24
N_LANES = 96  # of each life one, so that all it ever pushed can be told apart
KEYS = np.random.default_rng(3).integers(0, 2**64, N_KEYS, dtype=np.uint64)
MODEL = fastps.optimizers.SGD(lr=0.05)
MODEL_WIDTH = 4
STAYS = ("asp", "ssp")  # what is pushed to these tables stays when its worker dies
TABLES = (*STAYS, "bsp")
CALL_SECONDS = 25.0


@dataclass(frozen=True)
class Life:
    """What a worker is told when it starts."""

    lane: int
    page: str


class Page:
    """Numbers that a worker writes and that outlive it: pushes called and returned, and so on."""

    NAMES = ("phase", "item", *(f"{t} {what}" for t in TABLES for what in ("called", "returned")))
    _FORM = struct.Struct("q")

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(len(self.NAMES) * self._FORM.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def __getitem__(self, name: str) -> int:
        value: int = self._FORM.unpack_from(self._map, self.NAMES.index(name) * self._FORM.size)[0]
        return value

    def __setitem__(self, name: str, value: int) -> None:
        self._FORM.pack_into(self._map, self.NAMES.index(name) * self._FORM.size, value)

    def add(self, name: str) -> None:
        self[name] = self[name] + 1


def gradients_of(lane: int, step: int) -> Array:
    """What the worker of a lane pushes to the model in a step, float32."""
    random = np.random.default_rng([lane, step])
    scale = 10.0 ** random.uniform(-4, 1, (N_KEYS, MODEL_WIDTH))
    return (random.normal(0, 1, (N_KEYS, MODEL_WIDTH)) * scale).astype(np.float32)


def live_by_hand(connection: Connection, environment: dict[str, str]) -> None:
    """Be a worker that somebody started by hand."""
    os.environ.update(environment)
    obey(connection)


def obey(connection: Connection) -> None:
    """Do what the test says until it says no more."""
    try:
        life = connection.recv()
        try:
            worker = Obedient(life)
        except Exception as error:
            connection.send((type(error).__name__, str(error)))
            return
        connection.send(("done", worker.joined()))
        while True:
            verb, arguments = connection.recv()
            try:
                answer = ("done", getattr(worker, verb)(*arguments))
            except Exception as error:
                answer = (type(error).__name__, str(error))
            connection.send(answer)
            if verb == "close":
                return
    except (EOFError, ConnectionError):
        os._exit(1)  # the test is gone


class Obedient:
    """The verbs. A phase of which the test kills this worker ends with `_now`, then waits."""

    def __init__(self, life: Life) -> None:
        self._lane, self._page = life.lane, Page(Path(life.page))
        self._client = fastps.connect(timeout=CALL_SECONDS)
        self._own = np.zeros((N_KEYS, N_LANES), np.float32)
        self._own[:, self._lane] = 1
        make = self._client.sparse_table
        group = self._client.group
        self._tables = {
            name: make(f"{group}-{name}", row_shape=(N_LANES,), num_shards=8, consistency=policy)
            for name, policy in (
                ("asp", fastps.ASP()),
                ("ssp", fastps.SSP(1)),
                ("bsp", fastps.BSP()),
            )
        }
        self._tables["model"] = make(
            f"{group}-model",
            row_shape=(MODEL_WIDTH,),
            num_shards=8,
            optimizer=MODEL,
            consistency=fastps.BSP(),
        )
        self._passes = 0

    def joined(self) -> dict[str, int]:
        client = self._client
        return {"pid": os.getpid(), "rank": client.rank, "clock": client.clock_value}

    # What every worker does.

    def step(self) -> int:
        """Push 1 to the own lanes and a gradient to the model, end the step; return its number."""
        step = self._client.clock_value
        for name in STAYS:
            self._push(name)
        self._tables["bsp"].push(KEYS, self._own)
        self._tables["model"].push(KEYS, gradients_of(self._lane, step))
        self._client.clock()
        return step

    def steps(self, number: int) -> list[int]:
        """Take whole steps, with pulls that wait at gates; return their numbers."""
        done = []
        for _ in range(number):
            for name in ("ssp", "bsp"):
                self._tables[name].pull(KEYS)
            done.append(self.step())
        return done

    def barrier(self) -> None:
        self._client.barrier(timeout=CALL_SECONDS)

    def pull(self, table: str) -> Array:
        return self._tables[table].pull(KEYS)

    def push(self, table: str) -> None:
        self._push(table)

    def clock(self) -> int:
        return self._client.clock()

    def flush(self) -> None:
        self._client.flush()

    def work(self, pass_number: int, n_items: int) -> list[int]:
        """Share a pass of chunks; return the items done here."""
        done = []
        for item in self._pass(pass_number, n_items):
            self._push("asp")
            done.append(item)
        return done

    def close(self) -> None:
        self._client.close()

    # What a worker is killed at.

    def compute(self) -> NoReturn:
        """Have un-clocked pushes behind it, and compute."""
        self._open_round()
        self._now()
        _compute()

    def push_on(self, window: int) -> None:
        """Push for ever, with so many pushes in flight."""
        flying: list[tuple[str, Any]] = []
        for n in itertools.count():
            name = TABLES[n % len(TABLES)]
            self._page.add(f"{name} called")
            flying.append((name, self._tables[name].push_async(KEYS, self._own)))
            while len(flying) >= window:
                done, future = flying.pop(0)
                future.result(timeout=CALL_SECONDS)
                self._page.add(f"{done} returned")
            if n == 10:
                self._now()

    def wait_at_ssp_gate(self) -> Array:
        """Stand two steps ahead; with SSP(1) the gate is shut."""
        self._now()
        return self._tables["ssp"].pull(KEYS)

    def wait_at_bsp_gate(self) -> Array:
        """Stand one step ahead."""
        self._now()
        return self._tables["model"].pull(KEYS)

    def wait_in_barrier(self, clean: bool) -> None:
        if not clean:
            self._open_round()
        self._now()
        self.barrier()

    def hold_a_chunk(self, pass_number: int, n_items: int) -> None:
        """Do one item, then hold the next, half of its work done."""
        for n, item in enumerate(self._pass(pass_number, n_items)):
            self._push("asp")
            if n == 1:
                self._page["item"] = item
                self._now()
                _compute()

    def begin_chunks(self, pass_number: int, n_items: int) -> int:
        """Do one item and hold the next, between two calls; return it."""
        self._items = self._pass(pass_number, n_items)
        next(self._items)
        self._push("asp")
        return self.next_chunk()

    def next_chunk(self) -> int:
        item: int = next(self._items)
        self._page["item"] = item
        return item

    def _pass(self, pass_number: int, n_items: int) -> Any:
        while self._passes < pass_number - 1:  # passes before its life yield nothing
            self._passes += 1
            assert not list(self._client.chunks(range(n_items), timeout=CALL_SECONDS))
        self._passes += 1
        return self._client.chunks(range(n_items), timeout=CALL_SECONDS)

    def _open_round(self) -> None:
        """Push to all tables in a step that does not end."""
        for name in STAYS:
            self._push(name)
        self._tables["bsp"].push(KEYS, self._own)
        self._tables["model"].push(KEYS, np.full((N_KEYS, MODEL_WIDTH), 1000, np.float32))

    def _push(self, table: str) -> None:
        self._page.add(f"{table} called")
        self._tables[table].push(KEYS, self._own)
        self._page.add(f"{table} returned")

    def _now(self) -> None:
        self._page["phase"] = 1


def _compute() -> NoReturn:
    while True:
        np.sort(np.arange(10_000)[::-1])
        time.sleep(0.001)  # many compute at once, on few cores
