"""The parts of a shard and the shard itself, against plain dicts and numpy."""

from __future__ import annotations

import ctypes
import itertools
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import reference
from fastps import _core_test
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Optimizer

Array = npt.NDArray[Any]

MASK = (1 << 64) - 1
SPREAD = 0x9E3779B97F4A7C15
PAGE_BUCKETS = 64
BUCKET_SLOTS = 5


def key_at(position: int) -> int:
    """The key that stands at `position` of a scan: the inverse of KeyIndex::PositionOf."""

    def unshift(x: int, shift: int) -> int:
        y = x
        for _ in range(64 // shift + 1):
            y = x ^ (y >> shift)
        return y

    x = position * pow(SPREAD, -1, 1 << 64) & MASK
    x = unshift(x, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    x = unshift(x, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    return (unshift(x, 30) - SPREAD) & MASK


def key_with_home(home: int, i: int, n_buckets: int = PAGE_BUCKETS) -> int:
    """The i-th key whose home is bucket `home` of `n_buckets`."""
    return key_at(-(-(home << 64) // n_buckets) + i)


def uint64s(values: Any) -> Array:
    return np.array(list(values), dtype=np.uint64)


# ---- PagePool


def address_ranges_mapped() -> list[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [
        (int(begin, 16), int(end, 16))
        for begin, end in (line.split()[0].split("-") for line in lines)
    ]


def is_mapped(address: int) -> bool:
    return any(begin <= address < end for begin, end in address_ranges_mapped())


extent_sizes = st.one_of(
    st.integers(0, 3),
    st.integers(1, 40).map(lambda pages: pages * 4096),
    st.integers(1, 300_000),
    st.sampled_from([1 << 20, (1 << 21) + 1, 30 << 20, 64 << 20, (64 << 20) + 1, 100 << 20]),
)


@given(st.lists(st.one_of(extent_sizes, st.integers(-1000, -1)), max_size=60))
@settings(deadline=None)
def test_extents_are_whole_pages_and_never_overlap(steps: list[int]) -> None:
    """A step >= 0 allocates that many bytes, a negative one frees an extent in use."""
    pool = _core_test.PagePool()
    in_use: list[tuple[int, int]] = []  # (address, bytes), sorted
    for tag, step in enumerate(steps):
        if step < 0:
            if in_use:
                pool.free(*in_use.pop(step % len(in_use)))
            continue
        address = pool.allocate(step)
        assert address % 4096 == 0
        ctypes.memset(address, tag, step)
        at = bisect_right(in_use, (address, 0))
        assert at == 0 or sum(in_use[at - 1]) <= address
        assert at == len(in_use) or address + max(step, 1) <= in_use[at][0]
        in_use.insert(at, (address, step))


@given(st.permutations(range(24)), st.integers(1, 40))
@settings(deadline=None)
def test_freed_neighbours_join(order: list[int], pages: int) -> None:
    pool = _core_test.PagePool()
    whole = 64 << 20
    region = pool.allocate(whole)
    pool.free(region, whole)
    extents = [pool.allocate((pages + i % 3) * 4096) for i in range(24)]
    assert min(extents) == region
    for i in order:
        pool.free(extents[i], (pages + i % 3) * 4096)
    # The same region is whole again, and stays because it is the only one.
    assert pool.allocate(whole) == region


def test_a_region_wholly_free_goes_back_to_the_system() -> None:
    pool = _core_test.PagePool()
    kept = pool.allocate(4096)
    large = pool.allocate(100 << 20)
    assert is_mapped(large)
    pool.free(large, 100 << 20)
    assert not is_mapped(large)
    assert is_mapped(kept)
    ctypes.memset(kept, 1, 4096)


def test_the_best_fit_is_taken() -> None:
    pool = _core_test.PagePool()
    sizes = [9, 1, 3, 1, 5, 1]  # pages; those of one page keep the others apart
    extents = [pool.allocate(n * 4096) for n in sizes]
    for i in (0, 2, 4):
        pool.free(extents[i], sizes[i] * 4096)
    assert pool.allocate(3 * 4096) == extents[2]
    assert pool.allocate(4 * 4096) == extents[4]
    assert pool.allocate(9 * 4096) == extents[0]


# ---- RowArena


@given(
    st.sampled_from([2, 3, 48, 1000, 20_000]),
    st.lists(st.booleans(), max_size=300),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_rows_keep_what_was_written(row_floats: int, steps: list[bool], random: Any) -> None:
    """True allocates and writes a row, False frees one."""
    arena = _core_test.RowArena(row_floats)
    rows: dict[int, float] = {}
    freed: list[int] = []
    n_cut = 0
    for i, allocates in enumerate(steps):
        if allocates:
            row = arena.allocate()
            if freed:
                assert row == freed.pop(), "a freed row is used before a new one is cut"
            else:
                assert row == n_cut
                n_cut += 1
            rows[row] = float(i)
            arena.write(row, np.full(row_floats, i, dtype=np.float32))
        elif rows:
            row = random.choice(sorted(rows))
            del rows[row]
            arena.free(row)
            freed.append(row)
    for row, value in rows.items():
        assert (arena.read(row) == value).all()


@pytest.mark.parametrize("row_floats", [2, 5, 17, 1024, 16_384, 16_385, 100_000])
def test_growth_of_the_first_chunks_keeps_contents(row_floats: int) -> None:
    arena = _core_test.RowArena(row_floats)
    n = max(3, min(40_000, (1 << 20) // row_floats))
    # A row in full only where that is cheap; else its ends.
    values = np.arange(n, dtype=np.float32)
    for i in range(n):
        row = np.full(row_floats, values[i], dtype=np.float32)
        assert arena.allocate() == i
        arena.write(i, row)
    for i in range(n):
        got = arena.read(i)
        assert got[0] == values[i]
        assert got[-1] == values[i]
    assert arena.bytes >= n * row_floats * 4
    assert arena.bytes <= 2 * n * row_floats * 4 + (64 << 10)


def test_a_small_arena_takes_one_page() -> None:
    arena = _core_test.RowArena(4)
    assert arena.bytes == 0
    for _ in range(256):
        arena.allocate()
    assert arena.bytes == 4096
    arena.allocate()
    assert arena.bytes == 8192


# ---- KeyIndex


def assert_like_a_fresh_one(index: Any, contents: dict[int, int]) -> None:
    """A bucket that keys overflowed is full, and counts exactly those that passed it."""
    n = index.n_buckets
    overflows = np.array(index.overflows())
    homes = [index.home_of(key) for key in contents]
    assert len(index) == len(contents) <= index.size_max
    # What stands where is not seen; but the counts of linear probing depend on the homes only.
    waiting = np.bincount(np.array(homes, dtype=np.int64), minlength=n) if n else np.zeros(0)
    carried = 0
    expected = np.zeros(n, dtype=np.int64)
    for _ in range(2):  # the second round lets keys of the end pass to the beginning
        for b in range(n):
            carried = max(0, carried + int(waiting[b]) - BUCKET_SLOTS)
            expected[b] = carried
    np.testing.assert_array_equal(overflows, expected)


edge_keys = st.sampled_from([0, 1, MASK, MASK - 1, 1 << 63, 1 << 32, key_at(0), key_at(MASK)])
crowded_keys = st.builds(key_with_home, st.sampled_from([0, 1, 2, 62, 63]), st.integers(0, 60))
any_key = st.one_of(st.integers(0, MASK), edge_keys, crowded_keys)


class IndexMachine(RuleBasedStateMachine):
    """KeyIndex against a dict: keys of all kinds, many of them at home in few buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.index = _core_test.KeyIndex()
        self.model: dict[int, int] = {}

    @rule(keys=st.lists(any_key, max_size=40, unique=True), payload=st.integers(0, (1 << 32) - 1))
    def insert(self, keys: list[int], payload: int) -> None:
        for i, key in enumerate(keys):
            if key in self.model:
                continue
            self.index.insert(key, payload ^ i)
            self.model[key] = payload ^ i

    @rule(key=any_key)
    def erase_any(self, key: int) -> None:
        assert self.index.erase(key) == self.model.pop(key, None)

    @rule(n=st.integers(1, 60), random=st.randoms(use_true_random=False))
    def erase_some(self, n: int, random: Any) -> None:
        for key in random.sample(sorted(self.model), min(n, len(self.model))):
            assert self.index.erase(key) == self.model.pop(key)

    @rule(n=st.sampled_from([0, 1, 300, 3000]))
    def reserve(self, n: int) -> None:
        self.index.reserve_for(n)
        assert self.index.size_max >= len(self.model) + n

    @rule(key=any_key)
    def find(self, key: int) -> None:
        assert self.index.find(key) == self.model.get(key)

    @rule(n_goal=st.sampled_from([1, 3, 50, 10_000]))
    def scan(self, n_goal: int) -> None:
        assert dict(scan_all(self.index, n_goal)) == self.model

    @invariant()
    def every_key_is_found(self) -> None:
        for key, payload in self.model.items():
            assert self.index.find(key) == payload
        assert_like_a_fresh_one(self.index, self.model)


IndexMachine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)
TestIndexMachine = IndexMachine.TestCase


def scan_all(index: Any, n_goal: int) -> list[tuple[int, int]]:
    visited: list[tuple[int, int]] = []
    position, finished = 0, False
    while not finished:
        step, position, finished = index.scan(position, n_goal)
        assert finished or len(step) >= n_goal
        visited += step
    keys = [key for key, _ in visited]
    assert len(keys) == len(set(keys))
    return visited


@given(st.integers(0, MASK))
def test_key_at_is_the_inverse_of_position(position: int) -> None:
    assert _core_test.KeyIndex.position_of(key_at(position)) == position


def test_lookups_end_when_every_bucket_was_overflowed() -> None:
    """Two keys that were pushed far from home once marked all buckets for ever."""
    index = _core_test.KeyIndex()
    for homes, pushed in ((range(50), 0), (range(50, 64), 50)):
        crowd = [key_with_home(home, i) for home in homes for i in range(BUCKET_SLOTS)]
        for key in crowd:
            index.insert(key, 0)
        index.insert(key_with_home(pushed, 100), 7)
        for key in crowd:
            assert index.erase(key) == 0
    assert index.n_buckets == PAGE_BUCKETS
    assert len(index) == 2
    assert index.find(key_with_home(3, 7)) is None
    assert index.find(key_with_home(0, 100)) == 7
    assert sum(index.overflows()) == 0


@pytest.mark.parametrize("n_keys", [100, 200, 250, 260, 272])
def test_churn_leaves_no_decay(n_keys: int) -> None:
    """An index of one page hung here after some thousand replacements."""
    rng = np.random.default_rng(n_keys)
    index = _core_test.KeyIndex()
    model = {int(key): 0 for key in rng.integers(0, MASK, n_keys, dtype=np.uint64)}
    for key in model:
        index.insert(key, 0)
    for key in rng.integers(0, MASK, 5000, dtype=np.uint64).tolist():
        oldest = next(iter(model))
        assert index.erase(oldest) == model.pop(oldest)
        index.insert(key, key & 0xFFFF)
        model[key] = key & 0xFFFF
    assert index.n_buckets == PAGE_BUCKETS, "removal gives room back"
    assert_like_a_fresh_one(index, model)


def test_keys_of_one_home_beyond_what_its_count_holds() -> None:
    """The count of a bucket sticks at 65535; nothing is lost by it and lookups still end."""
    n = 80_000
    index = _core_test.KeyIndex()
    index.reserve_for(n)
    keys = uint64s(key_at(i) for i in range(n))
    index.insert_all(keys)
    assert {index.home_of(key) for key in keys[::1000].tolist()} == {0}
    assert max(index.overflows()) == 65535
    assert index.find(int(keys[-1])) == int(keys[-1]) & 0xFFFFFFFF
    assert index.find(key_at(n)) is None
    assert index.erase_all(keys[:-3]) == n - 3
    assert index.erase_all(keys) == 3
    assert len(index) == 0
    assert index.find(key_at(n)) is None
    index.insert(key_at(0), 5)
    assert index.find(key_at(0)) == 5


@given(
    st.integers(1, 400),
    st.integers(1, 40),
    st.data(),
)
@settings(deadline=None)
def test_a_scan_meets_each_key_that_stayed_once(n_keys: int, n_goal: int, data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    fresh = map(int, rng.permutation(np.arange(1, 5000, dtype=np.uint64)))
    index = _core_test.KeyIndex()
    present = {next(fresh): None for _ in range(n_keys)}
    for key in present:
        index.insert(key, 0)
    stayed = set(present)
    met: list[int] = []
    position, finished = 0, False
    while not finished:
        step, position, finished = index.scan(position, n_goal)
        met += [key for key, _ in step]
        removed = data.draw(st.integers(0, min(5, len(present))))
        for key in list(itertools.islice(present, removed)):
            index.erase(key)
            del present[key]
            stayed.discard(key)
        for key in itertools.islice(fresh, data.draw(st.sampled_from([0, 1, 7, 300]))):
            index.insert(key, 0)
            present[key] = None
    assert len(met) == len(set(met))
    assert stayed <= set(met)


def test_growth_needs_little_more_room_than_the_keys() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, MASK, 200_000, dtype=np.uint64))
    index = _core_test.KeyIndex()
    for begin in range(0, len(keys), 1000):
        index.reserve_for(len(keys[begin : begin + 1000]))
        index.insert_all(keys[begin : begin + 1000])
    assert index.bytes == index.n_buckets * 64
    assert index.bytes / len(keys) <= 64 / BUCKET_SLOTS / 0.85 * 1.4 + 0.1
    for key in keys[::997].tolist():
        assert index.find(key) == key & 0xFFFFFFFF
        assert index.at_place_of(key) == key & 0xFFFFFFFF


def grown_together(n_indexes: int, n_keys: int, pool: Any) -> list[Any]:
    """Indexes that get their keys in turn, as the shards of a table do."""
    rng = np.random.default_rng(1)
    indexes = [_core_test.KeyIndex(pool) for _ in range(n_indexes)]
    for _ in range(0, n_keys, 500):
        for index in indexes:
            index.insert_all(rng.integers(0, MASK, 500, dtype=np.uint64))
    return indexes


def test_indexes_of_one_size_grow_at_different_times() -> None:
    indexes = grown_together(32, 20_000, _core_test.PagePool())
    assert len({index.size_max for index in indexes}) > 8


def test_what_one_index_frees_another_uses() -> None:
    def resident() -> int:
        rollup = Path("/proc/self/smaps_rollup").read_text()
        return int(rollup.split("Rss:")[1].split()[0]) * 1024

    grown_together(8, 1000, _core_test.PagePool())  # whatever is made once is there
    pool = _core_test.PagePool()
    before = resident()
    indexes = grown_together(200, 15_000, pool)
    grown = resident() - before
    needed = sum(index.bytes for index in indexes)
    assert needed * 0.9 < grown < needed * 1.06 + (4 << 20)


# ---- Shard

CODE_OK, CODE_GAP, CODE_SHAPE, CODE_VALUE, CODE_CONFIG = 0, 3, 18, 19, 24
ZEROS, CONSTANT, UNIFORM = (1, 0, 0.0, 0.0), (2, 0, 0.5, 0.0), (3, 42, -1.0, 1.0)


def table(kind: str = "sparse", optimizer: Optimizer | None = None, **fields: Any) -> Any:
    defaults = {
        "id": 1,
        "name": "t",
        "kind": kind,
        "row_width": 3,
        "n_rows": 0 if kind == "sparse" else 10,
        "num_shards": 1,
        "rule": (optimizer or Accumulate()).spec(),
        "initializer": ZEROS,
    }
    return {**defaults, **fields}


def sparse(optimizer: Optimizer | None = None, **fields: Any) -> Any:
    return _core_test.Shard(table("sparse", optimizer, **fields), 0)


def floats(values: Any) -> Array:
    return np.array(values, dtype=np.float32)


OPTIMIZERS = [
    Accumulate(),
    SGD(lr=0.25),
    AdaGrad(lr=0.5, eps=1e-6),
    FTRL(alpha=0.5, beta=1.0, l1=0.25, l2=0.5),
]


def initial(initializer: tuple[int, int, float, float], keys: Array, width: int) -> Array:
    kind, seed, a, b = initializer
    columns = [_core_test.fill_initial(kind, seed, a, b, int(key), 0, width) for key in keys]
    return floats(columns).reshape(len(keys), width)


class SparseModel:
    """A sparse shard as a dict of rows, by the references of the optimizers."""

    def __init__(self, optimizer: Optimizer, initializer: Any, width: int) -> None:
        self.optimizer, self.initializer, self.width = optimizer, initializer, width
        self.rows: dict[int, tuple[Array, list[Array]]] = {}

    def row(self, key: int) -> tuple[Array, list[Array]]:
        if key not in self.rows:
            value = initial(self.initializer, uint64s([key]), self.width)[0]
            self.rows[key] = (value, reference.new_state(self.optimizer, value))
        return self.rows[key]

    def push(self, keys: Array, gradients: Array) -> None:
        for key, gradient in zip(keys.tolist(), gradients, strict=True):
            value, state = self.row(key)
            reference.step(self.optimizer, value, state, gradient)

    def assign(self, keys: Array, values: Array) -> None:
        for key, value in zip(keys.tolist(), values, strict=True):
            self.rows[key] = (value.copy(), reference.new_state(self.optimizer, value))

    def remove(self, keys: Array) -> int:
        return sum(self.rows.pop(key, None) is not None for key in keys.tolist())

    def pull(self, keys: Array) -> Array:
        return floats(
            [
                self.rows[key][0]
                if key in self.rows
                else initial(self.initializer, uint64s([key]), self.width)[0]
                for key in keys.tolist()
            ]
        ).reshape(len(keys), self.width)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("width", [1, 2, 17])
@pytest.mark.parametrize("initializer", [ZEROS, UNIFORM], ids=["zeros", "uniform"])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "assign", "remove", "pull", "scan"]),
            st.lists(st.integers(0, 120), max_size=80, unique=True),
        ),
        max_size=15,
    ),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=15)
def test_sparse_shard_is_a_dict_of_rows(
    optimizer: Optimizer,
    width: int,
    initializer: Any,
    steps: list[tuple[str, list[int]]],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shard = sparse(optimizer, row_width=width, initializer=initializer)
    model = SparseModel(optimizer, initializer, width)
    applied = 0
    for kind, key_list in steps:
        keys = uint64s(key_list)
        values = floats(rng.standard_normal((len(keys), width)))
        applied += kind in ("push", "assign", "remove")
        if kind == "push":
            assert shard.apply("push", keys, values) == (CODE_OK, 0)
            model.push(keys, values)
        elif kind == "assign":
            assert shard.apply("assign", keys, values) == (CODE_OK, 0)
            model.assign(keys, values)
        elif kind == "remove":
            assert shard.apply("remove", keys, None) == (CODE_OK, model.remove(keys))
        elif kind == "pull":
            np.testing.assert_array_equal(
                shard.pull(keys).view(np.uint32), model.pull(keys).ravel().view(np.uint32)
            )
            expected = [key in model.rows for key in keys.tolist()]
            assert shard.contains(keys).tolist() == expected
        else:
            position, finished, seen = 0, False, {}
            while not finished:
                got, got_values, position, finished = shard.scan(position, 7)
                rows = got_values.reshape(len(got), width)
                seen.update(zip(got.tolist(), rows, strict=True))
            assert seen.keys() == model.rows.keys()
            for key, value in seen.items():
                np.testing.assert_array_equal(value, model.rows[key][0])
    rows, _, index = shard.figures()
    assert rows == len(model.rows)
    assert index == applied


def test_a_pull_creates_nothing() -> None:
    shard = sparse(initializer=CONSTANT)
    keys = uint64s(range(1000))
    assert (shard.pull(keys) == 0.5).all()
    assert shard.figures() == (0, 0, 0)
    assert not shard.contains(keys).any()


@pytest.mark.parametrize("width", [1, 3])
def test_repeated_keys_of_one_push_apply_in_order(width: int) -> None:
    """Clients never send them; a stranger may, and gets what the order says."""
    optimizer = AdaGrad(lr=0.5)
    shard = sparse(optimizer, row_width=width)
    model = SparseModel(optimizer, ZEROS, width)
    keys = uint64s([5, 5, 6, 5])
    gradients = floats(np.arange(4 * width).reshape(4, width))
    shard.apply("push", keys, gradients)
    model.push(keys, gradients)
    np.testing.assert_array_equal(shard.pull(keys), model.pull(keys).ravel())
    shard.apply("assign", keys, gradients)
    assert shard.pull(uint64s([5])).tolist() == gradients[3].tolist()


# ---- Sequences


def test_a_repeated_write_is_answered_not_applied() -> None:
    shard = sparse(row_width=1)
    one, key = floats([1.0]), uint64s([7])
    assert shard.apply("push", key, one, session=1, sequence=1) == (CODE_OK, 0)
    for _ in range(3):
        assert shard.apply("push", key, one, session=1, sequence=1) == (CODE_OK, 0)
    assert shard.apply("push", key, one, session=2, sequence=1) == (CODE_OK, 0)
    assert shard.pull(key).tolist() == [2.0]
    assert shard.figures()[2] == 2


def test_a_gap_is_refused_with_the_number_wanted() -> None:
    shard = sparse(row_width=1)
    one, key = floats([1.0]), uint64s([7])
    assert shard.apply("push", key, one, sequence=3) == (CODE_GAP, 1)
    assert shard.apply("push", key, one, sequence=1) == (CODE_OK, 0)
    assert shard.apply("push", key, one, sequence=3) == (CODE_GAP, 2)
    assert shard.apply("push", key, one, sequence=2) == (CODE_OK, 0)
    assert shard.apply("push", key, one, sequence=3) == (CODE_OK, 0)
    assert shard.pull(key).tolist() == [3.0]


@pytest.mark.parametrize(
    ("kind", "values", "code", "which"),
    [
        ("push", floats([1, 2]), CODE_SHAPE, 0),
        ("assign", floats([1, 2, 3, 4]), CODE_SHAPE, 0),
        ("push", floats([1, 2, np.nan]), CODE_VALUE, 3),
        ("assign", floats([-np.inf, 2, 3]), CODE_VALUE, 1),
    ],
)
def test_a_refused_write_uses_its_sequence_and_changes_nothing(
    kind: str, values: Array, code: int, which: int
) -> None:
    shard = sparse(row_width=3)
    key, good = uint64s([7]), floats([1, 2, 3])
    assert shard.apply(kind, key, values, sequence=1) == (code, which)
    assert shard.apply(kind, key, values, sequence=1) == (code, which), "the same answer again"
    assert shard.apply(kind, key, good, sequence=1) == (code, which), "by its number, not content"
    assert shard.figures()[0] == 0
    assert shard.figures()[2] == 1, "an entry without effect"
    assert shard.apply(kind, key, good, sequence=2) == (CODE_OK, 0)
    assert shard.pull(key).tolist() == [1, 2, 3]


def test_a_rate_is_a_numbered_write() -> None:
    shard = sparse(SGD(lr=1.0), row_width=1)
    key, one, none = uint64s([7]), floats([1]), uint64s([])
    assert shard.apply("set_lr", none, floats([0.5]), sequence=1) == (CODE_OK, 0)
    assert shard.apply("set_lr", none, floats([0.25]), sequence=2) == (CODE_OK, 0)
    assert shard.apply("set_lr", none, floats([0.5]), sequence=1) == (CODE_OK, 0), "a repeat"
    shard.apply("push", key, one, sequence=3)
    assert shard.pull(key) == [-0.25]
    assert shard.figures()[2] == 3
    for selection, values, code in [
        (key, floats([0.5]), CODE_SHAPE),
        (none, floats([]), CODE_SHAPE),
        (none, floats([np.nan]), CODE_CONFIG),
        (none, floats([-1]), CODE_CONFIG),
    ]:
        assert shard.apply("set_lr", selection, values) == (code, 0)
    assert sparse().apply("set_lr", none, floats([0.5])) == (CODE_CONFIG, 0)
    assert shard.figures()[2] == 7, "refused ones are entries too"


def test_the_answers_of_the_last_64_writes_are_kept() -> None:
    shard = sparse(row_width=1)
    for sequence in range(1, 202):
        key = uint64s([sequence])
        if sequence % 2:
            shard.apply("assign", key, floats([1]), sequence=sequence)
        else:  # removes the row before and one that is not there
            keys = uint64s([sequence - 1, sequence])
            assert shard.apply("remove", keys, None, sequence=sequence) == (CODE_OK, 1)
    for sequence in range(201 - 63, 202):
        expected = 0 if sequence % 2 else 1
        assert shard.apply("remove", uint64s([]), None, sequence=sequence) == (CODE_OK, expected)
    assert shard.figures()[2] == 201
    # Older ones were acknowledged long ago: what they removed is forgotten, not that they were.
    assert shard.apply("remove", uint64s([]), None, sequence=201 - 65) == (CODE_OK, 0)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(1, 12)), min_size=1, max_size=60))
def test_each_write_is_applied_once_in_order(arrivals: list[tuple[int, int]]) -> None:
    """Sequences of two sessions arrive in any order, repeated and with gaps."""
    shard = sparse(row_width=1)
    last = {1: 0, 2: 0}
    for session, sequence in arrivals:
        got = shard.apply(
            "push", uint64s([session]), floats([sequence]), session=session, sequence=sequence
        )
        if sequence > last[session] + 1:
            assert got == (CODE_GAP, last[session] + 1)
        else:
            assert got == (CODE_OK, 0)
            last[session] = max(last[session], sequence)
    sums = [n * (n + 1) / 2 for n in last.values()]
    assert shard.pull(uint64s([1, 2])).tolist() == sums
    assert shard.figures()[2] == sum(last.values())


def test_forgotten_sessions_start_anew_and_others_stay() -> None:
    shard = sparse(row_width=1)
    one, key = floats([1.0]), uint64s([7])
    for session in (1, 2):
        shard.apply("push", key, one, session=session, sequence=1)
    shard.forget_all_but({2})
    assert shard.apply("push", key, one, session=2, sequence=1) == (CODE_OK, 0)
    assert shard.pull(key).tolist() == [2.0]
    assert shard.apply("push", key, one, session=1, sequence=2) == (CODE_GAP, 1)


# ---- Dense shards


def dense(optimizer: Optimizer | None = None, shard: int = 0, **fields: Any) -> Any:
    return _core_test.Shard(table("dense", optimizer, **fields), shard)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@given(
    n_rows=st.integers(1, 7),
    width=st.integers(1, 6),
    num_shards=st.integers(1, 9),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_dense_shards_are_one_array(
    optimizer: Optimizer, n_rows: int, width: int, num_shards: int, seed: int, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    fields = {"n_rows": n_rows, "row_width": width, "num_shards": num_shards}
    fields["initializer"] = UNIFORM
    shards = [dense(optimizer, i, **fields) for i in range(num_shards)]
    n = n_rows * width
    ranges = [_core_test.dense_shard_range(n, num_shards, i) for i in range(num_shards)]
    value = initial(UNIFORM, uint64s(range(n_rows)), width).ravel()
    state = reference.new_state(optimizer, value)
    for _ in range(4):
        i = data.draw(st.integers(0, num_shards - 1))
        begin, end = ranges[i]
        a = data.draw(st.integers(begin, end))
        b = data.draw(st.integers(a, end))
        c = data.draw(st.integers(b, end))
        selection = uint64s([a, b, b, c])
        assert shards[i].value_count(selection) == c - a
        gradient = floats(rng.standard_normal(c - a))
        if data.draw(st.booleans()):
            assert shards[i].apply("push", selection, gradient) == (CODE_OK, 0)
            view = [s[a:c] for s in state]
            reference.step(optimizer, value[a:c], view, gradient)
        else:
            assert shards[i].apply("assign", selection, gradient) == (CODE_OK, 0)
            value[a:c] = gradient
            for s, new in zip(state, reference.new_state(optimizer, gradient), strict=True):
                s[a:c] = new
    pulled = [s.pull(uint64s(r)) for s, r in zip(shards, ranges, strict=True)]
    np.testing.assert_array_equal(np.concatenate(pulled).view(np.uint32), value.view(np.uint32))
    firsts = range(0, n, width)
    expected_rows = [sum(begin <= first < end for first in firsts) for begin, end in ranges]
    assert [s.figures()[0] for s in shards] == expected_rows


@given(
    st.lists(st.integers(0, 40) | st.sampled_from([1 << 63, MASK]), max_size=6),
    st.integers(0, 3),
)
def test_dense_selections_are_checked(selection: list[int], shard: int) -> None:
    block = dense(None, shard, n_rows=10, row_width=3, num_shards=4)
    begin, end = _core_test.dense_shard_range(30, 4, shard)
    pairs = list(zip(selection[::2], selection[1::2], strict=False))
    got = block.check(uint64s(selection))
    if len(selection) % 2:
        assert got == CODE_SHAPE
    elif all(begin <= a <= b <= end for a, b in pairs):
        assert got == CODE_OK
        assert block.value_count(uint64s(selection)) == sum(b - a for a, b in pairs)
    else:
        assert got == CODE_VALUE
        values = floats([])
        assert block.apply("push", uint64s(selection), values, sequence=1) == (CODE_VALUE, 0)


def test_a_dense_block_refuses_to_remove() -> None:
    block = dense()
    assert not block.is_sparse
    assert block.apply("remove", uint64s([0, 3]), None, sequence=1) == (CODE_SHAPE, 0)
    assert block.apply("push", uint64s([0, 1]), floats([1]), sequence=2) == (CODE_OK, 0)
