"""How calls are cut into messages, and the way of values through them, against numpy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from test_routing import cluster_map, mix

Array = npt.NDArray[Any]

LIMITS = _core_test.limits
KEYS_GOAL: int = LIMITS["message_keys_goal"]
FLOATS_GOAL: int = LIMITS["message_values_bytes_goal"] // 4
PARTS_MAX: int = LIMITS["parts_per_shard_in_message_max"]


def uint64s(values: Any = ()) -> Array:
    return np.array(list(values), dtype=np.uint64)


def floats(values: Any) -> Array:
    return np.array(values, dtype=np.float32)


def plan_of(num_shards: int, n_servers: int = 1, threads: int = 1, **table: Any) -> Any:
    """Shards dealt to servers in blocks of three, to have them cross lanes."""
    placement = [shard // 3 % n_servers for shard in range(num_shards)]
    endpoints = dict.fromkeys(range(n_servers), threads)
    return _core_test.ShardPlan(cluster_map(placement, endpoints, **table), 5)


def keys_of_message(batch: Any, message: dict[str, Any]) -> Array:
    begin = message["keys_begin"]
    keys: Array = batch.keys[begin : begin + message["n_keys"]]
    return keys


def lane_of_shard(plan: Any, shard: int) -> int:
    lane: int = plan.lane_of_rank[plan.rank_of_shard[shard]]
    return lane


def check_messages(batch: Any, plan: Any) -> None:
    """What holds for all batches: lanes, views, sums of counts, no gaps between messages."""
    begin = 0
    for message in batch.messages:
        parts = message["parts"]
        assert parts
        for shard, view, sequence, _, _ in parts:
            assert message["lane"] == lane_of_shard(plan, shard)
            assert view == 10 + shard
            assert sequence == 0
        assert message["n_keys"] == sum(part[3] for part in parts)
        assert message["n_values"] == sum(part[4] for part in parts)
        assert max(Counter(part[0] for part in parts).values()) <= PARTS_MAX
        assert message["keys_begin"] == begin
        begin += message["n_keys"]
    assert len(batch.keys) == begin


# ---- Keys


def check_grouping(batch: Any, plan: Any, keys: Array, num_shards: int, width: int) -> None:
    check_messages(batch, plan)
    assert sorted(batch.keys.tolist()) == sorted(set(keys.tolist())), "each key once"
    goal = max(1, min(KEYS_GOAL, FLOATS_GOAL // width))
    for message in batch.messages:
        at = message["keys_begin"]
        for shard, _, _, n_keys, n_values in message["parts"]:
            assert n_keys > 0
            assert n_values == n_keys * width
            for key in batch.keys[at : at + n_keys].tolist():
                assert _core_test.shard_of_key(key, num_shards) == shard
            at += n_keys
        assert message["n_keys"] <= goal or len(message["parts"]) == 1


def check_values(batch: Any, keys: Array, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (len(keys), width)
    gradients = floats(rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 7, (len(keys), 1)))
    sums: dict[int, Array] = {}
    last: dict[int, Array] = {}
    for key, row in zip(keys.tolist(), gradients, strict=True):
        sums[key] = sums[key] + row if key in sums else row.copy()  # left to right, float32
        last[key] = row
    pulled = {key: floats(rng.standard_normal(width)) for key in sums}
    rows = np.full(shape, np.nan, dtype=np.float32)
    flags = np.full(len(keys), 9, dtype=np.uint8)
    for i, message in enumerate(batch.messages):
        own = keys_of_message(batch, message).tolist()
        for got, expected in (
            (batch.gather_sums(i, gradients), sums),
            (batch.gather_last(i, gradients), last),
        ):
            wanted = np.concatenate([expected[key] for key in own])
            np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))
        batch.scatter(i, np.concatenate([pulled[key] for key in own]), rows)
        batch.scatter_flags(i, np.array([key & 1 for key in own], dtype=np.uint8), flags)
    for key, row in zip(keys.tolist(), rows, strict=True):
        np.testing.assert_array_equal(row, pulled[key])
    assert flags.tolist() == (keys & np.uint64(1)).tolist()


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=200),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([1, 2, 5, 64]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 1000),
)
@settings(deadline=None)
def test_any_keys(
    key_list: list[int], width: int, num_shards: int, n_servers: int, threads: int, seed: int
) -> None:
    keys = uint64s(key_list)
    plan = plan_of(num_shards, n_servers, threads, row_width=width)
    batch = _core_test.key_batch(plan, keys)
    check_grouping(batch, plan, keys, num_shards, width)
    check_values(batch, keys, width, seed)
    # Small batches need no more messages than there are lanes.
    assert len(batch.messages) == len({message["lane"] for message in batch.messages})


@pytest.mark.parametrize(
    ("num_shards", "n_servers", "width", "n_keys", "n_distinct"),
    [
        (1, 1, 1, 100_000, 2**63),
        (1, 1, 1, 100_000, 30_000),
        (1, 1, 1, 50_000, 3),
        (1, 1, 1, 100_000, 200),
        (3, 2, 1, 100_000, 2**63),
        (256, 2, 1, 60_000, 2**63),
        (2, 1, 1024, 3000, 2000),
        (7, 3, 300, 10_000, 2**63),
        (1, 1, 300_000, 12, 9),
    ],
)
def test_large_batches(
    num_shards: int, n_servers: int, width: int, n_keys: int, n_distinct: int
) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, n_distinct, n_keys, dtype=np.uint64)
    plan = plan_of(num_shards, n_servers, 2, row_width=width)
    batch = _core_test.key_batch(plan, keys)
    check_grouping(batch, plan, keys, num_shards, width)
    check_values(batch, keys, width, 0)
    # Full enough: about as many messages as bytes, lanes or the bound on parts call for.
    goal = max(1, min(KEYS_GOAL, FLOATS_GOAL // width))
    by_parts = (len(keys) / goal + num_shards) / PARTS_MAX
    assert len(batch.messages) <= 2 * (len(batch.keys) / goal + len(plan.lanes)) + by_parts + 1


@pytest.mark.parametrize("n_keys", [50, 60_000])
def test_parts_of_a_key_set_have_one_name_wherever_the_shards_lie(n_keys: int) -> None:
    """A server may be asked by the names of one plan and another: they must mean the same keys."""
    keys = np.random.default_rng(0).integers(0, 2**63, n_keys, dtype=np.uint64)
    named = []
    for n_servers, threads in ((1, 1), (2, 3), (5, 2)):
        batch = _core_test.key_batch(plan_of(3, n_servers, threads), keys)
        parts = {}
        for message in batch.messages:
            at = message["keys_begin"]
            for (shard, *_, n, _), name in zip(message["parts"], message["set_parts"], strict=True):
                assert name > 0
                assert (shard, name) not in parts
                parts[shard, name] = batch.keys[at : at + n].tolist()
                at += n
        named.append(parts)
    assert named[0] == named[1] == named[2]
    assert len(named[0]) == (3 if n_keys == 50 else 9)


def test_no_keys_are_no_messages() -> None:
    for num_shards in (1, 256):
        batch = _core_test.key_batch(plan_of(num_shards), uint64s())
        assert batch.messages == []
        assert batch.keys.tolist() == []


def test_one_key_many_times() -> None:
    keys = np.full(70_000, 2**64 - 1, dtype=np.uint64)
    plan = plan_of(4, 2)
    batch = _core_test.key_batch(plan, keys)
    check_grouping(batch, plan, keys, 4, 1)
    gradients = floats(np.random.default_rng(0).standard_normal(70_000))
    assert batch.gather_sums(0, gradients)[0] == np.cumsum(gradients, dtype=np.float32)[-1]
    assert batch.gather_last(0, gradients)[0] == gradients[-1]


def test_a_sum_starts_with_its_first_addend() -> None:
    """-0 stays -0: a sum begins with the addend, not with +0."""
    batch = _core_test.key_batch(plan_of(1), uint64s([7, 8, 8]))
    sums = batch.gather_sums(0, floats([-0.0, -0.0, -0.0]))
    assert np.signbit(sums).all()


def test_rows_that_pass_the_largest_message_are_split_or_refused() -> None:
    """Three rows of 16 MiB: close together in the order of hashes, and too close to be parted."""
    keys = [int(k) for k in np.random.default_rng(0).integers(0, 2**63, 50_000)]
    plan = plan_of(1, row_width=1 << 22)
    near = [k for k in keys if mix(k) < 2**64 // 3]
    assert len(_core_test.key_batch(plan, uint64s(near[:2])).messages) == 1
    assert len(_core_test.key_batch(plan, uint64s(near[:3])).messages) == 3
    too_near = [k for k in near if mix(k) < 2**64 // 4096]
    with pytest.raises(ValueError, match="largest message"):
        _core_test.key_batch(plan, uint64s(too_near[:3]))


# ---- Ranges of dense tables


def dense_plan(n_rows: int, width: int, num_shards: int, n_servers: int = 2) -> Any:
    return plan_of(num_shards, n_servers, kind="dense", n_rows=n_rows, row_width=width)


def ranges_of_message(batch: Any, message: dict[str, Any]) -> list[tuple[int, int]]:
    pairs = keys_of_message(batch, message).reshape(-1, 2)
    return [(int(begin), int(end)) for begin, end in pairs]


def check_ranges(batch: Any, plan: Any, n_elements: int, num_shards: int) -> None:
    check_messages(batch, plan)
    for message in batch.messages:
        ranges = iter(ranges_of_message(batch, message))
        shards = [part[0] for part in message["parts"]]
        assert len(shards) == len(set(shards)), "one part per shard"
        for shard, _, _, n_keys, n_values in message["parts"]:
            block = _core_test.dense_shard_range(n_elements, num_shards, shard)
            own = [next(ranges) for _ in range(n_keys // 2)]
            assert all(block[0] <= begin < end <= block[1] for begin, end in own)
            assert n_values == sum(end - begin for begin, end in own)
        assert message["n_values"] <= FLOATS_GOAL
        assert message["n_keys"] <= 2 * KEYS_GOAL


def check_range_values(batch: Any, n_elements: int, rows: list[int] | None, width: int) -> None:
    """`rows` None: the whole table."""
    rng = np.random.default_rng(0)
    places = rows if rows is not None else list(range(n_elements // width))
    given_rows = floats(rng.standard_normal((len(places), width)))
    sums = np.full((n_elements // width, width), np.nan, dtype=np.float32)
    last = sums.copy()
    for row, values in zip(places, given_rows, strict=True):
        sums[row] = values if np.isnan(sums[row]).all() else sums[row] + values
        last[row] = values
    table = floats(rng.standard_normal(n_elements))
    pulled = np.full((len(places), width), np.nan, dtype=np.float32)
    seen = np.zeros(n_elements, dtype=np.int64)
    for i, message in enumerate(batch.messages):
        at = np.concatenate([np.arange(*r) for r in ranges_of_message(batch, message)])
        seen[at] += 1
        np.testing.assert_array_equal(batch.gather_sums(i, given_rows), sums.ravel()[at])
        np.testing.assert_array_equal(batch.gather_last(i, given_rows), last.ravel()[at])
        batch.scatter(i, table[at], pulled)
    expected = np.zeros((n_elements // width, width), dtype=np.int64)
    expected[places] = 1
    np.testing.assert_array_equal(seen, expected.ravel())
    np.testing.assert_array_equal(pulled, table.reshape(-1, width)[places])


@given(
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(1, 3),
    st.lists(st.integers(0, 11), max_size=30),
)
@settings(deadline=None)
def test_chosen_rows(
    n_rows: int, width: int, num_shards: int, n_servers: int, picks: list[int]
) -> None:
    """Any order, duplicates, rows cut by the borders of shards."""
    rows = [pick % n_rows for pick in picks]
    plan = dense_plan(n_rows, width, num_shards, n_servers)
    batch = _core_test.row_batch(plan, uint64s(rows))
    check_ranges(batch, plan, n_rows * width, num_shards)
    check_range_values(batch, n_rows * width, rows, width)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 20), st.integers(1, 3))
@settings(deadline=None)
def test_the_whole_table(n_rows: int, width: int, num_shards: int, n_servers: int) -> None:
    plan = dense_plan(n_rows, width, num_shards, n_servers)
    batch = _core_test.whole_batch(plan)
    check_ranges(batch, plan, n_rows * width, num_shards)
    check_range_values(batch, n_rows * width, None, width)


@pytest.mark.parametrize(
    ("n_rows", "width", "num_shards"),
    [(3, FLOATS_GOAL + 5, 2), (1, 3 * FLOATS_GOAL, 1), (4, FLOATS_GOAL // 2 + 1, 5)],
)
def test_rows_longer_than_a_message(n_rows: int, width: int, num_shards: int) -> None:
    plan = dense_plan(n_rows, width, num_shards)
    n = n_rows * width
    for batch, rows in (
        (_core_test.whole_batch(plan), None),
        (_core_test.row_batch(plan, uint64s([n_rows - 1, 0, n_rows - 1])), [n_rows - 1, 0] * 2),
    ):
        check_ranges(batch, plan, n, num_shards)
        check_range_values(batch, n, None if rows is None else rows[:3], width)


def test_many_short_rows_are_bounded_by_their_ranges() -> None:
    rng = np.random.default_rng(0)
    n_rows = 100_000
    plan = dense_plan(n_rows, 1, 4)
    rows = rng.permutation(n_rows)[:40_000]
    batch = _core_test.row_batch(plan, rows.astype(np.uint64))
    check_ranges(batch, plan, n_rows, 4)
    check_range_values(batch, n_rows, rows.tolist(), 1)


def test_no_rows_are_no_messages() -> None:
    assert _core_test.row_batch(dense_plan(3, 2, 2), uint64s()).messages == []


# ---- Stats and scan


@given(st.integers(1, 50), st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None)
def test_stats_ask_every_shard_in_one_message_a_lane(
    num_shards: int, n_servers: int, threads: int
) -> None:
    plan = plan_of(num_shards, n_servers, threads)
    batch = _core_test.shard_batch(plan)
    check_messages(batch, plan)
    assert [message["lane"] for message in batch.messages] == list(range(len(plan.lanes)))
    shards = [part[0] for message in batch.messages for part in message["parts"]]
    assert sorted(shards) == list(range(num_shards))


def test_a_scan_asks_one_shard_with_its_cursor() -> None:
    plan = plan_of(9, 2, 2)
    batch = _core_test.scan_batch(plan, 4, 2**63 + 1)
    check_messages(batch, plan)
    (message,) = batch.messages
    assert message["parts"] == [(4, 14, 0, 1, 0)]
    assert batch.keys.tolist() == [2**63 + 1]
