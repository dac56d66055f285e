"""The examples that ``fastps-bench staleness`` learns: generated ones, or any libsvm files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastps import _core
from fastps.data import DataError, find_files, read_libsvm, split_chunks
from fastps.models.metrics import sigmoid
from fastps_bench.workload import mix

__all__ = ["Examples", "Problem", "generated", "log_loss", "read", "read_problem"]

N_ENTRIES = 10  # features of a generated example
POPULARITY = 0.5  # feature i is drawn in proportion to (i + 1) ** -POPULARITY
WEIGHT_STD = 0.8
HELD_OUT_SHARE = 0.2
HELD_OUT_MAX = 5000

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """Rows of features, each with the probability that its label is positive (or the label).

    Attributes
    ----------
    indptr : ndarray of int64, shape (n_rows + 1,)
        Row i has the entries ``indptr[i]:indptr[i + 1]``.
    columns : ndarray of int32, shape (n_entries,)
        Positions among the problem's keys.
    values : ndarray of float32, shape (n_entries,)
        Values of the features.
    targets : ndarray of float32, shape (n_rows,)
        1 or 0; in the held-out part of generated examples the probability of a 1.
    """

    indptr: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    values: Floats
    targets: Floats

    def matrix(self, n_keys: int) -> _core.CsrMatrix:
        """Return the rows as a matrix of `n_keys` columns."""
        return _core.CsrMatrix(self.indptr, self.columns, self.values, n_keys)

    def part(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Return some of the rows."""
        lengths = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Examples(indptr, self.columns[entries], self.values[entries], self.targets[rows])


@dataclass(frozen=True)
class Problem:
    """What is learned and what it is judged by.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n_keys,)
        Key of each column; distinct.
    train, held_out : Examples
        For learning and for the loss.
    bayes_loss : float or None
        The least log-loss that any model can have on the held-out part; None: not known.
    """

    keys: npt.NDArray[np.uint64]
    train: Examples
    held_out: Examples
    bayes_loss: float | None

    @property
    def zero_loss(self) -> float:
        """The log-loss of a model that knows nothing."""
        return math.log(2)

    def save(self, path: Path) -> None:
        """Write it to a file for `read_problem`."""
        arrays = {
            f"{part}_{name}": value
            for part in ("train", "held_out")
            for name, value in vars(getattr(self, part)).items()
        }
        bayes = np.nan if self.bayes_loss is None else self.bayes_loss
        np.savez(path, keys=self.keys, bayes_loss=bayes, **arrays)


def read_problem(path: Path) -> Problem:
    """Return what `Problem.save` wrote."""
    with np.load(path) as file:
        train, held_out = (
            Examples(
                *(file[f"{part}_{name}"] for name in ("indptr", "columns", "values", "targets"))
            )
            for part in ("train", "held_out")
        )
        bayes = float(file["bayes_loss"])
        return Problem(file["keys"], train, held_out, None if math.isnan(bayes) else bayes)


def generated(n_features: int, n_examples: int, seed: int) -> Problem:
    """Draw sparse examples of a known logistic model.

    Popular features are in many examples, rare ones in few. The held-out part has probabilities
    instead of labels, so that its loss has no noise of its own.
    """
    random = np.random.default_rng(seed)
    weights = random.normal(0, WEIGHT_STD, n_features)
    popularity = np.arange(1, n_features + 1) ** -POPULARITY
    popularity /= popularity.sum()

    def draw(n_rows: int) -> tuple[Examples, npt.NDArray[np.float64]]:
        columns = random.choice(n_features, (n_rows, N_ENTRIES), p=popularity)
        probabilities = np.asarray(sigmoid(weights[columns].sum(axis=1)), np.float64)
        labels = random.random(n_rows) < probabilities
        indptr = np.arange(n_rows + 1, dtype=np.int64) * N_ENTRIES
        ones = np.ones(columns.size, np.float32)
        flat = columns.ravel().astype(np.int32)
        return Examples(indptr, flat, ones, labels.astype(np.float32)), probabilities

    train, _ = draw(n_examples)
    held_out, p = draw(min(HELD_OUT_MAX, max(1, int(n_examples * HELD_OUT_SHARE))))
    judge = Examples(held_out.indptr, held_out.columns, held_out.values, p.astype(np.float32))
    bayes = float(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)))
    return Problem(mix(np.arange(n_features, dtype=np.uint64)), train, judge, bayes)


def read(sources: Sequence[Path], seed: int) -> Problem:
    """Read libsvm files and hold some of the examples out, chosen by chance.

    Raises
    ------
    DataError
        A file is missing or bad, or there are fewer than two examples.
    """
    rows = [read_libsvm(chunk) for chunk in split_chunks(find_files(sources))]
    lengths = np.concatenate([[0], *(np.diff(each.indptr) for each in rows)])
    labels = np.concatenate([each.labels for each in rows])
    n_rows = len(labels)
    if n_rows < 2:
        raise DataError(f"{sources[0]}: has {n_rows} examples, at least 2 are needed")
    keys, columns = _core.unique_inverse(np.concatenate([each.ids for each in rows]))
    examples = Examples(
        np.cumsum(lengths).astype(np.int64),
        columns,
        np.concatenate([each.values for each in rows]),
        (labels > 0).astype(np.float32),
    )
    order = np.random.default_rng(seed).permutation(n_rows)
    n_held_out = min(HELD_OUT_MAX, max(1, int(n_rows * HELD_OUT_SHARE)))
    train, held_out = examples.part(order[n_held_out:]), examples.part(order[:n_held_out])
    return Problem(keys, train, held_out, None)


def log_loss(margins: Floats, targets: Floats) -> float:
    """Return the mean log-loss; `targets` are labels or probabilities."""
    m = margins.astype(np.float64)
    return float(np.mean(np.maximum(m, 0) - m * targets + np.log1p(np.exp(-np.abs(m)))))
