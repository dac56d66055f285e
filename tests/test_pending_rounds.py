"""One shard under BSP: what is pushed waits, and is folded once per round in the stated order.

Order of floats: a worker's pushes add in call order, workers in rank order, a sum starts with its
first addend; then one update per row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from fastps import _core_test
from fastps.optimizers import SGD, AdaGrad, Adam, Optimizer
from test_store import CODE_CONFIG, CODE_OK, Array, floats, table, uint64s

CODE_RETRY = 1
N_ROWS, WIDTH = 10, 3


def bsp(kind: str, optimizer: Optimizer, first: int = 0) -> Any:
    return _core_test.Shard(table(kind, optimizer, row_width=WIDTH, rounds=(0, first)), 0)


def selection_of(kind: str, rows: Array) -> Array:
    if kind == "sparse":
        return uint64s(rows)
    return uint64s([edge for row in rows for edge in (row * WIDTH, (row + 1) * WIDTH)])


def add(total: dict[int, Array], addend: dict[int, Array]) -> None:
    for row, gradient in addend.items():
        total[row] = total[row] + gradient if row in total else gradient


class Model:
    """The shard as the definition has it."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.values = np.zeros((N_ROWS, WIDTH), np.float32)
        self.state = reference.new_state(optimizer, self.values)
        self.pushes: dict[tuple[int, int], list[dict[int, Array]]] = {}

    def push(self, session: int, step: int, rows: Array, gradients: Array) -> None:
        push = dict(zip(rows.tolist(), gradients, strict=True))
        self.pushes.setdefault((step, session), []).append(push)

    def fold(self, step: int, members: list[int]) -> None:
        total: dict[int, Array] = {}
        for session in members:
            worker: dict[int, Array] = {}
            for push in self.pushes.get((step, session), []):
                add(worker, push)
            add(total, worker)
        for row, gradient in total.items():
            state = [slot[row : row + 1] for slot in self.state]
            reference.step(self.optimizer, self.values[row : row + 1], state, gradient[None])


def random_push(random: np.random.Generator) -> tuple[Array, Array]:
    rows = random.permutation(N_ROWS)[: random.integers(1, N_ROWS + 1)]
    if random.random() < 0.5:
        rows = np.arange(N_ROWS)  # as whole pushes of dense tables are
    gradients = random.normal(size=(len(rows), WIDTH)) * 10.0 ** random.integers(-3, 4)
    gradients[random.random(gradients.shape) < 0.1] = -0.0
    return rows, gradients.astype(np.float32)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), AdaGrad(lr=0.1), Adam(lr=0.1)], ids=repr)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_rounds_are_folded_in_the_order_of_the_definition(
    kind: str, optimizer: Optimizer, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shard, model = bsp(kind, optimizer), Model(optimizer)
    n_sessions = int(random.integers(1, 5))
    for step in range(6):
        # What is pushed to the next round already belongs to the next round.
        for ahead in (0, 1):
            for _ in range(random.integers(0, 25)):
                session = int(random.integers(n_sessions)) + 1
                rows, gradients = random_push(random)
                model.push(session, step + ahead, rows, gradients)
                assert shard.apply(
                    "push",
                    selection_of(kind, rows),
                    gradients.ravel(),
                    session=session,
                    step=step + ahead,
                ) == (CODE_OK, 0)
        everything = selection_of(kind, np.arange(N_ROWS))
        assert shard.pull(everything, step=step).tobytes() == model.values.tobytes()
        assert shard.pull(everything, step=step + 1) is None
        # The ranks are not those of the sessions' numbers, and some are left out.
        members = random.permutation(n_sessions)[: random.integers(n_sessions + 1)] + 1
        shard.close_round(step, members.tolist())
        model.fold(step, members.tolist())
        assert shard.pull(everything, step=step + 1).tobytes() == model.values.tobytes()
        assert shard.rounds()[0] == step + 1


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_at_most_two_rounds_are_open(kind: str) -> None:
    shard = bsp(kind, SGD(lr=1.0), first=5)
    row, gradient = selection_of(kind, np.array([3])), floats([1, 2, 4])

    def push(step: int, sequence: int) -> tuple[int, int]:
        answer: tuple[int, int] = shard.apply("push", row, gradient, 1, sequence, step)
        return answer

    assert push(5, 1) == (CODE_OK, 0)
    assert push(6, 2) == (CODE_OK, 0)
    assert push(7, 3) == (CODE_RETRY, 0), "used no sequence"
    shard.close_round(5, [1])
    assert push(7, 3) == (CODE_OK, 0)
    assert push(7, 3) == (CODE_OK, 0), "a repeat, not pushed twice"
    shard.close_round(6, [1])
    shard.close_round(7, [1])
    shard.fold_closed()
    assert shard.rounds() == (8, 0)
    np.testing.assert_array_equal(shard.pull(row), floats([-3, -6, -12]))


def test_a_push_to_a_folded_round_is_counted_and_has_no_effect() -> None:
    shard = bsp("sparse", SGD(lr=1.0))
    key, gradient = uint64s([7]), floats([1, 1, 1])
    shard.close_round(0, [])
    assert shard.apply("push", key, gradient, sequence=1, step=0) == (CODE_OK, 1)
    assert shard.apply("push", key, gradient, sequence=1, step=0) == (CODE_OK, 1), "a repeat"
    assert shard.rounds() == (1, 1)
    shard.close_round(1, [1])
    assert not shard.contains(key).any()


def test_pushes_of_others_than_members_are_dropped() -> None:
    shard = bsp("sparse", SGD(lr=1.0))
    key = uint64s([7])
    for session in (1, 2, 3):
        shard.apply("push", key, floats([session] * 3), session, step=0)
    before = shard.figures()[1]
    shard.close_round(0, [3, 1])
    np.testing.assert_array_equal(shard.pull(key, step=1), floats([-4, -4, -4]))
    shard.close_round(1, [2])
    np.testing.assert_array_equal(shard.pull(key, step=2), floats([-4, -4, -4]))
    assert before > 0


def test_other_writes_fall_between_rounds() -> None:
    shard = bsp("sparse", SGD(lr=1.0))
    key, none, one = uint64s([7]), uint64s([]), floats([1, 1, 1])
    assert shard.apply("assign", key, floats([8, 8, 8]), step=0) == (CODE_OK, 0)
    shard.apply("push", key, one, step=0)
    for kind, selection, values in [
        ("assign", key, floats([0, 0, 0])),
        ("remove", key, None),
        ("set_lr", none, floats([0.5])),
    ]:
        assert shard.apply(kind, selection, values, step=1) == (CODE_RETRY, 0)
    shard.close_round(0, [1])
    assert shard.apply("set_lr", none, floats([0.5]), step=1) == (CODE_OK, 0)
    shard.apply("push", key, one, step=1)
    np.testing.assert_array_equal(shard.pull(key), floats([7, 7, 7]))
    shard.close_round(1, [1])
    np.testing.assert_array_equal(shard.pull(key, step=2), floats([6.5, 6.5, 6.5]))
    assert shard.apply("remove", key, None, step=2) == (CODE_OK, 1)


def test_who_has_no_step_may_read_but_not_write() -> None:
    shard = bsp("sparse", SGD(lr=1.0))
    key = uint64s([7])
    shard.apply("push", key, floats([1, 1, 1]), step=0)
    np.testing.assert_array_equal(shard.pull(key), floats([0, 0, 0]))
    for kind, values in [("push", floats([1, 1, 1])), ("assign", floats([1, 1, 1]))]:
        assert shard.apply(kind, key, values) == (CODE_CONFIG, 0)
    assert shard.apply("remove", key, None) == (CODE_CONFIG, 0)


def test_many_pushes_of_one_row_take_the_room_of_one() -> None:
    shard = bsp("sparse", SGD(lr=1.0))
    key = uint64s([7])
    shard.apply("push", key, floats([1, 1, 1]), step=0)
    one = shard.figures()[1]
    for _ in range(1000):
        shard.apply("push", key, floats([1, 1, 1]), step=0)
    assert shard.figures()[1] < 10 * one
    shard.close_round(0, [1])
    np.testing.assert_array_equal(shard.pull(key, step=1), floats([-1001] * 3))
