"""Where keys and elements live, and how shards lie on lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test

U64 = (1 << 64) - 1
keys = st.integers(0, U64)


def mix(key: int) -> int:
    key = key + 0x9E3779B97F4A7C15 & U64
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & U64
    key = (key ^ key >> 27) * 0x94D049BB133111EB & U64
    return key ^ key >> 31


@given(keys)
def test_the_hash_is_splitmix64(key: int) -> None:
    assert _core_test.mix_key(key) == mix(key)


def test_the_hash_never_changes() -> None:
    """Keys are placed by it for ever. Vectors of splitmix64 (Vigna, prng.di.unimi.it), seed 0."""
    golden = 0x9E3779B97F4A7C15
    outputs = [_core_test.mix_key(golden * i & U64) for i in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(keys, st.integers(1, 1 << 32))
def test_reduce_range_is_a_product_and_keeps_order(value: int, n: int) -> None:
    assert _core_test.reduce_range(value, n) == value * n >> 64
    if value < U64:
        assert _core_test.reduce_range(value, n) <= _core_test.reduce_range(value + 1, n) < n


@given(keys, st.integers(1, 1 << 16), st.integers(1, 4096))
def test_slices_of_a_shard_lie_within_it(key: int, num_shards: int, slices: int) -> None:
    """Large batches are cut so; the product must fit the 32 bits of its type."""
    slice_ = _core_test.reduce_range(mix(key), num_shards * slices)
    assert slice_ // slices == _core_test.shard_of_key(key, num_shards)
    assert num_shards * slices < 1 << 32


@pytest.mark.parametrize("step", [1, 1 << 8, 1 << 32, 1 << 48])
def test_shards_get_equal_shares_of_regular_keys(step: int) -> None:
    n, num_shards = 20_000, 16
    shards = Counter(_core_test.shard_of_key(i * step & U64, num_shards) for i in range(n))
    mean = n / num_shards
    assert all(abs(shards[s] - mean) < 5 * mean**0.5 for s in range(num_shards))


# ---- Dense blocks

sizes = st.one_of(st.integers(0, 200), st.integers(0, 1 << 40))


@given(sizes, st.integers(1, 300))
def test_blocks_follow_each_other_and_differ_by_one_at_most(n: int, num_shards: int) -> None:
    ranges = [_core_test.dense_shard_range(n, num_shards, i) for i in range(num_shards)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    lengths = [end - begin for begin, end in ranges]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 30))
def test_parts_of_rows_within_blocks_make_up_the_table(
    n_rows: int, width: int, num_shards: int
) -> None:
    elements: list[int] = []
    for shard in range(num_shards):
        block = _core_test.dense_shard_range(n_rows * width, num_shards, shard)
        for row in range(n_rows):
            begin, end = _core_test.row_within_block(row, width, *block)
            if begin == end:
                assert (begin, end) == (0, 0)
                continue
            assert row * width <= begin < end <= (row + 1) * width
            elements += range(begin, end)
    assert elements == list(range(n_rows * width))


# ---- Shard plans


def cluster_map(
    chains: Sequence[int | Sequence[int]],
    endpoints: dict[int, int],
    *,
    version: int = 1,
    views: Sequence[int] | None = None,
    lost: Collection[int] = (),
    **table: Any,
) -> dict[str, Any]:
    """A map of one table: each shard's chain, or its one server, and the threads of each server."""
    numbers = views or [10 + shard for shard in range(len(chains))]
    members = [[chain] if isinstance(chain, int) else list(chain) for chain in chains]
    return {
        "cluster_id": 1,
        "epoch": 1,
        "incarnation": 1,
        "version": version,
        "highest_session": 1,
        "sessions": [1],
        "servers": [
            (
                server,
                bytes(16),
                server in lost,
                [f"tcp://127.0.0.1:{7000 + i}" for i in range(n)],
                [],
            )
            for server, n in sorted(endpoints.items())
        ],
        "tables": [
            {
                "id": 5,
                "name": "t",
                "kind": "sparse",
                "row_width": 1,
                "n_rows": 0,
                "num_shards": len(chains),
                "replication": max(len(chain) for chain in members),
                "rule": (1, []),
                "initializer": (1, 0, 0.0, 0.0),
                "views": [
                    (number, chain, False, False, None)
                    for number, chain in zip(numbers, members, strict=True)
                ],
                **table,
            }
        ],
    }


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 5), min_size=1), st.data())
@settings(deadline=None)
def test_a_plan_orders_the_shards_by_lane(endpoints: dict[int, int], data: Any) -> None:
    servers = sorted(endpoints)
    placement = data.draw(st.lists(st.sampled_from(servers), min_size=1, max_size=40))
    plan = _core_test.ShardPlan(cluster_map(placement, endpoints), 5)
    n = len(placement)
    lane_of_shard = [
        (server, shard % max(1, endpoints[server])) for shard, server in enumerate(placement)
    ]
    # Embedded servers have no endpoints and one lane each.
    assert plan.lanes == sorted(set(lane_of_shard))
    assert plan.shard_of_rank == sorted(range(n), key=lambda s: (lane_of_shard[s], s))
    assert [plan.shard_of_rank[rank] for rank in plan.rank_of_shard] == list(range(n))
    lanes = [plan.lanes[lane] for lane in plan.lane_of_rank]
    assert lanes == [lane_of_shard[shard] for shard in plan.shard_of_rank]


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 4), min_size=1), st.data())
@settings(deadline=None)
def test_writes_go_to_the_head_and_reads_to_the_tail(endpoints: dict[int, int], data: Any) -> None:
    servers = st.lists(st.sampled_from(sorted(endpoints)), min_size=1, max_size=3, unique=True)
    chains = data.draw(st.lists(servers, min_size=1, max_size=20))
    for writes, end in ((True, 0), (False, -1)):
        plan = _core_test.ShardPlan(cluster_map(chains, endpoints), 5, writes=writes)
        for shard, chain in enumerate(chains):
            lane = plan.lanes[plan.lane_of_rank[plan.rank_of_shard[shard]]]
            assert lane == (chain[end], shard % endpoints[chain[end]])
        assert plan.serves_both == all(len(chain) == 1 for chain in chains)


def test_a_plan_of_an_unknown_table_is_none() -> None:
    with pytest.raises(ValueError, match="no such table"):
        _core_test.ShardPlan(cluster_map([1], {1: 1}), 6)


def test_the_largest_table() -> None:
    rng = np.random.default_rng(0)
    placement = rng.integers(0, 10, 1 << 16).tolist()
    plan = _core_test.ShardPlan(cluster_map(placement, dict.fromkeys(range(10), 4)), 5)
    assert len(plan.lanes) == 40
    assert sorted(plan.shard_of_rank) == list(range(1 << 16))
