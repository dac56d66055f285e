"""What update rules promise beside their formulas: edge cases, legal constants, rates, PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import reference
from fastps import _core_test, optimizers
from fastps.errors import ConfigError
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
from test_kernels import KERNELS, OPTIMIZERS, assert_same_bits, gradients_of

Array = npt.NDArray[Any]


def one_value(optimizer: Optimizer, w: float) -> Array:
    """A row of one value that was just assigned."""
    values = np.array([[w]], dtype=np.float32)
    slots = [np.ones_like(each) for each in reference.new_state(optimizer, values)]
    _core_test.reset_state(KERNELS[0], optimizer.spec(), values, slots)
    return reference.stored_rows(values, slots)


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
        ((2, [0.1, -0.5]), "SGD: weight_decay is -0.5"),
        ((2, [0.1, 0.0, 0.5]), "SGD: constant 2 is 0.5"),
        ((1, [0.1]), "Accumulate: constant 0 is"),
        ((3, [0.1, 0.0]), "AdaGrad: eps is 0"),
        ((3, [-0.1, 1.0]), "AdaGrad: lr is -0.1"),
        ((4, [0.0, 1.0, 0.0, 0.0]), "FTRL: alpha is 0"),
        ((4, [0.1, -1.0, 0.0, 0.0]), "FTRL: beta is -1"),
        ((4, [0.1, 1.0, -1.0, 0.0]), "FTRL: l1 is -1"),
        ((4, [0.1, 1.0, 0.0, math.nan]), "FTRL: l2 is nan"),
        ((4, [1e-30, 1e30, 0.0, 0.0]), r"FTRL: beta / alpha \+ l2 is inf"),
        ((5, [0.1, -1.0]), "Momentum: momentum is -1"),
        ((5, [0.1, 0.9, 0.5]), "Momentum: nesterov is neither 0 nor 1"),
        ((5, [0.1, 0.0, 1.0]), "Momentum: momentum with nesterov is 0"),
        ((5, [0.1, 0.9, 0.0, -1.0]), "Momentum: weight_decay is -1"),
        ((6, [0.1, 1.0, 1e-8]), "RMSProp: alpha is 1, needed is a finite float32 >= 0 and < 1"),
        ((6, [0.1, 0.9, 0.0]), "RMSProp: eps is 0"),
        ((7, [0.1, 1.0, 0.9, 1e-8]), "Adam: beta1 is 1"),
        ((7, [0.1, 0.9, -0.1, 1e-8]), "Adam: beta2 is -0.1"),
        ((7, [0.1, 0.9, 0.9, 0.0]), "Adam: eps is 0"),
        ((7, [0.1, 0.9, 0.9, 1e-8, 0.0, 1.0]), "Adam: constant 5 is 1"),
        ((8, [0.1]), "update rule 8 is not there; there are Accumulate"),
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
    assert _core_test.n_row_slots(optimizer.spec()) == reference.n_row_slots(optimizer)


def test_the_first_velocity_is_the_gradient_itself() -> None:
    row = one_value(Momentum(lr=1.0, momentum=0.9), 0.0)
    push(Momentum(lr=1.0, momentum=0.9), row, 0.1)
    assert_same_bits(row, np.array([[-0.1, 0.1]], dtype=np.float32))


@pytest.mark.parametrize("gradient", [1e-6, 1.0, -1e6])
def test_the_first_step_of_adam_is_the_rate(gradient: float) -> None:
    optimizer = Adam(lr=0.25, eps=1e-20)
    row = one_value(optimizer, 0.0)
    assert push(optimizer, row, gradient) == pytest.approx(math.copysign(0.25, -gradient))


def test_constant_gradients_move_adam_by_the_rate_at_any_age() -> None:
    optimizer = Adam(lr=1.0)
    row = one_value(optimizer, 0.0)
    for _ in range(10_000):
        row[0, 0] = 0.0
        _core_test.apply_rows(KERNELS[-1], optimizer.spec(), row, np.full((1, 1), 3, np.float32))
        assert row[0, 0] == pytest.approx(-1.0, rel=1e-4)


def test_rows_count_their_own_updates() -> None:
    optimizer = Adam(lr=0.1)
    rows = np.zeros((2, 5), dtype=np.float32)
    for n in range(6):
        pushed = rows if n % 3 == 0 else rows[:1]
        _core_test.apply_rows(
            KERNELS[-1], optimizer.spec(), pushed, np.ones((len(pushed), 1), dtype=np.float32)
        )
    t = np.array([6, 2])
    np.testing.assert_allclose(rows[:, 3], 1 - 0.9**t, rtol=1e-6)
    np.testing.assert_allclose(rows[:, 4], 1 - np.float32(0.999).astype(float) ** t, rtol=1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("width", [1, 3, 8, 13])
def test_no_decay_does_nothing_at_all(kernels: str, width: int) -> None:
    """0 * w added to the gradient would make 0 of -0, and NaN where w is infinite."""
    minus_zero = np.full((4, width), -0.0, dtype=np.float32)
    rows = minus_zero.copy()
    _core_test.apply_rows(kernels, SGD(lr=1.0).spec(), rows, -minus_zero)
    assert_same_bits(rows, minus_zero - np.float32(1.0) * -minus_zero)
    rows = np.full((4, width), np.inf, dtype=np.float32)
    _core_test.apply_rows(kernels, SGD(lr=1.0).spec(), rows, minus_zero)
    assert np.isposinf(rows).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_the_rate_can_be_changed(optimizer: Optimizer) -> None:
    kind, constants = optimizer.spec()
    if isinstance(optimizer, Accumulate | FTRL):
        with pytest.raises(ValueError, match=f"{type(optimizer).__name__} has no lr"):
            _core_test.with_lr((kind, constants), 0.5)
        return
    got_kind, got = _core_test.with_lr((kind, constants), 0.5)
    assert got_kind == kind
    assert got[: len(constants)] == [0.5, *constants[1:]]
    assert not any(got[len(constants) :])
    with pytest.raises(ValueError, match="lr is -1"):
        _core_test.with_lr((kind, constants), -1.0)


@pytest.mark.parametrize(
    ("shape", "num_shards", "legal"),
    [
        ((100, 7), 1, True),
        ((1, 1 << 22), 1, True),
        ((1, (1 << 22) + 1), 1, False),
        ((1, (1 << 22) + 1), 2, True),
        ((1 << 30,), 1, True),
        ((), 1, True),
        ((4, 1 << 24), 8, False),
        ((4, 1 << 24), 16, True),
    ],
)
def test_rows_too_wide_to_travel_whole_are_refused_for_adam(
    shape: tuple[int, ...], num_shards: int, *, legal: bool
) -> None:
    table = {
        "id": 1,
        "name": "wide",
        "kind": "dense",
        "n_rows": shape[0] if shape else 1,
        "row_width": math.prod(shape[1:]),
        "num_shards": num_shards,
        "rule": Adam().spec(),
        "initializer": (1, 0, 0.0, 0.0),
    }
    if legal:
        _core_test.check_row_parts(table)
        optimizers.check_row_parts("wide", Adam(), shape, num_shards)
    else:
        with pytest.raises(ValueError, match=r"'wide'.*raise num_shards"):
            _core_test.check_row_parts(table)
        with pytest.raises(ConfigError, match=r"'wide'.*raise num_shards to"):
            optimizers.check_row_parts("wide", Adam(), shape, num_shards)
    _core_test.check_row_parts(table | {"rule": SGD().spec()})
    optimizers.check_row_parts("wide", SGD(), shape, num_shards)


def test_servers_refuse_parts_of_rows_whose_updates_they_count() -> None:
    table = {
        "id": 1,
        "name": "dense",
        "kind": "dense",
        "n_rows": 4,
        "row_width": 5,
        "num_shards": 3,  # blocks [0, 7), [7, 14), [14, 20): rows 1 and 2 are cut
        "rule": Adam(lr=1.0).spec(),
        "initializer": (1, 0, 0.0, 0.0),
    }
    shard = _core_test.Shard(table, 1)
    code_ok, code_shape = 0, 18
    for whole in ([7, 10], [10, 14], [7, 14], [10, 10], [7, 10, 10, 14]):
        assert shard.check(np.array(whole, dtype=np.uint64)) == code_ok
    for partial in ([7, 9], [8, 10], [10, 13], [7, 14, 11, 14]):
        assert shard.check(np.array(partial, dtype=np.uint64)) == code_shape
    everything = np.array([7, 14], dtype=np.uint64)
    for selection in ([7, 10], [7, 14]):
        ones = np.ones(selection[1] - selection[0], dtype=np.float32)
        assert shard.apply("push", np.array(selection, dtype=np.uint64), ones)[0] == code_ok
    np.testing.assert_allclose(shard.pull(everything), [-2] * 3 + [-1] * 4, rtol=1e-6)
    assert shard.apply("assign", np.array([7, 10], dtype=np.uint64), ones[:3])[0] == code_ok
    shard.apply("push", everything, ones)
    np.testing.assert_allclose(shard.pull(everything), [0] * 3 + [-2] * 4, atol=1e-6)
    plain = _core_test.Shard(table | {"rule": SGD().spec()}, 1)
    assert plain.check(np.array([8, 9], dtype=np.uint64)) == code_ok


PYTORCH = [
    (SGD(lr=0.1), "SGD", {"lr": 0.1}),
    (SGD(lr=0.1, weight_decay=0.1), "SGD", {"lr": 0.1, "weight_decay": 0.1}),
    (Momentum(), "SGD", {"momentum": 0.9}),
    (Momentum(0.1, 0.8, True), "SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    (
        Momentum(0.1, 0.8, weight_decay=0.1),
        "SGD",
        {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1},
    ),
    (AdaGrad(), "Adagrad", {}),
    (AdaGrad(weight_decay=0.1), "Adagrad", {"weight_decay": 0.1}),
    (
        AdaGrad(0.1, lr_decay=0.25, initial_accumulator_value=0.5),
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.25, "initial_accumulator_value": 0.5},
    ),
    (RMSProp(), "RMSprop", {}),
    (
        RMSProp(0.1, 0.5, 1e-3, 0.1),
        "RMSprop",
        {"lr": 0.1, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1},
    ),
    (Adam(), "Adam", {}),
    (
        Adam(0.1, (0.5, 0.75), 1e-3, 0.1),
        "Adam",
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.1},
    ),
]


@pytest.mark.parametrize(("optimizer", "name", "arguments"), PYTORCH, ids=str)
def test_100_steps_are_near_those_of_pytorch(
    optimizer: Optimizer, name: str, arguments: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    block = rng.standard_normal((20, 33)).astype(np.float32)
    slots = reference.new_state(optimizer, block)
    parameter = torch.nn.Parameter(torch.from_numpy(block.copy()))
    theirs = getattr(torch.optim, name)([parameter], **arguments)
    for _ in range(100):
        gradients = gradients_of(rng, block.shape)
        parameter.grad = torch.from_numpy(gradients.copy())
        theirs.step()
        _core_test.apply_block(KERNELS[-1], optimizer.spec(), block, slots, gradients)
    expected = parameter.detach().numpy()
    np.testing.assert_allclose(block, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
