"""Metrics of binary classifiers, from margins (log-odds), stable for margins of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Metrics", "accuracy", "auc", "binary_metrics", "log_losses", "objective", "sigmoid"]

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """Figures over a set of examples.

    Attributes
    ----------
    examples : int
        How many.
    log_loss : float
        Mean of ``-log p(label)``, in nats.
    accuracy : float
        Share of the examples whose more probable label is theirs.
    auc : float or None
        Area under the ROC curve; None if all examples have the same label.
    """

    examples: int
    log_loss: float
    accuracy: float
    auc: float | None


def sigmoid(margins: Floats) -> Floats:
    """Return ``1 / (1 + exp(-margins))`` in the dtype of `margins`, without overflow."""
    # exp of a number that is never positive cannot overflow.
    small = np.exp(-np.abs(margins))
    numerator = np.where(margins >= 0, np.ones_like(small), small)
    result: Floats = numerator / (1 + small)
    return result


def log_losses(margins: Floats, targets: Floats) -> npt.NDArray[np.float64]:
    """Return each example's loss ``-log p(target)``, shape of `margins`.

    Parameters
    ----------
    margins : ndarray of float, shape (n,)
        Log-odds of the positive label.
    targets : ndarray of float, shape (n,)
        1 for the positive label, else 0.
    """
    m = margins.astype(np.float64)
    # log(1 + exp(m)) - target * m, with the exponent never positive.
    losses: npt.NDArray[np.float64] = np.maximum(m, 0) - m * targets + np.log1p(np.exp(-np.abs(m)))
    return losses


def accuracy(margins: Floats, targets: Floats) -> float:
    """Return the share of examples on the right side of 0; a margin of 0 counts as negative."""
    return float(np.mean((margins > 0) == (targets > 0)))


def auc(scores: Floats, targets: Floats) -> float | None:
    """Return the exact area under the ROC curve: ties count half.

    By ranks (Mann and Whitney 1947): the share of (positive, negative) pairs in which the positive
    example has the higher score.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        Any increasing function of the probability.
    targets : ndarray of float, shape (n,)
        1 for the positive label, else 0.

    Returns
    -------
    float or None
        None if all targets are the same.
    """
    positive = targets > 0
    n_positive = int(np.count_nonzero(positive))
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    # The mean rank, from 1, of the examples that share a score.
    last = np.cumsum(size)
    ranks = last - (size - 1) / 2
    rank_sum = float(ranks[group[positive]].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def binary_metrics(margins: Floats, targets: Floats) -> Metrics:
    """Return all figures; `margins` and `targets` have shape (n,), n at least 1."""
    return Metrics(
        examples=len(margins),
        log_loss=float(log_losses(margins, targets).mean()),
        accuracy=accuracy(margins, targets),
        auc=auc(margins, targets),
    )


def objective(loss_sum: float, weights: Floats, l1: float, l2: float) -> float:
    """Return ``loss_sum + l1 * |w|_1 + l2 / 2 * |w|^2`` in float64."""
    w = weights.astype(np.float64)
    return float(loss_sum + l1 * np.abs(w).sum() + l2 / 2 * np.dot(w, w))
