"""The work that is measured, the same for every target, and what must come of it.

Keys are random 64-bit numbers; a request asks for uniformly chosen ones, repeats included. Values
and gradients are small whole numbers, so that the outcome is known exactly. Pure functions of the
sizes and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OPTIMIZERS", "Expectation", "Request", "Work", "mix"]

FloatArray = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

OPTIMIZERS = ("sgd", "accumulate", "adagrad")
LEARNING_RATE = 0.5  # a power of two: products with whole numbers are exact
ADAGRAD_EPS = 1e-10
CYCLE = 4  # gradients repeat over positions and columns with this period


def mix(numbers: Keys) -> Keys:
    """Return 64-bit numbers that look random, distinct for distinct input.

    The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014, "Fast splittable pseudorandom
    number generators").
    """
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = numbers ^ (numbers >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class Request:
    """Keys of one pull or push.

    Attributes
    ----------
    indices : ndarray of int64, shape (batch,)
        Which of the keys; what numpy takes as row numbers.
    keys : ndarray of uint64, shape (batch,)
        The keys themselves.
    """

    indices: Indices
    keys: Keys


@dataclass(frozen=True)
class Work:
    """Sizes of one measurement, and the arrays that follow from them.

    Attributes
    ----------
    n_keys, width, batch : int
        Rows of the table, floats of a row, keys of a request.
    n_requests : int
        Distinct requests, made before the clock runs.
    optimizer : str
        One of OPTIMIZERS.
    seed : int
        Of the choice of keys.
    """

    n_keys: int
    width: int
    batch: int
    n_requests: int
    optimizer: str = "sgd"
    seed: int = 0

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Scalar rows for one float, else vectors."""
        return () if self.width == 1 else (self.width,)

    @property
    def n_classes(self) -> int:
        """How many columns of a row differ; column c equals column c + CYCLE."""
        return min(self.width, CYCLE)

    def keys_of(self, indices: Indices) -> Keys:
        """Return the keys with these numbers."""
        return mix(indices.astype(np.uint64))

    def blocks(self) -> Iterator[Request]:
        """Yield all keys once, in requests of at most `batch`."""
        for start in range(0, self.n_keys, self.batch):
            indices = np.arange(start, min(start + self.batch, self.n_keys))
            yield Request(indices, self.keys_of(indices))

    def requests(self) -> list[Request]:
        """Return the requests that are measured."""
        random = np.random.default_rng(self.seed)
        chosen = [random.integers(0, self.n_keys, self.batch) for _ in range(self.n_requests)]
        return [Request(indices, self.keys_of(indices)) for indices in chosen]

    def initial(self, indices: Indices) -> FloatArray:
        """Return the values that rows are filled with, shape (n,) + row_shape."""
        values = (indices % 1024)[:, None] + np.arange(self.width) % CYCLE
        return values.astype(np.float32).reshape(len(indices), *self.row_shape)

    def gradients(self) -> FloatArray:
        """Return the gradients of every push, shape (batch,) + row_shape."""
        numbers = 1 + (np.arange(self.batch)[:, None] + np.arange(self.width)) % CYCLE
        return numbers.astype(np.float32).reshape(self.batch, *self.row_shape)


class Expectation:
    """What the table must hold, computed by numpy in float64. One thread.

    Parameters
    ----------
    work : Work
        What is done.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        columns = np.arange(work.n_classes)
        self._values = (np.arange(work.n_keys) % 1024)[:, None] + columns % CYCLE
        self._values = self._values.astype(np.float64)
        adaptive = work.optimizer == "adagrad"
        self._squares = np.zeros_like(self._values) if adaptive else None

    def push(self, request: Request) -> None:
        """Apply a push of `request` with `Work.gradients`."""
        rows, inverse = np.unique(request.indices, return_inverse=True)
        positions = np.arange(len(inverse))
        for column in range(self._work.n_classes):
            weights = 1.0 + (positions + column) % CYCLE
            self._apply(rows, column, np.bincount(inverse, weights).astype(np.float64))

    def _apply(self, rows: Indices, column: int, gradients: npt.NDArray[np.float64]) -> None:
        if self._work.optimizer == "accumulate":
            self._values[rows, column] += gradients
        elif self._squares is None:
            self._values[rows, column] -= LEARNING_RATE * gradients
        else:
            self._squares[rows, column] += gradients**2
            root = np.sqrt(self._squares[rows, column]) + ADAGRAD_EPS
            self._values[rows, column] -= LEARNING_RATE * gradients / root

    def check(self, request: Request, values: FloatArray) -> float:
        """Compare what a pull of `request` returned; return its sum.

        Raises
        ------
        AssertionError
            A value is not what it must be.
        """
        if values.shape != (len(request.indices), *self._work.row_shape):
            raise AssertionError(f"a pull returned shape {values.shape}")
        columns = np.arange(self._work.width) % CYCLE
        expected = self._values[request.indices[:, None], columns].reshape(values.shape)
        if self._work.optimizer == "adagrad":
            same = np.isclose(values, expected, rtol=1e-4, atol=1e-4)
        else:
            same = values == expected
        if not same.all():
            place = np.unravel_index(np.argmin(same), same.shape)
            key = request.keys[place[0]]
            raise AssertionError(
                f"{same.size - np.count_nonzero(same)} of {same.size} values are wrong, the first "
                f"of key {key}: {values[place]} instead of {expected[place]}"
            )
        return float(values.sum(dtype=np.float64))
