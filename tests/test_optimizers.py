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
fraction = st.floats(0, 1 - 1e-6)
any_optimizer: st.SearchStrategy[Optimizer] = st.one_of(
    st.builds(Accumulate),
    st.builds(SGD, not_negative, not_negative),
    st.builds(Momentum, not_negative, positive, st.booleans(), not_negative),
    st.builds(AdaGrad, not_negative, positive, not_negative, not_negative, not_negative),
    st.builds(RMSProp, not_negative, fraction, positive, not_negative),
    st.builds(Adam, not_negative, st.tuples(fraction, fraction), positive, not_negative),
    st.builds(FTRL, positive, not_negative, not_negative, not_negative),
)


def test_defaults_are_those_of_pytorch_and_of_the_paper() -> None:
    assert dataclasses.asdict(SGD()) == {"lr": 1e-3, "weight_decay": 0}
    assert dataclasses.asdict(AdaGrad()) == {
        **{"lr": 0.01, "eps": 1e-10, "weight_decay": 0},
        **{"lr_decay": 0, "initial_accumulator_value": 0},
    }
    rmsprop = {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0}
    assert dataclasses.asdict(RMSProp()) == rmsprop
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    assert dataclasses.asdict(Adam()) == adam
    momentum = {"lr": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 0}
    assert dataclasses.asdict(Momentum()) == momentum
    assert dataclasses.asdict(FTRL()) == {"alpha": 0.1, "beta": 1.0, "l1": 0.0, "l2": 0.0}


def test_spec_holds_the_constants_in_order_as_float32() -> None:
    assert Accumulate().spec() == (1, [])
    assert SGD(0.1).spec() == (2, [float(np.float32(0.1)), 0.0])
    assert AdaGrad(0.5, 0.25, 8).spec() == (3, [0.5, 0.25, 8.0, 0.0, 0.0])
    assert AdaGrad(0.5, 0.25, 8, 2, 4).spec() == (3, [0.5, 0.25, 8.0, 2.0, 4.0])
    assert FTRL(0.5, 2, 0.25, 8).spec() == (4, [0.5, 2.0, 0.25, 8.0])
    assert Momentum(0.5, 0.25, True, 8).spec() == (5, [0.5, 0.25, 1.0, 8.0])
    assert RMSProp(0.5, 0.25, 2, 8).spec() == (6, [0.5, 0.25, 2.0, 8.0])
    assert Adam(0.5, (0.25, 0.75), 2, 8).spec() == (7, [0.5, 0.25, 0.75, 2.0, 8.0])


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
    adagrad = {"name": "AdaGrad", "lr": 0.5, "eps": 1e-10, "weight_decay": 0.0}
    later = {"lr_decay": 0.0, "initial_accumulator_value": 0.0}
    assert AdaGrad(lr=0.5).to_json() == {**adagrad, **later}
    assert optimizers.from_json(adagrad) == AdaGrad(lr=0.5), "as earlier versions wrote it"
    assert Adam().to_json()["betas"] == [0.9, 0.999]
    assert optimizers.from_json({"name": "Adam", "betas": [0.5, 0.25]}).betas == (0.5, 0.25)
    assert Momentum(nesterov=True).to_json()["nesterov"] is True
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
    assert repr(SGD(np.float64(0.5))) == "SGD(lr=0.5, weight_decay=0.0)"


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
        (lambda: SGD(weight_decay=-1), ValueRangeError, "SGD: weight_decay is -1.0"),
        (lambda: Momentum(momentum=-1), ValueRangeError, "Momentum: momentum is -1.0"),
        (lambda: Momentum(nesterov=1), ConfigError, "nesterov is 1, needed is True or False"),  # type: ignore[arg-type]
        (lambda: Momentum(momentum=0, nesterov=True), ValueRangeError, "> 0 with nesterov"),
        (lambda: Momentum(weight_decay=-1), ValueRangeError, "Momentum: weight_decay is"),
        (lambda: AdaGrad(weight_decay=-1), ValueRangeError, "AdaGrad: weight_decay is"),
        (lambda: AdaGrad(lr_decay=-1), ValueRangeError, "AdaGrad: lr_decay is"),
        (
            lambda: AdaGrad(initial_accumulator_value=-1),
            ValueRangeError,
            "AdaGrad: initial_accumulator_value is",
        ),
        (lambda: RMSProp(alpha=1), ValueRangeError, "RMSProp: alpha is 1.0, needed is a number >="),
        (lambda: RMSProp(eps=0), ValueRangeError, "RMSProp: eps is 0.0"),
        (lambda: RMSProp(weight_decay=-1), ValueRangeError, "RMSProp: weight_decay is"),
        (lambda: Adam(betas=0.9), ConfigError, "betas is 0.9, needed are two numbers"),  # type: ignore[arg-type]
        (lambda: Adam(betas=(0.9,)), ConfigError, "needed are two numbers"),  # type: ignore[arg-type]
        (lambda: Adam(betas=(0.9, "x")), ConfigError, "Adam: betas is 'x'"),  # type: ignore[arg-type]
        (lambda: Adam(betas=(0.9, 1.0)), ValueRangeError, "Adam: betas is 1.0, needed is a number"),
        (lambda: Adam(betas=(1 - 1e-9, 0.9)), ValueRangeError, "< 1 .in float32"),
        (lambda: Adam(betas=(-1e-50, 0.9)), ValueRangeError, "Adam: betas is -1e-50"),
        (lambda: Adam(eps=0), ValueRangeError, "Adam: eps is 0.0"),
        (lambda: Adam(weight_decay=-1), ValueRangeError, "Adam: weight_decay is"),
        (lambda: optimizers.from_json("SGD"), ConfigError, "optimizer is 'SGD', needed is a dict"),
        (lambda: optimizers.from_json({"lr": 1}), ConfigError, "optimizer None is not there"),
        (lambda: optimizers.from_json({"name": "Lion"}), ConfigError, "'Lion' is not there; there"),
        (
            lambda: optimizers.from_json({"name": "SGD", "_kind": 4}),
            ConfigError,
            "SGD: unknown field '_kind'; SGD has lr, weight_decay",
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
