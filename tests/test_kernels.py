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
from fastps.optimizers import (
    FTRL,
    SGD,
    Accumulate,
    AdaGrad,
    Adam,
    Momentum,
    Optimizer,
    RMSProp,
)

Array = npt.NDArray[Any]

KERNELS: list[str] = _core_test.available_kernels()

OPTIMIZERS = [
    Accumulate(),
    SGD(lr=0.1),
    SGD(lr=0.1, weight_decay=0.01),
    Momentum(lr=0.1, momentum=0.9),
    Momentum(lr=0.1, momentum=0.5, nesterov=True),
    Momentum(lr=0.1, weight_decay=0.01),
    Momentum(lr=0.1, nesterov=True, weight_decay=0.01),
    AdaGrad(lr=0.1),
    AdaGrad(lr=0.1, weight_decay=0.01),
    AdaGrad(lr=0.1, lr_decay=0.01),
    AdaGrad(lr=0.1, weight_decay=0.01, lr_decay=0.5, initial_accumulator_value=0.25),
    RMSProp(lr=0.1),
    RMSProp(lr=0.1, alpha=0.5, weight_decay=0.01),
    Adam(lr=0.1),
    Adam(lr=0.1, betas=(0.5, 0.75), weight_decay=0.01),
    Adam(lr=0.1, betas=(0.0, 0.0)),
    FTRL(alpha=0.1, beta=1.0, l1=0.5, l2=0.25),
    FTRL(alpha=0.5, beta=0.0, l1=0.0, l2=0.0),
]

rates = st.floats(2.0**-10, 2.0, width=32)
weights = st.just(0.0) | rates
fractions = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999])
any_optimizer: st.SearchStrategy[Optimizer] = st.one_of(
    st.builds(Accumulate),
    st.builds(SGD, lr=rates, weight_decay=weights),
    st.builds(Momentum, rates, rates, st.booleans(), weights),
    st.builds(AdaGrad, rates, st.just(1e-10) | rates, weights, weights, weights),
    st.builds(RMSProp, rates, fractions, st.just(1e-8) | rates, weights),
    st.builds(Adam, rates, st.tuples(fractions, fractions), st.just(1e-8) | rates, weights),
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


def test_the_sets_are_those_that_the_cpu_can_run_slowest_first() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    wanted = ["baseline"]
    if " avx2" in cpuinfo:
        wanted.append("avx2")
        if all(f" avx512{part}" in cpuinfo for part in ("f", "vl", "dq", "bw")):
            wanted.append("avx512")
    assert wanted == KERNELS


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


@settings(max_examples=150, deadline=None)
@given(
    optimizer=any_optimizer,
    width=st.integers(1, 20) | st.integers(1, 257),
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
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n_rows, width)).astype(np.float32)
    state = reference.new_state(optimizer, w)
    first = reference.stored_rows(w, state)
    row_floats = first.shape[1]
    rows = {}
    for name in KERNELS:
        rows[name] = floats_at(offset, (n_rows, row_floats + padding))
        rows[name][...] = 77.0
        rows[name][:, :row_floats] = first
    for _ in range(10):
        gradients = gradients_of(rng, (n_rows, width), scale)
        reference.step(optimizer, w, state, gradients)
        for name in KERNELS:
            _core_test.apply_rows(name, optimizer.spec(), rows[name], gradients)
    for name in KERNELS:
        assert_same_bits(rows[name][:, :row_floats].copy(), reference.stored_rows(w, state))
        assert (rows[name][:, row_floats:] == 77.0).all()


@settings(max_examples=150, deadline=None)
@given(
    optimizer=any_optimizer,
    width=st.integers(1, 20) | st.integers(1, 257),
    n_rows=st.integers(0, 40),
    offset=st.integers(0, 7),
    scale=scales,
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_equal_the_float32_reference(
    *, optimizer: Optimizer, width: int, n_rows: int, offset: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n_rows, width)).astype(np.float32)
    state = reference.new_state(optimizer, w)
    blocks = {}
    for name in KERNELS:
        values = floats_at(offset, w.shape)
        values[...] = w
        slots = [floats_at((offset * (i + 2)) % 8, each.shape) for i, each in enumerate(state)]
        _core_test.reset_state(name, optimizer.spec(), values, slots)
        blocks[name] = values, slots
    for _ in range(10):
        gradients = gradients_of(rng, (n_rows, width), scale)
        reference.step(optimizer, w, state, gradients)
        for name in KERNELS:
            _core_test.apply_block(name, optimizer.spec(), *blocks[name], gradients)
    for name in KERNELS:
        values, slots = blocks[name]
        for got, wanted in zip([values, *slots], [w, *state], strict=True):
            assert_same_bits(got, wanted)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 16, 19, 257])
def test_100_steps_equal_float32_and_stay_near_float64(
    kernels: str, optimizer: Optimizer, width: int
) -> None:
    rng = np.random.default_rng(width)
    n_rows = 3000 // width
    w = np.zeros((n_rows, width), dtype=np.float32)
    state = reference.new_state(optimizer, w)
    rows = reference.stored_rows(w, state)
    block, slots = w.copy(), reference.new_state(optimizer, w)
    w64 = np.zeros((n_rows, width))
    state64 = reference.new_state(optimizer, w64)
    for _ in range(100):
        gradients = gradients_of(rng, (n_rows, width))
        _core_test.apply_rows(kernels, optimizer.spec(), rows, gradients)
        _core_test.apply_block(kernels, optimizer.spec(), block, slots, gradients)
        reference.step(optimizer, w, state, gradients)
        reference.step(optimizer, w64, state64, gradients)
    assert_same_bits(rows, reference.stored_rows(w, state))
    for got, wanted in zip([block, *slots], [w, *state], strict=True):
        assert_same_bits(got, wanted)
    np.testing.assert_allclose(w, w64, rtol=1e-5, atol=1e-6 * np.abs(w64).max())


@pytest.mark.parametrize("kernels", KERNELS)
def test_rows_are_updated_where_they_lie(kernels: str) -> None:
    rows = np.zeros((5, 6), dtype=np.float32)
    gradients = np.arange(10, dtype=np.float32).reshape(5, 2)
    _core_test.apply_rows(kernels, Accumulate().spec(), rows, gradients)
    assert_same_bits(rows[:, :2].copy(), gradients)
    assert not rows[:, 2:].any()


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


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(0, 40) | st.integers(2040, 4200),
    n_addends=st.integers(1, 12),
    offset=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_of_several_workers_are_summed_in_order(
    n: int, n_addends: int, offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    blocks = [floats_at((offset + i) % 8, (n,)) for i in range(n_addends)]
    for block in blocks:
        block[...] = rng.standard_normal(n) * 10.0 ** rng.integers(-4, 5, n)
    expected = blocks[0].copy()
    for block in blocks[1:]:
        expected = expected + block
    for name in KERNELS:
        sums = floats_at(offset, (n,))
        sums[...] = 77.0
        _core_test.sum_blocks(name, sums, blocks)
        assert_same_bits(sums, expected)


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 70),
    counts=st.lists(st.integers(1, 11), max_size=20),
    offset=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_several_workers_are_summed_in_order(
    width: int, counts: list[int], offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    addends = [floats_at((offset + i) % 8, (count, width)) for i, count in enumerate(counts)]
    for each in addends:
        each[...] = rng.standard_normal(each.shape) * 10.0 ** rng.integers(-4, 5, each.shape)
    expected = np.empty((len(counts), width), dtype=np.float32)
    for i, each in enumerate(addends):
        expected[i] = each[0]
        for addend in each[1:]:
            expected[i] = expected[i] + addend
    for name in KERNELS:
        sums = floats_at(offset, expected.shape)
        _core_test.sum_rows(name, sums, addends)
        assert_same_bits(sums, expected)


def test_a_sum_of_one_keeps_the_sign_of_zero() -> None:
    minus_zero = np.full(3, -0.0, dtype=np.float32)
    for name in KERNELS:
        sums = np.ones(3, dtype=np.float32)
        _core_test.sum_blocks(name, sums, [minus_zero])
        assert_same_bits(sums, minus_zero)


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
