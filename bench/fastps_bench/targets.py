"""What can be measured: fastps embedded or over sockets, and its rivals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import fastps
from fastps.optimizers import SGD, Accumulate, AdaGrad, Optimizer
from fastps_bench.workload import ADAGRAD_EPS, LEARNING_RATE, FloatArray, Request, Work

__all__ = ["RIVALS", "FastPSTarget", "NumpyTarget", "Target"]

Wait = Callable[[], Any]


class Target(Protocol):
    """A store of rows. One thread uses it."""

    def assign(self, request: Request, values: FloatArray) -> None:
        """Set rows."""

    def pull(self, request: Request) -> FloatArray:
        """Return fresh rows, one for each key of the request."""

    def push(self, request: Request, gradients: FloatArray) -> None:
        """Apply gradients; done when it returns."""

    def start_pull(self, request: Request) -> Wait:
        """Start a pull; calling what is returned waits for it."""

    def start_push(self, request: Request, gradients: FloatArray) -> Wait:
        """Start a push; calling what is returned waits for it."""

    def rows_and_bytes(self) -> tuple[int, int]:
        """Return how many rows there are, and the bytes that hold them."""

    def close(self) -> None:
        """Let everything go."""


class FastPSTarget:
    """A sparse table of a client, whose cluster is embedded or not."""

    def __init__(self, client: fastps.Client, work: Work, name: str = "bench") -> None:
        self._client = client
        self._table = client.sparse_table(
            name, row_shape=work.row_shape, optimizer=_optimizer(work)
        )

    def assign(self, request: Request, values: FloatArray) -> None:
        """Set rows."""
        self._table.assign(request.keys, values)

    def pull(self, request: Request) -> FloatArray:
        """Return rows."""
        return self._table.pull(request.keys)

    def push(self, request: Request, gradients: FloatArray) -> None:
        """Apply gradients."""
        self._table.push(request.keys, gradients)

    def start_pull(self, request: Request) -> Wait:
        """Start a pull."""
        return self._table.pull_async(request.keys).result

    def start_push(self, request: Request, gradients: FloatArray) -> Wait:
        """Start a push."""
        return self._table.push_async(request.keys, gradients).result

    def rows_and_bytes(self) -> tuple[int, int]:
        """Return the table's own count of rows and bytes."""
        stats = self._table.stats()
        return stats["rows"], stats["bytes"]

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


class NumpyTarget:
    """A numpy array in this process: rows by number, no hashing, no locks, no state."""

    def __init__(self, work: Work) -> None:
        if work.optimizer not in ("sgd", "accumulate"):
            raise ValueError(f"numpy has no {work.optimizer}; it can do sgd and accumulate")
        self._rows = np.zeros((work.n_keys, *work.row_shape), np.float32)
        factor = 1.0 if work.optimizer == "accumulate" else -LEARNING_RATE
        self._steps = np.float32(factor) * work.gradients()

    def assign(self, request: Request, values: FloatArray) -> None:
        """Set rows."""
        self._rows[request.indices] = values

    def pull(self, request: Request) -> FloatArray:
        """Return rows."""
        return self._rows.take(request.indices, axis=0)

    def push(self, request: Request, gradients: FloatArray) -> None:
        """Add the steps, which were multiplied before the clock ran: this is ``add.at`` alone."""
        np.add.at(self._rows, request.indices, self._steps[: len(gradients)])

    def start_pull(self, request: Request) -> Wait:
        """Pull at once."""
        rows = self.pull(request)
        return lambda: rows

    def start_push(self, request: Request, gradients: FloatArray) -> Wait:
        """Push at once."""
        self.push(request, gradients)
        return lambda: None

    def rows_and_bytes(self) -> tuple[int, int]:
        """Return the array's."""
        return len(self._rows), self._rows.nbytes

    def close(self) -> None:
        """Let the array go."""
        self._rows = self._rows[:0]


RIVALS: dict[str, Callable[[Work], Target]] = {"numpy": NumpyTarget}


def _optimizer(work: Work) -> Optimizer:
    if work.optimizer == "sgd":
        return SGD(lr=LEARNING_RATE)
    if work.optimizer == "adagrad":
        return AdaGrad(lr=LEARNING_RATE, eps=ADAGRAD_EPS)
    return Accumulate()
