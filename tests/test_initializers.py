"""Initial values: pure functions of seed, key and column, equal to the numpy reference."""

from __future__ import annotations

import doctest
import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from fastps import _core_test, initializers
from fastps.errors import ConfigError, FastPSError, ValueRangeError
from fastps.initializers import Constant, Initializer, Normal, Uniform, Zeros

keys = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1])
numbers = st.floats(-1e6, 1e6, width=32)

UNIFORM_HEX = ["0x1.5cfc000000000p-9", "0x1.23ab2c0000000p-7", "0x1.215c8a0000000p-7"]
NORMAL_HEX = ["-0x1.bbffe60000000p-10", "-0x1.5d77e20000000p-8", "-0x1.02d15a0000000p-11"]

any_initializer: st.SearchStrategy[Initializer] = st.one_of(
    st.just(Zeros()),
    st.builds(Constant, numbers),
    st.builds(lambda a, b, seed: Uniform(min(a, b), max(a, b), seed), numbers, numbers, keys),
    st.builds(Normal, numbers, st.floats(0, 1e6, width=32), keys),
)


def fill(initializer: Initializer, key: int, column: int, n: int) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = _core_test.fill_initial(*initializer.spec(), key, column, n)
    return values


def assert_same_bits(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@settings(max_examples=200, deadline=None)
@given(initializer=any_initializer, key=keys, n=st.integers(0, 300))
def test_values_equal_the_reference(initializer: Initializer, key: int, n: int) -> None:
    expected = reference.initial(initializer, [key], np.arange(n))
    assert_same_bits(fill(initializer, key, 0, n), expected[0])


@settings(deadline=None)
@given(initializer=any_initializer, key=keys, begin=st.integers(0, 2**40), data=st.data())
def test_a_value_does_not_depend_on_what_is_asked_with_it(
    initializer: Initializer, key: int, begin: int, data: st.DataObject
) -> None:
    whole = fill(initializer, key, begin, 50)
    cut = data.draw(st.integers(0, 50))
    parts = [fill(initializer, key, begin, cut), fill(initializer, key, begin + cut, 50 - cut)]
    assert_same_bits(np.concatenate(parts), whole)


def test_values_never_change() -> None:
    """Tables outlive versions: these values were written down when the format was fixed."""
    uniform = fill(Uniform(-0.01, 0.01, seed=7), 7, 0, 3)
    normal = fill(Normal(0.0, 0.01, seed=7), 2**64 - 1, 0, 3)
    assert [value.hex() for value in uniform.tolist()] == UNIFORM_HEX
    assert [value.hex() for value in normal.tolist()] == NORMAL_HEX


@pytest.mark.parametrize("along", ["keys", "columns", "seeds"])
@pytest.mark.parametrize("make", [Uniform, Normal])
def test_draws_have_their_distribution(along: str, make: type[Uniform | Normal]) -> None:
    n = 20_000
    if along == "keys":
        values = np.concatenate([fill(make(0.0, 1.0, 5), key, 3, 1) for key in range(n)])
    elif along == "columns":
        values = fill(make(0.0, 1.0, 5), 3, 0, n)
    else:
        values = np.concatenate([fill(make(0.0, 1.0, seed), 3, 0, 1) for seed in range(n)])
    mean, deviation = (0.5, math.sqrt(1 / 12)) if make is Uniform else (0.0, 1.0)
    # Each bound is five of its own standard deviations.
    assert values.mean() == pytest.approx(mean, abs=5 * deviation / math.sqrt(n))
    assert values.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * n))
    neighbours = np.corrcoef(values[:-1], values[1:])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(n)
    probability = values if make is Uniform else 0.5 * (1 + _erf(values / math.sqrt(2)))
    counts, _ = np.histogram(probability, bins=50, range=(0, 1))
    chi_square = ((counts - n / 50) ** 2 / (n / 50)).sum()
    assert chi_square < 49 + 5 * math.sqrt(2 * 49)


def _erf(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.array([math.erf(value) for value in x])


def test_the_reference_quantile_inverts_the_normal_distribution() -> None:
    p = np.concatenate([2.0 ** -np.arange(1, 54), np.linspace(0.001, 0.5, 1000)])
    z = reference.normal_quantile(p)
    back = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
    np.testing.assert_allclose(back, p, rtol=1e-13)
    np.testing.assert_allclose(reference.normal_quantile(1 - p[p > 1e-3]), -z[p > 1e-3], rtol=1e-11)


def test_bounds_hold() -> None:
    values = fill(Uniform(-0.25, 0.5, seed=1), 0, 0, 100_000)
    assert values.min() >= -0.25
    assert values.max() <= 0.5
    assert_same_bits(fill(Uniform(2.0, 2.0), 1, 0, 9), np.full(9, 2.0, dtype=np.float32))
    assert_same_bits(fill(Normal(2.0, 0.0), 1, 0, 9), np.full(9, 2.0, dtype=np.float32))
    assert np.isfinite(fill(Uniform(-3.4e38, 3.4e38), 1, 0, 10_000)).all()
    assert np.isfinite(fill(Normal(0.0, 4e37), 1, 0, 10_000)).all()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ((0, 0, 0.0, 0.0), "initializer 0 is not there; there are Zeros"),
        ((255, 0, 0.0, 0.0), "initializer 255 is not there"),
        ((2, 0, math.nan, 0.0), "Constant: value is nan"),
        ((3, 0, 1.0, 0.0), "Uniform: low is 1 and high is 0"),
        ((3, 0, math.nan, 0.0), "Uniform: low is nan"),
        ((3, 0, 0.0, math.inf), "high is inf"),
        ((4, 0, 0.0, -1.0), "Normal: mean is 0 and std is -1"),
        ((4, 0, math.inf, 1.0), "Normal: mean is inf"),
        ((4, 0, 0.0, math.nan), "std is nan"),
        ((4, 0, 3e38, 3e37), "within float32"),
    ],
)
def test_specs_that_are_not_legal_are_refused(
    spec: tuple[int, int, float, float], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        _core_test.fill_initial(*spec, 0, 0, 1)


@given(initializer=any_initializer)
def test_json_and_pickle_bring_back_an_equal_value(initializer: Initializer) -> None:
    for copy in (
        initializers.from_json(initializer.to_json()),
        pickle.loads(pickle.dumps(initializer)),
    ):
        assert type(copy) is type(initializer)
        assert copy == initializer
        assert hash(copy) == hash(initializer)


def test_equality_is_that_of_the_wire() -> None:
    assert Uniform(-0.1, 0.1) == Uniform(np.float32(-0.1), float(np.float32(0.1)), np.uint64(0))
    assert Uniform(-0.1, 0.1) != Uniform(-0.1, 0.1, seed=1)
    assert Normal(0.0, 1.0) != Uniform(0.0, 1.0)
    assert Constant(0.0) != Zeros()
    assert Zeros() != 0
    assert repr(Uniform(np.float32(-0.5), 1)) == "Uniform(low=-0.5, high=1.0, seed=0)"


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Constant("1"), ConfigError, "Constant: value is '1' .str."),  # type: ignore[arg-type]
        (lambda: Constant(True), ConfigError, "value is True"),
        (lambda: Constant(math.nan), ValueRangeError, "value is nan"),
        (lambda: Constant(1e39), ValueRangeError, r"value is 1e\+39"),
        (lambda: Constant(10**400), ValueRangeError, "that float32 can hold"),
        (lambda: Uniform(1.0, 0.0), ValueRangeError, "low is 1.0 and high is 0.0"),
        (lambda: Uniform(0.0, math.inf), ValueRangeError, "Uniform: high is inf"),
        (lambda: Uniform(0.0, 1.0, seed=-1), ValueRangeError, "Uniform: seed is -1"),
        (lambda: Uniform(0.0, 1.0, seed=2**64), ValueRangeError, "seed < 2..64"),
        (lambda: Uniform(0.0, 1.0, seed=1.0), ConfigError, "seed is 1.0 .float."),  # type: ignore[arg-type]
        (lambda: Uniform(0.0, 1.0, seed=True), ConfigError, "seed is True"),
        (lambda: Normal(0.0, -1.0), ValueRangeError, "Normal: std is -1.0"),
        (lambda: Normal(3e38, 3e37), ValueRangeError, "within float32"),
        (lambda: initializers.from_json(None), ConfigError, "initializer is None"),
        (lambda: initializers.from_json({}), ConfigError, "initializer None is not there"),
        (lambda: initializers.from_json({"name": ["Zeros"]}), ConfigError, "is not there"),
        (lambda: initializers.from_json({"name": "Ones"}), ConfigError, "'Ones' is not there"),
        (lambda: initializers.from_json({"name": "Constant"}), ConfigError, "'value' is missing"),
        (
            lambda: initializers.from_json({"name": "Zeros", "seed": 1}),
            ConfigError,
            "unknown field 'seed'; Zeros has no fields",
        ),
        (
            lambda: initializers.from_json({"name": "Constant", "value": None}),
            ConfigError,
            "value is None",
        ),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: type[FastPSError], named: str) -> None:
    with pytest.raises(error, match=named):
        make()


def test_docstring_examples() -> None:
    results = doctest.testmod(initializers)
    assert results.attempted > 0
    assert results.failed == 0
