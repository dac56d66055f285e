"""The ring: nobody has more than its share, and few shards move."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.scheduler.ring import capacity, place, place_chains

SERVERS = st.sets(st.integers(0, 1000), min_size=1, max_size=12)


@given(st.integers(1, 300), SERVERS)
def test_no_server_has_more_than_its_share(num_shards: int, servers: set[int]) -> None:
    placement = place("w", num_shards, sorted(servers))
    assert len(placement) == num_shards
    load = Counter(placement)
    assert load.keys() <= servers
    assert max(load.values()) <= capacity(num_shards, len(servers))


@given(st.integers(1, 300), st.permutations(range(7)))
def test_the_order_of_servers_does_not_matter(num_shards: int, servers: list[int]) -> None:
    assert place("w", num_shards, servers) == place("w", num_shards, range(7))


@pytest.mark.parametrize("n_servers", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("table", ["weights", "embedding"])
def test_a_join_moves_few_shards(n_servers: int, table: str) -> None:
    before = place(table, 256, range(n_servers))
    after = place(table, 256, range(n_servers + 1))
    moved = sum(b != a for b, a in zip(before, after, strict=True))
    # The newcomer's share has to move. Tight capacities make some others move as well.
    assert moved <= 2 * 256 / (n_servers + 1)


@pytest.mark.parametrize("gone", range(8))
def test_a_leave_moves_few_shards(gone: int) -> None:
    before = place("w", 256, range(8))
    after = place("w", 256, [server for server in range(8) if server != gone])
    stayed_put = [b == a for b, a in zip(before, after, strict=True) if b != gone]
    assert sum(not same for same in stayed_put) <= 32
    assert gone not in after


def test_tables_start_at_different_places() -> None:
    first = {place(f"table {n}", 1, range(8))[0] for n in range(100)}
    assert first == set(range(8))


def test_the_placement_is_stable_for_ever() -> None:
    golden = [2, 1, 1, 0, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 1, 1]
    assert place("weights", 16, [0, 1, 2]) == golden


# Chains.


@given(st.integers(1, 200), SERVERS, st.integers(1, 3))
def test_chains_have_distinct_servers_and_the_same_heads(
    num_shards: int, servers: set[int], copies: int
) -> None:
    chains = place_chains("w", num_shards, sorted(servers), copies)
    assert [chain[0] for chain in chains] == place("w", num_shards, sorted(servers))
    assert {len(chain) for chain in chains} == {min(copies, len(servers))}
    assert all(len(set(chain)) == len(chain) and servers.issuperset(chain) for chain in chains)


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("n_servers", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("table", ["weights", "embedding"])
def test_each_place_of_the_chains_is_spread_evenly(copies: int, n_servers: int, table: str) -> None:
    chains = place_chains(table, 256, range(n_servers), copies)
    for members in zip(*chains, strict=True):
        assert max(Counter(members).values()) <= capacity(256, n_servers) + 2


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("n_servers", [2, 3, 4, 8])
@pytest.mark.parametrize("table", ["weights", "embedding"])
def test_a_join_makes_few_copies(copies: int, n_servers: int, table: str) -> None:
    before = place_chains(table, 256, range(n_servers), copies)
    after = place_chains(table, 256, range(n_servers + 1), copies)
    made = sum(server not in old for old, new in zip(before, after, strict=True) for server in new)
    assert made <= 1.5 * sum(map(len, after)) / (n_servers + 1)


def test_chains_are_stable_for_ever() -> None:
    golden = [(2, 0), (1, 2), (1, 2), (0, 2), (0, 1), (0, 1), (2, 0), (1, 0)]
    assert place_chains("weights", 8, [0, 1, 2], 2) == golden
