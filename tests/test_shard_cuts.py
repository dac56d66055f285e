"""Cuts of shards: each is the state at the moment it began, whatever is written while it is read.

What a cut must hold is taken from the shard's image at its beginning: an image is made by other
code and in one piece. Rows are compared with their optimizer state, bit for bit.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Adam, Momentum, Optimizer
from test_store import (
    CODE_CONFIG,
    CODE_OK,
    MASK,
    UNIFORM,
    Array,
    floats,
    key_at,
    key_with_home,
    table,
    uint64s,
)

CODE_RETRY = 1
NONE = uint64s([])
HEADER = struct.Struct("<IBBBBBQ8fQQQQQQ")
# Row width and optimizer: one float lives in the index, the others in the arena.
LAYOUTS: dict[str, tuple[int, Optimizer]] = {
    "floats": (1, Accumulate()),
    "floats with a rate": (1, SGD(lr=0.5)),
    "floats with state": (1, AdaGrad(lr=0.5)),
    "rows with slots": (3, Adam(lr=0.1)),
    "rows": (2, SGD(lr=0.5)),
}
# Keys that crowd one bucket, so that removals move others; the first and last places of a scan.
CROWD = [key_with_home(7, i) for i in range(30)] + [key_at(0), key_at(MASK), 0, MASK]
KEYS = uint64s(CROWD + list(range(1, 40)))
Rows = dict[int, bytes]


def row_floats(layout: str) -> int:
    width, optimizer = LAYOUTS[layout]
    return {"Adam": 3 * width + 2, "AdaGrad": 2 * width}.get(type(optimizer).__name__, width)


def new_sparse(layout: str, **fields: Any) -> Any:
    width, optimizer = LAYOUTS[layout]
    spec = table("sparse", optimizer, row_width=width, initializer=UNIFORM, **fields)
    return _core_test.Shard(spec, 0)


def rows_of(shard: Any) -> Rows:
    """Rows with their state, from the image of a shard without sessions and open rounds."""
    _, image = shard.image()
    at = HEADER.size + 8
    (n,) = struct.unpack_from("<Q", image, at)
    rows = memoryview(image)[at + 8 : -8]
    size = len(rows) // max(n, 1)
    parts = [bytes(rows[i : i + size]) for i in range(0, n * size, max(size, 1))]
    return {int.from_bytes(part[:8], "little"): part[8:] for part in parts}


class Cut:
    """A cut under way: what it must give, and what it gave so far."""

    def __init__(self, number: int, parent: int, is_full: bool, state: Rows) -> None:
        self.number, self.parent, self.is_full, self.state = number, parent, is_full, state
        self.rows: Rows = {}
        self.naive: Rows = {}  # what the rows were when they were read
        self.removed: list[int] = []
        self.finished = False

    def take(self, slice_: tuple[Any, ...], now: Rows) -> None:
        keys, rows, removed, _, _, self.finished = slice_
        parts = rows.reshape(len(keys), -1) if len(keys) else []
        for key, row in zip(keys.tolist(), parts, strict=True):
            assert key not in self.rows, "a row comes once"
            self.rows[key] = row.tobytes()
            if key in now:
                self.naive[key] = now[key]
        assert self.finished or not len(removed)
        self.removed = removed.tolist()

    def on(self, base: Rows) -> Rows:
        """What a reader makes of it: removals first."""
        kept = {} if self.is_full else {k: v for k, v in base.items() if k not in self.removed}
        return kept | self.rows


class Story:
    """Random writes to a shard and cuts of it, each checked when it is over."""

    def __init__(self, layout: str, seed: int) -> None:
        self.layout, self.shard = layout, new_sparse(layout)
        self.random = np.random.default_rng(seed)
        self.width = LAYOUTS[layout][0]
        self.cut: Cut | None = None
        self.n_cuts = self.n_increments = self.n_naive = 0
        self.fresh = 1 << 32
        self.states: dict[int, Rows] = {}  # by cut, of those read to the end
        self.made: dict[int, Rows] = {}  # the same as a reader made them of cuts alone
        self.counted_from = 0
        self.written: set[int] = set()  # since the cut counted from
        self.n_removed = 0
        self.before_cut: tuple[int, set[int], int] = (0, set(), 0)

    def values(self, n: int) -> Array:
        return self.random.normal(size=n * self.width).astype(np.float32)

    def some_keys(self, n_max: int = 8) -> Array:
        return self.random.choice(KEYS, self.random.integers(0, n_max + 1))

    def write(self, kind: str, keys: Array) -> None:
        values = None if kind == "remove" else self.values(len(keys))
        code, detail = self.shard.apply(kind, keys, values)
        assert code == CODE_OK
        self.written.update(keys.tolist())
        self.n_removed += detail if kind == "remove" else 0

    def push(self) -> None:
        self.write("push", self.some_keys(40))

    def assign(self) -> None:
        self.write("assign", self.some_keys())

    def remove(self) -> None:
        self.write("remove", self.some_keys(3))

    def replace(self) -> None:
        """Rows that go and come again at once, so that others get their places."""
        keys = self.some_keys(4)
        self.write("remove", keys)
        self.write("push", keys[::-1].copy())

    def grow(self) -> None:
        self.write("push", np.arange(self.fresh, self.fresh + 150, dtype=np.uint64))
        self.fresh += 150

    def shrink(self) -> None:
        """So many removals that they are not listed."""
        keys = np.arange(1 << 32, self.fresh, dtype=np.uint64)
        if len(keys) > 600:
            self.write("remove", keys)
            self.write("push", keys[:1200])
            self.write("remove", keys[:1200])

    def begin(self) -> None:
        self.drop_model()
        parent = self.counted_from
        if self.random.random() < 0.2:
            parent = int(self.random.integers(0, self.n_cuts + 1))
        self.n_cuts += 1
        state = rows_of(self.shard)
        code, is_full, n_rows, index = self.shard.begin_cut(self.n_cuts, parent)
        assert (code, n_rows, index) == (CODE_OK, len(state), self.shard.figures()[2])
        if parent == 0 or parent != self.counted_from:
            assert is_full
        elif self.n_removed <= 1024:
            assert not is_full
            assert parent in self.states
        self.cut = Cut(self.n_cuts, parent, is_full, state)
        self.before_cut = (self.counted_from, self.written, self.n_removed)
        self.counted_from, self.written, self.n_removed = self.n_cuts, set(), 0

    def read(self) -> None:
        if self.cut is None:
            return
        n_max = int(self.random.choice([1, 2, 5, 17, 100, 1000]))
        now = rows_of(self.shard)
        slice_ = self.shard.read_cut(self.cut.number, n_max)
        assert len(slice_[0]) <= n_max
        self.cut.take(slice_, now)
        self.is_read = True
        if self.cut.finished:
            self.check()

    def check(self) -> None:
        cut, self.cut = self.cut, None
        assert cut is not None
        assert self.shard.read_cut(cut.number, 1) is None
        self.states[cut.number] = cut.state
        self.n_naive += cut.naive != {k: v for k, v in cut.rows.items() if k in cut.naive}
        if cut.is_full:
            assert not cut.removed
            assert cut.rows == cut.state
            self.made[cut.number] = cut.rows
            return
        self.n_increments += 1
        written = self.before_cut[1]
        assert cut.rows.keys() <= written, "only what was written since the parent"
        assert set(cut.removed) <= written
        assert cut.removed == sorted(set(cut.removed))
        self.made[cut.number] = cut.on(self.made[cut.parent])
        assert self.made[cut.number] == cut.state

    def drop(self) -> None:
        if self.cut is not None:
            self.shard.drop_cut(self.cut.number + 1)  # another: no effect
            self.shard.drop_cut(self.cut.number)
            assert self.shard.read_cut(self.cut.number, 1) is None
            self.drop_model()

    def drop_model(self) -> None:
        """The cut under way is over, read in part or not at all."""
        if self.cut is None:
            return
        if getattr(self, "is_read", False):
            self.counted_from = 0
        else:
            counted_from, written, n_removed = self.before_cut
            self.counted_from = counted_from
            self.written |= written
            self.n_removed += n_removed
        self.cut = None

    ACTIONS = ("push", "assign", "remove", "replace", "grow", "shrink", "begin", "read", "drop")
    WEIGHTS = (6, 2, 3, 1, 0.3, 0.3, 1.5, 9, 0.2)

    def play(self, n_steps: int) -> None:
        weights = np.array(self.WEIGHTS) / sum(self.WEIGHTS)
        for action in self.random.choice(self.ACTIONS, n_steps, p=weights):
            if action == "begin":
                begins = self.cut is None or self.random.random() < 0.1
                if not begins:
                    continue
            getattr(self, str(action))()
            if action == "begin":
                self.is_read = False


@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=st.integers(0, 2**32), n_steps=st.integers(1, 150))
@settings(max_examples=60, deadline=None)
def test_a_cut_is_the_state_at_its_beginning(layout: str, seed: int, n_steps: int) -> None:
    Story(layout, seed).play(n_steps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stories_would_show_missing_before_images(layout: str) -> None:
    """Rows as they are when they are read make another state, and often."""
    story = Story(layout, seed=5)
    story.play(3000)
    assert story.n_cuts > 50
    assert story.n_increments > 20
    assert story.n_naive > 10


def read_all(shard: Any, number: int, n_max: int = 1000) -> tuple[Rows, list[int]]:
    rows: Rows = {}
    while True:
        keys, values, removed, _, _, finished = shard.read_cut(number, n_max)
        parts = values.reshape(len(keys), -1) if len(keys) else []
        rows |= {k: v.tobytes() for k, v in zip(keys.tolist(), parts, strict=True)}
        if finished:
            return rows, removed.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_marks_stay_with_their_keys_when_the_index_grows_and_shrinks(layout: str) -> None:
    shard, width = new_sparse(layout), LAYOUTS[layout][0]

    def push(keys: Array) -> None:
        assert shard.apply("push", keys, np.ones(len(keys) * width, np.float32))[0] == CODE_OK

    crowd = uint64s(key_with_home(7, i) for i in range(40))
    push(crowd)
    shard.begin_cut(1)
    assert len(read_all(shard, 1)[0]) == 40
    push(crowd[30:33])  # some buckets further
    shard.apply("remove", crowd[:20], None)  # these move back
    assert shard.begin_cut(2, 1)[1] is False
    rows, removed = read_all(shard, 2)
    assert set(rows) == set(crowd[30:33].tolist())
    assert removed == sorted(crowd[:20].tolist())
    push(crowd[25:27])
    push(uint64s(range(5000)))
    shard.apply("remove", uint64s(range(900)), None)
    assert shard.begin_cut(3, 2)[1] is False
    rows, removed = read_all(shard, 3)
    assert set(rows) == {*crowd[25:27].tolist(), *range(900, 5000)}
    assert removed == list(range(900))
    assert shard.begin_cut(4, 3)[1] is False
    assert read_all(shard, 4) == ({}, [])


def test_many_removals_make_the_next_cut_full() -> None:
    shard = new_sparse("floats")
    for n_keys, n_listed in ((2000, 1024), (10_000, 4000)):
        shard.apply("push", uint64s(range(n_keys)), np.ones(n_keys, np.float32))
        shard.begin_cut(1)
        read_all(shard, 1)
        shard.apply("remove", uint64s(range(n_listed // 2)), None)
        assert shard.begin_cut(2, 1)[1] is False
        assert read_all(shard, 2)[1] == list(range(n_listed // 2))
        shard.apply("push", uint64s(range(n_keys)), np.ones(n_keys, np.float32))
        shard.begin_cut(3)
        read_all(shard, 3)
        shard.apply("remove", uint64s(range(n_keys - 400)), None)
        assert shard.begin_cut(4, 3)[1] is True
        assert set(read_all(shard, 4)[0]) == set(range(n_keys - 400, n_keys))
        assert shard.begin_cut(5, 4)[1] is False
        assert read_all(shard, 5) == ({}, [])


def test_an_unread_cut_that_is_dropped_leaves_no_trace() -> None:
    shard = new_sparse("floats")
    shard.apply("push", uint64s(range(10)), np.ones(10, np.float32))
    shard.begin_cut(1)
    read_all(shard, 1)
    shard.apply("push", uint64s([3]), floats([1]))
    shard.apply("remove", uint64s([4]), None)
    assert shard.begin_cut(2, 1)[1] is False
    shard.apply("push", uint64s([5]), floats([1]))
    shard.apply("remove", uint64s([6]), None)
    shard.drop_cut(2)
    assert shard.begin_cut(3, 2)[1] is True, "nobody can build on a cut that was dropped"
    assert shard.begin_cut(4, 1)[1] is False
    rows, removed = read_all(shard, 4)
    assert (set(rows), removed) == ({3, 5}, [4, 6])


def test_memory_of_a_cut_goes_with_it() -> None:
    shard = new_sparse("rows with slots")
    n = 20_000
    shard.apply("push", uint64s(range(n)), np.ones(n * 3, np.float32))
    before = shard.figures()[1]
    shard.begin_cut(1)
    shard.apply("push", uint64s(range(n)), np.ones(n * 3, np.float32))
    during = shard.figures()[1]
    assert during > before + n * row_floats("rows with slots") * 4
    read_all(shard, 1)
    assert shard.figures()[1] - before < 64 << 10, "one bit a row"


# ---- Dense shards

RULES = [SGD(lr=0.5), Momentum(lr=0.5), Adam(lr=0.5), FTRL()]
EDGES = (8, 9, 12, 15, 16)  # of rows, in the block that new_dense makes


def new_dense(optimizer: Optimizer, shard: int = 1, **fields: Any) -> Any:
    options = {"n_rows": 10, "row_width": 3, "num_shards": 4, "initializer": UNIFORM} | fields
    return _core_test.Shard(table("dense", optimizer, **options), shard)


@pytest.mark.parametrize("optimizer", RULES, ids=lambda each: type(each).__name__)
def test_a_dense_block_is_cut_at_once(optimizer: Optimizer) -> None:
    shard = new_dense(optimizer)

    def push() -> None:
        shard.apply("push", uint64s([8, 16]), floats(range(1, 9)))

    push()
    assert shard.begin_cut(1)[:3] == (CODE_OK, True, shard.figures()[0])
    image = shard.image()[1]
    push()
    shard.apply("assign", uint64s([9, 12]), floats([7, 7, 7]))
    _, _, _, block, arrays, finished = shard.read_cut(1, 1)
    assert (block, finished, len(arrays)) == ((8, 16), True, 5)
    assert b"".join(a.tobytes() for a in arrays) == image[HEADER.size + 8 + 16 : -8]
    assert len(arrays[0]) == 8
    assert shard.read_cut(1, 1) is None

    assert shard.begin_cut(2, 1)[1] is True, "it was pushed to since"
    shard.drop_cut(2)
    assert shard.begin_cut(3, 1)[1] is True, "as if 2 had not begun"
    assert shard.read_cut(3, 1)[3] == (8, 16)
    shard.apply("set_lr", NONE, floats([0.25]))
    assert shard.begin_cut(4, 3)[1] is False
    _, _, _, block, arrays, finished = shard.read_cut(4, 1)
    assert (block, finished) == ((8, 8), True)
    assert [len(a) for a in arrays] == [0] * 5
    assert shard.begin_cut(5, 3)[1] is True, "3 is not the last"


def block_of(shard: Any) -> bytes:
    """All arrays of a shard without sessions."""
    image: bytes = shard.image()[1]
    return image[HEADER.size + 8 + 16 : -8]


class DenseStory:
    """Random writes to a dense shard and cuts of it, each checked when it is read."""

    def __init__(self, optimizer: Optimizer, seed: int) -> None:
        self.shard, self.random = new_dense(optimizer), np.random.default_rng(seed)
        self.cut: tuple[int, bool, bytes] | None = None  # number, whether it is of all, content
        self.n_cuts = self.n_late = 0
        self.counted_from, self.is_changed = 0, True
        self.before_cut = (0, True)

    def write(self, kind: str) -> None:
        begin, end = np.sort(self.random.choice(EDGES, 2, replace=False))
        values = self.random.normal(size=end - begin).astype(np.float32)
        assert self.shard.apply(kind, uint64s([begin, end]), values)[0] == CODE_OK
        self.is_changed = True

    def push(self) -> None:
        self.write("push")

    def assign(self) -> None:
        self.write("assign")

    def set_lr(self) -> None:
        self.shard.apply("set_lr", NONE, floats([self.random.random() + 0.1]))

    def begin(self) -> None:
        self.end_unread()
        self.n_cuts += 1
        parent = int(self.random.choice([0, self.counted_from, self.counted_from]))
        is_full = parent == 0 or self.is_changed
        n_bytes = self.shard.figures()[1]
        code, is_of_all, _, _ = self.shard.begin_cut(self.n_cuts, parent)
        assert (code, is_of_all) == (CODE_OK, is_full)
        assert self.shard.figures()[1] <= n_bytes, "nothing is copied yet"
        self.cut = (self.n_cuts, is_full, block_of(self.shard) if is_full else b"")
        self.before_cut = (self.counted_from, self.is_changed)
        self.counted_from, self.is_changed = self.n_cuts, False

    def read(self) -> None:
        if self.cut is None:
            return
        (number, is_full, content), self.cut = self.cut, None
        _, _, _, block, arrays, finished = self.shard.read_cut(number, 1)
        assert (block, finished) == ((8, 16 if is_full else 8), True)
        assert b"".join(each.tobytes() for each in arrays) == content
        self.n_late += is_full and content != block_of(self.shard)
        assert self.shard.read_cut(number, 1) is None

    def drop(self) -> None:
        if self.cut is not None:
            self.shard.drop_cut(self.cut[0])
            assert self.shard.read_cut(self.cut[0], 1) is None
        self.end_unread()

    def end_unread(self) -> None:
        if self.cut is not None:
            self.counted_from, was_changed = self.before_cut
            self.is_changed |= was_changed
        self.cut = None

    def play(self, n_steps: int) -> None:
        actions = ("push", "assign", "set_lr", "begin", "read", "drop")
        for action in self.random.choice(actions, n_steps, p=(0.2, 0.1, 0.1, 0.25, 0.25, 0.1)):
            getattr(self, str(action))()


@pytest.mark.parametrize("optimizer", RULES, ids=lambda each: type(each).__name__)
@given(seed=st.integers(0, 2**32), n_steps=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_dense_cut_is_the_block_at_its_beginning(
    optimizer: Optimizer, seed: int, n_steps: int
) -> None:
    DenseStory(optimizer, seed).play(n_steps)


def test_the_dense_stories_write_between_beginning_and_reading() -> None:
    story = DenseStory(Adam(lr=0.5), seed=3)
    story.play(1000)
    assert story.n_cuts > 100
    assert story.n_late > 20


def test_a_fold_after_the_beginning_is_not_in_a_dense_cut() -> None:
    shard = new_dense(SGD(lr=1.0), rounds=(0, 4))
    before = shard.pull(uint64s([8, 16]), None).copy()
    for session in (1, 2):
        shard.apply(
            "push", uint64s([8, 16]), np.ones(8, np.float32), session=session, sequence=1, step=4
        )
    assert shard.begin_cut(1, 0, 4)[0] == CODE_OK
    shard.close_round(4, [1, 2])
    shard.fold_closed()
    assert shard.read_cut(1, 1)[4][0].tobytes() == before.tobytes()
    assert shard.begin_cut(2, 1, 5)[:2] == (CODE_OK, True)
    assert shard.read_cut(2, 1)[4][0].tolist() == (before - 2).tolist()


def test_a_dense_block_is_copied_by_the_first_write_alone() -> None:
    n = 1 << 16
    shard = new_dense(Momentum(lr=0.5), 0, n_rows=n, row_width=1, num_shards=1)
    all_of_it = uint64s([0, n])
    before = shard.figures()[1]
    shard.begin_cut(1)
    assert shard.figures()[1] == before
    for _ in range(2):
        shard.apply("push", all_of_it, np.ones(n, np.float32))
        assert shard.figures()[1] == before + 2 * 4 * n
    shard.read_cut(1, 1)
    assert shard.figures()[1] == before
    shard.begin_cut(2)
    shard.read_cut(2, 1)
    shard.apply("push", all_of_it, np.ones(n, np.float32))
    assert shard.figures()[1] == before, "no cut is under way"


@pytest.mark.parametrize("optimizer", [SGD(lr=0.5), Adam(lr=0.5)])
def test_dense_arrays_are_loaded_in_pieces(optimizer: Optimizer) -> None:
    shard, copy = new_dense(optimizer), new_dense(optimizer, initializer=(1, 0, 0.0, 0.0))
    shard.apply("push", uint64s([8, 16]), floats(range(1, 9)))
    shard.begin_cut(1)
    _, _, _, (begin, _), arrays, _ = shard.read_cut(1, 1)
    for number, array in enumerate(arrays):
        first = begin if number < 3 else begin // 3
        for i in range(0, len(array), 2):
            assert copy.load_block(number, first + i, array[i : i + 2].copy()) == CODE_OK
        assert copy.load_block(number, first + len(array), floats([])) == CODE_OK
        for at, n in ((first - 1, 1), (first, len(array) + 1), (first + len(array), 1)):
            assert copy.load_block(number, at, np.zeros(n, np.float32)) == CODE_CONFIG
        assert copy.load_block(number, 2**64 - 1, np.zeros(2, np.float32)) == CODE_CONFIG
    assert copy.load_block(5, begin, floats([1])) == CODE_CONFIG
    assert copy.load_rows(uint64s([1]), np.zeros(1, np.float32)) == CODE_CONFIG
    assert copy.load_removed(uint64s([1])) == CODE_CONFIG
    assert copy.finish_load(rule_constants(optimizer)) == CODE_OK
    assert copy.digest() == shard.digest()


def rule_constants(optimizer: Optimizer, **changed: float) -> list[float]:
    constants = list(table("sparse", optimizer)["rule"][1])
    return [changed.get("lr", constants[0]), *constants[1:]] if constants else []


# ---- Loading


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cuts_that_are_loaded_make_the_same_shard(layout: str) -> None:
    story = Story(layout, seed=8)
    story.play(300)
    story.drop()
    shard, optimizer = story.shard, LAYOUTS[layout][1]
    size = row_floats(layout)

    def as_floats(rows: Rows) -> Array:
        return np.frombuffer(b"".join(rows.values()), np.float32)

    shard.begin_cut(1001)
    base, _ = read_all(shard, 1001)
    story.push()
    story.replace()
    story.remove()
    assert shard.begin_cut(1002, 1001)[1] is False
    rows, removed = read_all(shard, 1002)
    copy = new_sparse(layout)
    for _ in range(2):  # a restore that was tried again
        assert copy.load_rows(uint64s(base), as_floats(base)) == CODE_OK
        assert copy.load_removed(uint64s(removed)) == CODE_OK
        assert copy.load_rows(uint64s(rows), as_floats(rows)) == CODE_OK
    assert copy.figures()[2] == 0
    assert copy.finish_load(rule_constants(optimizer)) == CODE_OK
    assert copy.figures()[2] == 1
    assert rows_of(copy) == rows_of(shard)
    assert copy.digest() == shard.digest()
    copy.begin_cut(7)
    assert read_all(copy, 7)[0] == rows_of(shard)
    # It has an entry now.
    assert copy.load_rows(uint64s([1]), np.zeros(size, np.float32)) == CODE_CONFIG
    assert copy.load_removed(uint64s([1])) == CODE_CONFIG
    assert copy.finish_load(rule_constants(optimizer)) == CODE_CONFIG


def test_loading_takes_a_rate_and_no_other_constant() -> None:
    constants = rule_constants(Adam(lr=0.1), lr=0.25)
    shard = new_sparse("rows with slots")
    n_floats = row_floats("rows with slots")
    assert shard.load_rows(uint64s([1]), np.zeros(n_floats - 1, np.float32)) == CODE_CONFIG
    assert shard.load_rows(uint64s([1, 2]), np.zeros(n_floats, np.float32)) == CODE_CONFIG
    assert shard.load_block(0, 0, floats([1])) == CODE_CONFIG
    for wrong in ([], [*constants[:-1], 0.3], [np.nan, *constants[1:]], [*constants, *[0] * 9]):
        assert shard.finish_load(wrong) == CODE_CONFIG
    assert shard.finish_load([*constants, *[0] * (8 - len(constants))]) == CODE_OK
    other = new_sparse("rows with slots")
    for each in (shard, other):
        each.apply("set_lr", NONE, floats([0.25]))
        each.apply("push", uint64s([3]), floats([1, 2, 3]))
    assert shard.digest() == other.digest()


def test_a_load_ends_cuts_and_counting() -> None:
    shard = new_sparse("floats")
    shard.begin_cut(1)
    read_all(shard, 1)
    shard.begin_cut(2, 1)
    shard.load_rows(uint64s([1]), floats([1]))
    assert shard.read_cut(2, 1) is None
    assert shard.begin_cut(3, 1)[1] is True


# ---- Rounds, entries


def test_a_cut_waits_for_its_round_and_leaves_open_ones_out() -> None:
    shard = new_sparse("floats", rounds=(0, 4))

    def push(step: int) -> None:
        shard.apply("push", uint64s([7]), floats([1]), session=1, sequence=step - 3, step=step)

    push(4)
    assert shard.begin_cut(1, 0, 5)[0] == CODE_RETRY
    assert shard.begin_cut(1, 0, 3)[0] == CODE_CONFIG
    shard.close_round(4, [1])
    push(5)
    assert shard.begin_cut(1, 0, 5)[0] == CODE_OK
    shard.close_round(5, [1])
    shard.fold_closed()
    assert shard.rounds()[0] == 6
    begun = initial_of(7) + np.float32(1)
    assert read_all(shard, 1)[0] == {7: begun.tobytes()}
    assert shard.begin_cut(2, 1, 5)[0] == CODE_CONFIG, "the round was folded too early"
    assert shard.begin_cut(2, 1, None)[1] is False
    assert read_all(shard, 2)[0] == {7: (begun + np.float32(1)).tobytes()}
    assert new_sparse("floats").begin_cut(1, 0, 0)[0] == CODE_CONFIG


def initial_of(key: int) -> np.float32:
    value: np.float32 = new_sparse("floats").pull(uint64s([key]), None)[0]
    return value


@pytest.mark.parametrize("layout", ["floats", "rows with slots"])
def test_a_replica_is_cut_like_the_head(layout: str) -> None:
    head, tail = new_sparse(layout), new_sparse(layout)
    head.set_leads(True, True)
    tail.set_leads(False, False)
    random = np.random.default_rng(3)
    width = LAYOUTS[layout][0]
    expected: dict[int, Rows] = {}
    for i in range(200):
        if i % 20 == 0:
            expected = {i + 1: rows_of(tail)}
            assert head.begin_cut(i + 1)[1:] == tail.begin_cut(i + 1)[1:]
        if i % 20 == 19:
            for shard in (head, tail):
                assert read_all(shard, i - 18, 7)[0] == expected[i - 18]
        kind = str(random.choice(["push", "push", "assign", "remove"]))
        keys = random.choice(KEYS, 9)
        values = None if kind == "remove" else random.normal(size=9 * width).astype(np.float32)
        entry = head.take(kind, keys, values)[4]
        assert tail.apply_entry(*entry) == "applied"
    assert head.digest() == tail.digest()


def test_an_image_is_taken_by_a_shard_that_was_cut_before() -> None:
    """A server that comes back into a chain starts from an image, and counts from nothing."""
    story = Story("rows", seed=2)
    story.play(60)
    joiner = new_sparse("rows")
    joiner.begin_cut(1)
    read_all(joiner, 1)
    joiner.begin_cut(2, 1)
    assert joiner.load_image(story.shard.image()[1])[0] == CODE_OK
    assert joiner.read_cut(2, 1) is None
    assert joiner.begin_cut(3, 1)[1] is True
    assert read_all(joiner, 3)[0] == rows_of(story.shard)
