"""Metrics against naive definitions, and at the ends of the number range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.models.metrics import (
    accuracy,
    auc,
    binary_metrics,
    log_losses,
    objective,
    sigmoid,
)

# Few distinct scores, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40)


def naive_auc(scores, targets):
    positive = [s for s, t in zip(scores, targets, strict=True) if t]
    negative = [s for s, t in zip(scores, targets, strict=True) if not t]
    if not positive or not negative:
        return None
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


@given(PAIRS)
def test_auc_is_the_share_of_pairs_in_order(pairs):
    scores = np.array([pair[0] for pair in pairs], np.float32)
    targets = np.array([pair[1] for pair in pairs], np.float32)
    expected = naive_auc(scores, targets)
    actual = auc(scores, targets)
    assert actual == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_auc_of_a_perfect_and_a_reversed_order():
    scores = np.arange(10, dtype=np.float32)
    targets = (scores >= 5).astype(np.float32)
    assert auc(scores, targets) == 1
    assert auc(-scores, targets) == 0
    assert auc(np.zeros(10, np.float32), targets) == 0.5


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=20))
def test_log_loss_is_minus_log_probability(pairs):
    margins = np.array([pair[0] for pair in pairs])
    targets = np.array([pair[1] for pair in pairs], float)
    probability = 1 / (1 + np.exp(-margins))
    expected = -np.log(np.where(targets > 0, probability, 1 / (1 + np.exp(margins))))
    np.testing.assert_allclose(log_losses(margins, targets), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sigmoid(margins), probability, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_margins_neither_overflow_nor_lose_the_loss(dtype):
    margins = np.array([1e30, -1e30, 800, -800, 0], dtype)
    with np.errstate(all="raise", under="ignore"):
        probability = sigmoid(margins)
        losses = log_losses(margins, np.zeros(5, dtype))
    assert probability.dtype == dtype
    assert probability.tolist() == [1, 0, 1, 0, 0.5]
    assert losses.tolist() == [float(margins[0]), 0, 800, 0, pytest.approx(math.log(2))]


def test_accuracy_counts_a_margin_of_zero_as_negative():
    margins = np.array([1, -1, 0, 0], np.float32)
    assert accuracy(margins, np.array([1, 1, 0, 1], np.float32)) == 0.5


def test_binary_metrics_holds_them_all():
    figures = binary_metrics(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    assert figures.examples == 2
    assert figures.accuracy == 1
    assert figures.auc == 1
    assert figures.log_loss == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2)


def test_objective_by_hand():
    weights = np.array([3, -4, 0], np.float32)
    assert objective(10.0, weights, l1=2, l2=0.5) == 10 + 2 * 7 + 0.5 / 2 * 25
