"""Optimizers as values: their checks, equality and JSON. What they do stands in test_kernels."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps import _core_test, optimizers
from fastps.errors import ConfigError, FastPSError, ValueRangeError
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Adam, Momentum, Optimizer, RMSProp

positive = st.floats(1e-6, 1e6)
not_negative = st.just(0.0) | positive
any_optimizer: st.SearchStrategy[Optimizer] = st.one_of(
    st.builds(Accumulate),
    st.builds(SGD, not_negative),
    st.builds(AdaGrad, not_negative, positive),
    st.builds(FTRL, positive, not_negative, not_negative, not_negative),
)


def test_defaults_are_those_of_pytorch_and_of_the_paper() -> None:
    assert dataclasses.asdict(SGD()) == {"lr": 1e-3}
    assert dataclasses.asdict(AdaGrad()) == {"lr": 0.01, "eps": 1e-10}
    assert dataclasses.asdict(FTRL()) == {"alpha": 0.1, "beta": 1.0, "l1": 0.0, "l2": 0.0}


def test_spec_holds_the_constants_in_order_as_float32() -> None:
    assert Accumulate().spec() == (1, [])
    assert SGD(0.1).spec() == (2, [float(np.float32(0.1))])
    assert AdaGrad(0.5, 0.25).spec() == (3, [0.5, 0.25])
    assert FTRL(0.5, 2, 0.25, 8).spec() == (4, [0.5, 2.0, 0.25, 8.0])


@given(optimizer=any_optimizer)
def test_servers_accept_every_optimizer_that_can_be_made(optimizer: Optimizer) -> None:
    assert 0 <= _core_test.n_slots(optimizer.spec()) <= 2


@given(optimizer=any_optimizer)
def test_json_and_pickle_bring_back_an_equal_value(optimizer: Optimizer) -> None:
    for copy in (
        optimizers.from_json(json.loads(json.dumps(optimizer.to_json()))),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        assert type(copy) is type(optimizer)
        assert copy == optimizer
        assert hash(copy) == hash(optimizer)


def test_json_is_a_name_and_the_arguments() -> None:
    assert AdaGrad(lr=0.5).to_json() == {"name": "AdaGrad", "lr": 0.5, "eps": 1e-10}
    assert optimizers.from_json({"name": "AdaGrad", "lr": 0.5}) == AdaGrad(lr=0.5)


def test_equality_is_that_of_the_wire() -> None:
    assert SGD(0.1) == SGD(np.float32(0.1))
    assert hash(SGD(0.1)) == hash(SGD(np.float32(0.1)))
    assert SGD(0.1) != SGD(0.2)
    assert SGD(0.1) != Accumulate()
    assert SGD(0.1) != 0.1
    assert {SGD(1), SGD(1.0), SGD(np.int64(1))} == {SGD(1.0)}


def test_values_cannot_be_changed() -> None:
    optimizer = SGD(0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.lr = 0.2  # type: ignore[misc]
    assert repr(SGD(np.float64(0.5))) == "SGD(lr=0.5)"


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: SGD("0.1"), ConfigError, "SGD: lr is '0.1' .str., needed is a number"),  # type: ignore[arg-type]
        (lambda: SGD(None), ConfigError, "SGD: lr is None"),  # type: ignore[arg-type]
        (lambda: SGD(True), ConfigError, "SGD: lr is True"),
        (lambda: SGD(np.bool_(True)), ConfigError, "SGD: lr is"),  # type: ignore[arg-type]
        (lambda: SGD(1 + 2j), ConfigError, "complex"),  # type: ignore[arg-type]
        (lambda: SGD(math.nan), ValueRangeError, "SGD: lr is nan"),
        (lambda: SGD(-0.1), ValueRangeError, "SGD: lr is -0.1, needed is a number >= 0"),
        (lambda: SGD(1e39), ValueRangeError, "that float32 can hold"),
        (lambda: AdaGrad(eps=0), ValueRangeError, "AdaGrad: eps is 0.0, needed is a number > 0"),
        (lambda: AdaGrad(eps=1e-50), ValueRangeError, "AdaGrad: eps is 1e-50"),
        (lambda: AdaGrad(lr=-1), ValueRangeError, "AdaGrad: lr is -1"),
        (lambda: FTRL(alpha=0), ValueRangeError, "FTRL: alpha is 0.0"),
        (lambda: FTRL(beta=-1), ValueRangeError, "FTRL: beta is -1"),
        (lambda: FTRL(l1=-1), ValueRangeError, "FTRL: l1 is -1"),
        (lambda: FTRL(l2=math.inf), ValueRangeError, "FTRL: l2 is inf"),
        (lambda: FTRL(alpha=1e-30, beta=1e30), ValueRangeError, "take a larger alpha"),
        (Momentum, ConfigError, "Momentum is not there yet; there are Accumulate, SGD"),
        (lambda: RMSProp(lr=0.1), ConfigError, "RMSProp is not there yet"),
        (lambda: Adam(0.1, betas=(0.9, 0.99)), ConfigError, "Adam is not there yet"),
        (lambda: optimizers.from_json("SGD"), ConfigError, "optimizer is 'SGD', needed is a dict"),
        (lambda: optimizers.from_json({"lr": 1}), ConfigError, "optimizer None is not there"),
        (lambda: optimizers.from_json({"name": "Adam"}), ConfigError, "'Adam' is not there; there"),
        (
            lambda: optimizers.from_json({"name": "SGD", "_kind": 4}),
            ConfigError,
            "SGD: unknown field '_kind'; SGD has lr",
        ),
        (lambda: optimizers.from_json({"name": "SGD", "lr": []}), ConfigError, "SGD: lr is"),
        (lambda: optimizers.from_json({"name": "SGD", "lr": -1}), ValueRangeError, "lr is -1"),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: type[FastPSError], named: str) -> None:
    with pytest.raises(error, match=named):
        make()


def test_docstring_examples() -> None:
    results = doctest.testmod(optimizers)
    assert results.attempted > 0
    assert results.failed == 0
