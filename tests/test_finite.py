"""Nothing that is not finite is ever stored: pushes, assigns, folds, rates, loads.

A push whose update would leave NaN or infinity in a row or its state is refused whole by the shard
that sees it; a fold, whose callers are gone, leaves such rows as they were.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastps
import reference
from fastps import _core_test, errors, initializers, optimizers
from fastps.checkpoint import warm
from fastps.checkpoint.storage import Store
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Adam, Momentum, Optimizer, RMSProp
from test_store import CODE_CONFIG, CODE_OK, Array, floats, table, uint64s

CODE_VALUE = 19
WIDTH = 3
SQUARE_MAX = np.float32(1.8446743e19)
NONE = uint64s([])

# With a gradient that each takes once or some times, and not for ever.
OVERFLOWS: list[tuple[Optimizer, float]] = [
    (Accumulate(), 3e38),
    (SGD(lr=1.0), 3e38),
    (SGD(lr=0.5, weight_decay=0.5), -3e38),
    (SGD(lr=64.0), 1e37),
    (Momentum(lr=0.1), 3e38),
    (Momentum(lr=8.0, nesterov=True), 1e37),
    (Momentum(lr=0.1, momentum=2.0), 1e30),
    (Momentum(lr=0.1, weight_decay=0.01), 3e38),
    (AdaGrad(), 1.5e19),
    (AdaGrad(weight_decay=4.0), 1.5e19),
    (AdaGrad(lr=1e38, lr_decay=0.001), 1.0),
    (AdaGrad(initial_accumulator_value=3e38), 1e19),
    (RMSProp(lr=3e38), 1.0),
    (Adam(lr=1e37), 1.0),
    (FTRL(), 1.5e19),
    (FTRL(beta=0.0, l2=0.0), 1.5e19),
]


def selection_of(kind: str, keys: Any) -> Array:
    if kind == "sparse":
        return uint64s(keys)
    return uint64s([edge for key in keys for edge in (key * WIDTH, (key + 1) * WIDTH)])


def new_shard(kind: str, optimizer: Optimizer, **fields: Any) -> Any:
    return _core_test.Shard(table(kind, optimizer, row_width=WIDTH, **fields), 0)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize(("optimizer", "gradient"), OVERFLOWS, ids=repr)
def test_a_push_that_would_overflow_is_refused_whole(
    kind: str, optimizer: Optimizer, gradient: float
) -> None:
    shard = new_shard(kind, optimizer)
    keys = selection_of(kind, [1, 2, 3, 4])
    gradients = np.zeros((4, WIDTH), np.float32)
    gradients[2, 1] = gradient
    sequence = 0
    for _ in range(400):
        sequence += 1
        code, detail = shard.apply("push", keys, gradients.ravel(), session=1, sequence=sequence)
        assert np.isfinite(shard.pull(keys)).all()
        if code != CODE_OK:
            break
    first = 2 * WIDTH if kind == "sparse" else 2 * WIDTH + 1
    assert (code, detail) == (CODE_VALUE, 1 + first), "the row's first, or which of the block's"
    again = shard.apply("push", keys, gradients.ravel(), session=1, sequence=sequence)
    assert again == (code, detail), "a repeat is answered alike"
    assert shard.apply("push", selection_of(kind, [1]), floats([0, 0, 0])) == (CODE_OK, 0)
    other = new_shard(kind, optimizer)
    assert other.load_image(shard.image()[1]) == (CODE_OK, "")


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_what_was_refused_left_no_trace(kind: str) -> None:
    shard, fresh = (new_shard(kind, Accumulate()) for _ in range(2))
    keys = selection_of(kind, [1, 2])
    for each in (shard, fresh):
        each.apply("push", selection_of(kind, [2]), floats([3e38, 1, 1]))
    assert shard.apply("push", keys, floats([1, 1, 1, 3e38, 1, 1])) == (CODE_VALUE, 4)
    assert shard.digest() == fresh.digest()
    assert shard.figures()[0] == fresh.figures()[0], "no row was made"


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@given(
    case=st.sampled_from(OVERFLOWS),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_tried_pushes_have_the_bits_of_others(
    kind: str, case: tuple[Optimizer, float], seed: int, n: int
) -> None:
    """Of two shards one was made to try each push; the reference refuses what is not finite."""
    optimizer, gradient = case
    rng = np.random.default_rng(seed)
    shard = new_shard(kind, optimizer)
    w = np.zeros((10, WIDTH), np.float32)
    state = reference.new_state(optimizer, w)
    for _ in range(n):
        rows = np.sort(rng.permutation(10)[: rng.integers(1, 10)])
        gradients = rng.standard_normal((len(rows), WIDTH)).astype(np.float32)
        if rng.random() < 0.3:
            gradients[rng.integers(len(rows)), rng.integers(WIDTH)] = gradient
        new_w, new_state = w[rows], [each[rows] for each in state]
        with np.errstate(all="ignore"):
            reference.step(optimizer, new_w, new_state, gradients)
        fits = all(np.isfinite(each).all() for each in [new_w, *new_state])
        code, _ = shard.apply("push", selection_of(kind, rows.tolist()), gradients.ravel())
        assert (code == CODE_OK) == fits
        if fits:
            w[rows] = new_w
            for each, new in zip(state, new_state, strict=True):
                each[rows] = new
        pulled = shard.pull(selection_of(kind, range(10)))
        np.testing.assert_array_equal(np.ravel(pulled).view(np.uint32), w.ravel().view(np.uint32))


def test_copies_agree_whatever_they_hold_for_sure() -> None:
    """A copy made from an image looks at its rows anew; both take the same entries."""
    head = new_shard("sparse", AdaGrad(lr=0.5))
    keys = uint64s([1, 2])
    head.apply("push", keys, floats([1e18] * 6))
    copy = new_shard("sparse", AdaGrad(lr=0.5))
    assert copy.load_image(head.image()[1]) == (CODE_OK, "")
    for gradient in (1.0, 1.7e19, 2.0, 1.7e19, 3.0):
        gradients = floats([gradient] * 6)
        assert head.apply("push", keys, gradients) == copy.apply("push", keys, gradients)
        assert head.digest() == copy.digest()


# Rounds.


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("optimizer", [SGD(lr=1.0), Adam(lr=0.5), FTRL()], ids=repr)
def test_a_fold_leaves_out_what_would_not_be_finite(kind: str, optimizer: Optimizer) -> None:
    large = 3e38 if isinstance(optimizer, SGD) else 1.5e19
    shard, other = (new_shard(kind, optimizer, rounds=(0, 0)) for _ in range(2))
    keys = selection_of(kind, [1, 2])
    for each in (shard, other):
        for session in (1, 2):
            of_one = np.full((2, WIDTH), 0.5, np.float32)
            of_one[1, 1] = large if each is shard else 0.5
            each.apply("push", keys, of_one.ravel(), session=session, sequence=1, step=0)
        each.close_round(0, [1, 2])
        each.fold_closed()
    rows, expected = (np.reshape(each.pull(keys), (2, WIDTH)) for each in (shard, other))
    assert rows[0].tolist() == expected[0].tolist()
    if kind == "sparse":
        assert rows[1].tolist() == [0, 0, 0], "the row is left out"
        assert shard.left_out() == (1, 0, 2)
    else:
        assert rows[1].tolist() == [expected[1, 0], 0, expected[1, 2]], "the element is"
        assert shard.left_out() == (1, 0, 2 * WIDTH + 1)
    assert other.left_out() == (0, 0, 0)
    copy = new_shard(kind, optimizer, rounds=(0, 0))
    assert copy.load_image(shard.image()[1]) == (CODE_OK, "")
    assert copy.left_out() == shard.left_out()


def two_workers(work: Any, n_shards: int, kind: str) -> tuple[list[Any], Array]:
    results: list[Any] = [None, None]
    with fastps.connect(embedded=True, num_workers=2, num_servers=2) as first:
        clients = [first, first.worker(1)]

        def run(rank: int) -> None:
            client = clients[rank]
            consistency, optimizer = fastps.BSP(), SGD(lr=0.5)
            arguments: dict[str, Any] = {
                "optimizer": optimizer,
                "consistency": consistency,
                "num_shards": n_shards,
            }
            if kind == "sparse":
                made: Any = client.sparse_table("w", row_shape=(2,), **arguments)
            else:
                made = client.dense_table("w", shape=(8, 2), **arguments)
            results[rank] = work(client, made)

        threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = first.table("w")
        values = made.pull(np.arange(8)) if kind == "sparse" else made.pull()
        stats = made.stats()
        results.append(stats)
    return results, values


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_workers_are_told_once_and_the_bits_do_not_depend_on_shards(kind: str) -> None:
    def work(client: Any, made: Any) -> list[str]:
        said = []
        for step in range(4):
            gradients = np.full((8, 2), 0.25, np.float32)
            if step == 1:
                gradients[3, 1] = 3e38
            if kind == "sparse":
                made.push(np.arange(8), gradients)
            else:
                made.push(gradients)
            client.clock()
            for _ in range(2):
                try:
                    made.pull(np.arange(8)) if kind == "sparse" else made.pull()
                except errors.ValueRangeError as error:
                    said.append(f"{step}: {error}")
        return said

    values = []
    for n_shards in (1, 3, 8):
        results, pulled = two_workers(work, n_shards, kind)
        values.append(pulled)
        for said in results[:2]:
            assert len(said) == 1
            assert re.match(r"1: table 'w': what the workers pushed in step 1 ", said[0])
        shards = results[2]["shards"]
        assert sum(shard["left_out"] for shard in shards) == 1
        (named,) = (shard for shard in shards if shard["left_out"])
        assert named["left_out_round"] == 1
        assert named["left_out_key"] == (3 if kind == "sparse" else 7)
    expected = np.full((8, 2), -1.0, np.float32)
    expected[3] = [-0.75, -0.75] if kind == "sparse" else [-1.0, -0.75]
    for each in values:
        assert each.tolist() == expected.tolist()


# What users meet.


@pytest.mark.parametrize("optimizer", [FTRL(), AdaGrad(), Adam(), RMSProp()], ids=repr)
def test_what_cannot_be_squared_is_refused_before_anything_is_sent(
    client: Any, optimizer: Optimizer
) -> None:
    made = client.sparse_table(f"squares {optimizer!r}", optimizer=optimizer)
    named = r"table 'squares .*up to \+-1.8446743e\+19, given is 5.*key 7 \(index 1 of the batch\)"
    with pytest.raises(errors.ValueRangeError, match=named):
        made.push([8, 7], [1.0, 5e19])
    with pytest.raises(errors.ValueRangeError, match=r"add up to .* key 7 \(index 1 of the batch"):
        made.push([8, 7, 7], [1.0, 1.5e19, 1.5e19])
    assert len(made) == 0
    made.push([7], [SQUARE_MAX])
    assert np.isfinite(made.pull([7])).all()


def test_the_error_names_table_key_and_index(client: Any) -> None:
    made = client.sparse_table("sums", row_shape=(2,), optimizer=Accumulate(), num_shards=1)
    keys = fastps.KeySet([5, 6, 7, 8])
    gradients = np.ones((4, 2), np.float32)
    gradients[2, 1] = 3e38
    made.push(keys, gradients)
    for each in (keys, [5, 6, 7, 8], np.array([8, 8, 7, 5])):
        with pytest.raises(errors.ValueRangeError, match=r"'sums': .*key 7 \(index 2 of the b"):
            made.push(each, gradients)
    with pytest.raises(errors.ValueRangeError, match=r"key 7 \(index 2 of the batch"):
        made.push_async(keys, gradients).result()
    assert made.pull([5, 6, 7, 8]).tolist() == gradients.tolist(), "nothing was changed"
    dense = client.dense_table("block", shape=(4, 2), optimizer=Accumulate(), num_shards=1)
    dense.push(gradients)
    with pytest.raises(errors.ValueRangeError, match=r"'block': .*row at index 2"):
        dense.push(gradients)
    assert dense.pull().tolist() == gradients.tolist()


def test_a_value_whose_state_is_not_finite_is_not_assigned(embedded: Any) -> None:
    made = embedded.sparse_table("w", optimizer=FTRL(alpha=0.1))
    with pytest.raises(errors.ValueRangeError, match=r"state for a value .* key 9 \(index 1"):
        made.assign([8, 9], [1.0, 1e38])
    assert len(made) == 0
    with pytest.raises(errors.ConfigError, match="initial values reach 1e\\+38"):
        embedded.sparse_table("v", optimizer=FTRL(), initializer=initializers.Constant(1e38))
    shard = new_shard("sparse", FTRL(alpha=0.1))
    assert shard.apply("assign", uint64s([9]), floats([1, 1, 1e38])) == (CODE_VALUE, 3)


def test_a_rate_that_overflows_makes_pushes_fail_not_rows(embedded: Any) -> None:
    made = embedded.sparse_table("w", optimizer=SGD(lr=1.0))
    made.push([1], [1.0])
    made.set_lr(3e38)
    with pytest.raises(errors.ValueRangeError, match="key 1 "):
        made.push([1], [10.0])
    made.set_lr(1.0)
    made.push([1], [1.0])
    assert made.pull([1]) == [-2.0]
    with pytest.raises(errors.ValueRangeError):
        made.set_lr(1e39)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_is_loaded(bad: float) -> None:
    shard = new_shard("sparse", AdaGrad())
    rows = np.ones((2, 2 * WIDTH), np.float32)
    rows[1, 4] = bad
    assert shard.load_rows(uint64s([7, 8]), rows.ravel()) == CODE_CONFIG
    assert shard.figures()[0] == 0
    with pytest.raises(errors.ValueRangeError, match="row 1 of those given"):
        warm.assigned_rows(SGD(), np.array([[1.0], [bad]], np.float32))
    with pytest.raises(errors.ValueRangeError, match="row 0 of those given"):
        warm.assigned_rows(FTRL(), np.array([[1e38]], np.float32))


def test_rows_are_sure_again_once_they_are_small(embedded: Any) -> None:
    made = embedded.sparse_table("w", optimizer=SGD(lr=1.0), num_shards=1)
    made.assign([1], [1e37])
    made.assign([1], [1.0])
    for _ in range(3):
        made.push([1, 2], [1.0, 1.0])
    assert made.pull([1, 2]).tolist() == [-2.0, -3.0]


# FTRL without anything that keeps its first rate finite.


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_ftrl_without_beta_and_l2_after_an_assign(alpha: float) -> None:
    """The assigned value has no z, counts once as -sigma * w, and is near float64's formula."""
    rng = np.random.default_rng(5)
    optimizer = FTRL(alpha=alpha, beta=0.0, l1=0.0, l2=0.0)
    shard = _core_test.Shard(table("sparse", optimizer, row_width=1), 0)
    keys = uint64s(range(200))
    values = rng.standard_normal(200).astype(np.float32)
    shard.apply("assign", keys, values)
    assert shard.pull(keys).tolist() == values.tolist(), "stored exactly"
    gradients = rng.standard_normal(200).astype(np.float32)
    shard.apply("push", keys, gradients)
    w = values.astype(np.float64)
    np.testing.assert_allclose(
        np.ravel(shard.pull(keys)), w - alpha * np.sign(gradients), atol=1e-6 * (3 + alpha)
    )


def test_table_lr_is_the_rate_in_force(client: Any) -> None:
    made = client.sparse_table("rates", optimizer=Momentum(lr=0.5))
    assert made.lr == 0.5
    made.set_lr(0.1)
    assert made.lr == np.float32(0.1)
    assert client.table("rates").lr == made.lr
    for optimizer in (Accumulate(), FTRL()):
        other = client.sparse_table(f"no rate {optimizer!r}", optimizer=optimizer)
        with pytest.raises(errors.ConfigError, match="has no lr"):
            _ = other.lr


def test_a_decaying_rate_counts_each_row(embedded: Any) -> None:
    optimizer = AdaGrad(lr=1.0, lr_decay=1.0, initial_accumulator_value=3.0)
    assert optimizer.row_slots == ("t_low", "t_high")
    assert optimizers.AdaGrad().row_slots == ()
    made = embedded.sparse_table("w", optimizer=optimizer)
    made.push([1], [1.0])
    made.push([1, 2], [1.0, 1.0])
    np.testing.assert_allclose(made.pull([1, 2]), [-0.5 - 0.5 / np.sqrt(5), -0.5], rtol=1e-6)
    made.assign([1], [0.0])
    made.push([1], [1.0])
    assert made.pull([1]) == [-0.5], "an assigned row begins anew"


def test_a_checkpoint_that_is_not_finite_is_refused_before_the_job_is_given_up(
    embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions before may have left one."""
    made = embedded.sparse_table("w", optimizer=SGD(lr=1.0), num_shards=1)
    made.push([1], [1.0])
    monkeypatch.setattr(warm, "assigned_rows", lambda rule, values: values.astype(np.float32))
    values = np.array([[1.0], [np.nan]], np.float32)
    uri = str(tmp_path / "ck")
    warm.write_values(Store(uri), made._place.definition, uint64s([7, 8]), values)
    with pytest.raises(errors.CheckpointError, match=r"table 'w': .* holds NaN or infinity"):
        embedded.restore(uri)
    assert made.pull([1, 7]).tolist() == [-1.0, 0.0], "nothing was changed"
