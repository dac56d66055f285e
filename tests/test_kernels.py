"""The loops of every kernel set against the numpy references, through sparse rows and blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from fastps import _core_test
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Optimizer

Array = npt.NDArray[Any]

KERNELS: list[str] = _core_test.available_kernels()

OPTIMIZERS = [
    Accumulate(),
    SGD(lr=0.1),
    AdaGrad(lr=0.1),
    FTRL(alpha=0.1, beta=1.0, l1=0.5, l2=0.25),
    FTRL(alpha=0.5, beta=0.0, l1=0.0, l2=0.0),
]

rates = st.floats(2.0**-10, 2.0, width=32)
weights = st.just(0.0) | rates
any_optimizer: st.SearchStrategy[Optimizer] = st.one_of(
    st.builds(Accumulate),
    st.builds(SGD, lr=rates),
    st.builds(AdaGrad, lr=rates, eps=st.just(1e-10) | rates),
    st.builds(FTRL, alpha=rates, beta=weights, l1=weights, l2=weights),
)
# Small enough for squares to vanish or become subnormal, large enough for sums to swallow ones.
scales = st.sampled_from([1e-30, 1e-22, 1e-3, 1.0, 1e6])


def gradients_of(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    """Normal gradients, a fifth of them exactly 0."""
    gradients = rng.standard_normal(shape) * scale * (rng.random(shape) < 0.8)
    rounded: Array = gradients.astype(np.float32)
    return rounded


def floats_at(offset: int, shape: tuple[int, ...]) -> Array:
    """A contiguous float32 array that begins `offset` floats after an allocation does."""
    n = math.prod(shape)
    return np.zeros(offset + n, dtype=np.float32)[offset:].reshape(shape)


def assert_same_bits(got: Array, expected: Array) -> None:
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_baseline_comes_first_and_avx2_where_the_cpu_has_it() -> None:
    assert KERNELS[0] == "baseline"
    cpuinfo = Path("/proc/cpuinfo").read_text()
    assert ("avx2" in KERNELS) == (" avx2" in cpuinfo)


@pytest.fixture
def restore_kernels() -> Iterator[None]:
    active = _core_test.active_kernels()
    yield
    assert _core_test.force_kernels(active)


@pytest.mark.usefixtures("restore_kernels")
def test_kernels_can_be_forced() -> None:
    for name in KERNELS:
        assert _core_test.force_kernels(name)
        assert _core_test.active_kernels() == name
    assert not _core_test.force_kernels("none of these")
    assert _core_test.active_kernels() == KERNELS[-1]


@settings(max_examples=60, deadline=None)
@given(
    optimizer=any_optimizer,
    width=st.integers(1, 257),
    n_rows=st.integers(0, 40),
    padding=st.integers(0, 3),
    offset=st.integers(0, 7),
    scale=scales,
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_equal_the_float32_reference(
    *,
    optimizer: Optimizer,
    width: int,
    n_rows: int,
    padding: int,
    offset: int,
    scale: float,
    seed: int,
) -> None:
    slots = reference.n_slots(optimizer)
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((n_rows, width)).astype(np.float32)
    rows = {}
    for name in KERNELS:
        rows[name] = floats_at(offset, (n_rows, width * (1 + slots) + padding))
        rows[name][...] = 77.0
        rows[name][:, :width] = first
        for slot, values in enumerate(reference.new_state(optimizer, first)):
            rows[name][:, width * (1 + slot) : width * (2 + slot)] = values
    w, state = first.copy(), reference.new_state(optimizer, first)
    for _ in range(10):
        gradients = gradients_of(rng, (n_rows, width), scale)
        reference.step(optimizer, w, state, gradients)
        for name in KERNELS:
            _core_test.apply_rows(name, optimizer.spec(), rows[name], gradients)
    expected = np.concatenate(
        [w, *state, np.full((n_rows, padding), 77.0, dtype=np.float32)], axis=1
    )
    for name in KERNELS:
        assert_same_bits(rows[name].copy(), expected)


@settings(max_examples=60, deadline=None)
@given(
    optimizer=any_optimizer,
    n=st.integers(0, 2000),
    offset=st.integers(0, 7),
    scale=scales,
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_equal_the_float32_reference(
    optimizer: Optimizer, n: int, offset: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first = rng.standard_normal(n).astype(np.float32)
    blocks = {}
    for name in KERNELS:
        values = floats_at(offset, (n,))
        values[...] = first
        slots: list[Array | None] = [None, None]
        for slot in range(reference.n_slots(optimizer)):
            slots[slot] = floats_at((offset * (slot + 2)) % 8, (n,))
        _core_test.reset_state(name, optimizer.spec(), values, *slots)
        blocks[name] = values, slots
    w, state = first.copy(), reference.new_state(optimizer, first)
    for _ in range(10):
        gradients = gradients_of(rng, (n,), scale)
        reference.step(optimizer, w, state, gradients)
        for name in KERNELS:
            values, slots = blocks[name]
            _core_test.apply_block(name, optimizer.spec(), values, *slots, gradients)
    for name in KERNELS:
        values, slots = blocks[name]
        assert_same_bits(values, w)
        for got, wanted in zip(slots, state, strict=False):
            assert got is not None
            assert_same_bits(got, wanted)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("width", [1, 3, 8, 16, 257])
def test_100_steps_equal_float32_and_stay_near_float64(
    kernels: str, optimizer: Optimizer, width: int
) -> None:
    rng = np.random.default_rng(width)
    n_rows = 4000 // width
    slots = reference.n_slots(optimizer)
    rows = np.zeros((n_rows, width * (1 + slots)), dtype=np.float32)
    block = [np.zeros(n_rows * width, dtype=np.float32) for _ in range(1 + slots)]
    block_slots = [*block[1:], None, None][:2]
    w = np.zeros((n_rows, width), dtype=np.float32)
    state = reference.new_state(optimizer, w)
    w64 = np.zeros((n_rows, width))
    state64 = reference.new_state(optimizer, w64)
    for _ in range(100):
        gradients = gradients_of(rng, (n_rows, width))
        _core_test.apply_rows(kernels, optimizer.spec(), rows, gradients)
        _core_test.apply_block(
            kernels, optimizer.spec(), block[0], *block_slots, gradients.reshape(-1)
        )
        reference.step(optimizer, w, state, gradients)
        reference.step(optimizer, w64, state64, gradients)
    assert_same_bits(rows, np.concatenate([w, *state], axis=1))
    for got, wanted in zip(block, [w, *state], strict=True):
        assert_same_bits(got, wanted.reshape(-1))
    np.testing.assert_allclose(w, w64, rtol=1e-5, atol=1e-6 * np.abs(w64).max())


@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_are_updated_where_they_lie(kernels: str) -> None:
    rows = np.zeros((5, 6), dtype=np.float32)
    gradients = np.arange(10, dtype=np.float32).reshape(5, 2)
    _core_test.apply_rows(kernels, Accumulate().spec(), rows, gradients)
    assert_same_bits(rows[:, :2].copy(), gradients)
    assert not rows[:, 2:].any()


def one_value(optimizer: Optimizer, w: float) -> Array:
    """A row of one value that was just assigned."""
    slots = [np.ones(1, dtype=np.float32), np.ones(1, dtype=np.float32)]
    values = np.array([w], dtype=np.float32)
    _core_test.reset_state(KERNELS[0], optimizer.spec(), values, *slots)
    row: Array = np.concatenate([values, *slots[: reference.n_slots(optimizer)]])[None, :]
    return row


def push(optimizer: Optimizer, row: Array, gradient: float) -> float:
    """Apply one gradient with every kernel set; all must agree."""
    results = []
    for name in KERNELS:
        updated = row.copy()
        gradients = np.array([[gradient]], dtype=np.float32)
        _core_test.apply_rows(name, optimizer.spec(), updated, gradients)
        results.append(updated)
        assert_same_bits(updated, results[0])
    row[...] = results[0]
    return float(row[0, 0])


def test_adagrad_survives_a_first_gradient_of_zero() -> None:
    optimizer = AdaGrad(lr=0.5, eps=1e-45)
    row = one_value(optimizer, 3.0)
    assert push(optimizer, row, 0.0) == 3.0
    assert push(optimizer, row, 2.0) == 2.5


def test_ftrl_state_of_an_assigned_value_belongs_to_it() -> None:
    optimizer = FTRL(alpha=0.5, beta=1.0, l1=0.25, l2=1.0)
    for w in (3.0, -0.125, 1e-3):
        row = one_value(optimizer, w)
        assert row[0, 0] == np.float32(w)
        assert push(optimizer, row, 0.0) == pytest.approx(w, rel=1e-4)
    assert not one_value(optimizer, 0.0).any()
    assert not one_value(optimizer, -0.0).any()


def test_ftrl_keeps_small_values_exactly_zero() -> None:
    optimizer = FTRL(alpha=0.5, l1=1.0)
    row = one_value(optimizer, 0.0)
    assert push(optimizer, row, 1.0) == 0.0
    assert push(optimizer, row, -2.5) > 0.0
    assert push(optimizer, row, 1.5) == 0.0


def test_ftrl_without_beta_and_l2_leaves_a_value_until_a_gradient_comes() -> None:
    optimizer = FTRL(alpha=0.5, beta=0.0, l1=0.0, l2=0.0)
    row = one_value(optimizer, 3.0)
    assert push(optimizer, row, 0.0) == 3.0
    assert push(optimizer, row, 1e-30) == 3.0  # its square is 0
    assert push(optimizer, row, 2.0) == pytest.approx(2.5)  # w - alpha * sign(g)


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ((2, [-1.0]), "SGD: lr is -1"),
        ((2, [math.nan]), "SGD: lr is nan"),
        ((2, [math.inf]), "SGD: lr is inf"),
        ((2, [0.1, 0.5]), "SGD: constant 1 is 0.5"),
        ((1, [0.1]), "Accumulate: constant 0 is"),
        ((3, [0.1, 0.0]), "AdaGrad: eps is 0"),
        ((3, [-0.1, 1.0]), "AdaGrad: lr is -0.1"),
        ((4, [0.0, 1.0, 0.0, 0.0]), "FTRL: alpha is 0"),
        ((4, [0.1, -1.0, 0.0, 0.0]), "FTRL: beta is -1"),
        ((4, [0.1, 1.0, -1.0, 0.0]), "FTRL: l1 is -1"),
        ((4, [0.1, 1.0, 0.0, math.nan]), "FTRL: l2 is nan"),
        ((4, [1e-30, 1e30, 0.0, 0.0]), r"FTRL: beta / alpha \+ l2 is inf"),
        ((5, [0.1]), "update rule 5 is not there; there are Accumulate"),
        ((0, []), "update rule 0 is not there"),
        ((255, []), "update rule 255 is not there"),
    ],
)
def test_rules_that_are_not_legal_are_refused(rule: tuple[int, list[float]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        _core_test.n_slots(rule)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_slots_are_counted(optimizer: Optimizer) -> None:
    assert _core_test.n_slots(optimizer.spec()) == reference.n_slots(optimizer)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 300), offset=st.integers(0, 7), seed=st.integers(0, 2**32 - 1))
def test_add(n: int, offset: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, addends = rng.standard_normal((2, n)).astype(np.float32)
    for name in KERNELS:
        sums = floats_at(offset, (n,))
        sums[...] = first
        _core_test.add(name, sums, addends.copy())
        assert_same_bits(sums, first + addends)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 33, 67])
def test_all_finite_sees_every_place(kernels: str, n: int) -> None:
    largest = np.finfo(np.float32).max
    values = np.resize(np.array([largest, -largest, 0.0, -0.0, 1e-45], dtype=np.float32), n)
    assert _core_test.all_finite(kernels, values)
    # The quiet NaN, a NaN with only the lowest bit set, and both infinities.
    for bits in (0x7FC00000, 0x7F800001, 0xFFC00000, 0x7F800000, 0xFF800000):
        for i in range(n):
            spoiled = values.copy()
            spoiled.view(np.uint32)[i] = bits
            assert not _core_test.all_finite(kernels, spoiled)


@pytest.mark.parametrize("kernels", KERNELS)
def test_nothing_is_finite(kernels: str) -> None:
    assert _core_test.all_finite(kernels, np.empty(0, dtype=np.float32))
