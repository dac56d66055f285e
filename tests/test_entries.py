"""Replicas of one shard: fed with the head's entries, or made from an image, they are the same.

A history is random writes of several sessions to a head: of every kind, refused, late, repeated and
with gaps, and rounds that the head folds. Replicas get all of these as entries, some time later.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from fastps.optimizers import FTRL, SGD, Accumulate, AdaGrad, Adam, Momentum, Optimizer, RMSProp
from test_store import (
    CODE_CONFIG,
    CODE_GAP,
    CODE_OK,
    CODE_SHAPE,
    CODE_VALUE,
    UNIFORM,
    Array,
    floats,
    table,
    uint64s,
)

CODE_RETRY = 1
NONE = uint64s([])
OPTIMIZERS = [
    Accumulate(),
    SGD(lr=0.5),
    Momentum(lr=0.1),
    AdaGrad(lr=0.1),
    RMSProp(lr=0.1),
    Adam(lr=0.1),
    FTRL(),
]
# Of rows of 3 floats in blocks of 8: shard 1 holds parts of two rows and two whole rows.
BLOCK_EDGES = [8, 9, 12, 15, 16]
LAYOUTS = ["sparse floats", "sparse rows", "dense"]
SESSIONS = [1, 2, 3]
Entry = tuple[Any, ...]


def new_shard(layout: str, optimizer: Optimizer, bsp: bool) -> Any:
    fields: dict[str, Any] = {"rounds": (0, 0)} if bsp else {}
    if layout == "dense":
        fields |= {"n_rows": 10, "row_width": 3, "num_shards": 4}
        return _core_test.Shard(table("dense", optimizer, initializer=UNIFORM, **fields), 1)
    width = 1 if layout == "sparse floats" else 3
    return _core_test.Shard(
        table("sparse", optimizer, initializer=UNIFORM, row_width=width, **fields), 0
    )


class Replica:
    """A shard of a chain."""

    def __init__(self, shard: Any, leads: bool = False) -> None:
        self.shard = shard
        shard.set_leads(leads, leads)

    def apply(self, entry: Entry) -> str:
        apply = self.shard.apply_fold if len(entry) == 3 else self.shard.apply_entry
        return str(apply(*entry))

    @property
    def index(self) -> int:
        return int(self.shard.figures()[2])

    def state(self) -> tuple[Any, ...]:
        return self.index, self.shard.rounds(), self.shard.digest()


class History:
    """Writes to a head, and replicas that follow."""

    def __init__(self, layout: str, optimizer: Optimizer, bsp: bool, seed: int) -> None:
        self.layout, self.optimizer, self.bsp = layout, optimizer, bsp
        self.random = np.random.default_rng(seed)
        self.head = Replica(new_shard(layout, optimizer, bsp), leads=True)
        self.replicas = [Replica(new_shard(layout, optimizer, bsp)) for _ in range(2)]
        self.log: list[Entry] = []
        self.last = dict.fromkeys(SESSIONS, 0)
        self.clock = dict.fromkeys(SESSIONS, 0)
        self.rounds: list[list[int]] = []  # of each closed round its members
        self.heard = 0  # so many the head was told
        self.seen: Counter[str] = Counter()

    # ---- What comes to the head

    def selection(self) -> tuple[Array, int]:
        """Some elements, some twice, and how many floats they are."""
        if self.layout == "dense":
            edges = [sorted(self.random.choice(BLOCK_EDGES, 2)) for _ in range(2)]
            return uint64s(np.ravel(edges)), int(sum(end - begin for begin, end in edges))
        keys = self.random.integers(0, 12, self.random.integers(0, 9))
        return uint64s(keys), len(keys) * (1 if self.layout == "sparse floats" else 3)

    def content(self, kind: str) -> tuple[Array, Array | None]:
        if kind == "set_lr":
            return NONE, floats([self.random.choice([0.25, 0.5, -1.0, np.nan])])
        selection, n_floats = self.selection()
        values = self.random.normal(size=n_floats).astype(np.float32)
        if self.random.random() < 0.1:  # does not fit
            values = np.append(values, np.float32(1))
        elif n_floats > 0 and self.random.random() < 0.1:
            values[0] = np.inf
        return selection, None if kind == "remove" else values

    def step_of(self, session: int, kind: str) -> int | None:
        if not self.bsp or self.random.random() < 0.05:
            return None
        if kind == "push":
            return int(self.random.integers(self.clock[session], len(self.rounds) + 3))
        return int(self.random.integers(0, len(self.rounds) + 2))

    def write(self) -> None:
        session = int(self.random.choice(SESSIONS))
        kind = str(self.random.choice(["push"] * 5 + ["assign", "remove", "set_lr"]))
        # Mostly the next; else repeated, or too early.
        offset = int(self.random.choice([1, 1, 1, 1, 1, 1, 0, -1, 2]))
        sequence = max(1, self.last[session] + offset)
        if self.random.random() < 0.05:
            sequence = 0  # in-process
        selection, values = self.content(kind)
        step = self.step_of(session, kind)
        before = self.head.index
        code, detail, index, is_entry, entry = self.head.shard.take(
            kind, selection, values, session, sequence, step
        )
        before += self.log_folds()
        is_next = sequence in (0, self.last[session] + 1)
        assert is_entry == (is_next and code != CODE_RETRY)
        assert index == before + is_entry == self.head.index
        if code == CODE_GAP:
            assert detail == self.last[session] + 1
        self.seen[f"{kind} {code}"] += is_entry
        self.seen["late"] += is_entry and kind == "push" and detail == 1
        if not is_entry:
            assert entry is None
            self.seen["no entry"] += 1
            return
        assert entry[:6] == (index, session, sequence, kind, code, detail)
        self.log.append(entry)
        if sequence > 0:
            self.last[session] = sequence

    def close_round(self) -> None:
        number = len(self.rounds)
        members = [s for s in SESSIONS if self.random.random() < 0.7]
        self.random.shuffle(members)
        for session in members:
            self.clock[session] = number + 1
        self.rounds.append(members)

    def hear(self) -> None:
        """The head is told of one more closed round."""
        if self.heard == len(self.rounds):
            return
        self.head.shard.close_round(self.heard, self.rounds[self.heard])
        self.heard += 1
        if self.random.random() < 0.5:
            self.head.shard.fold_closed()
            self.log_folds()

    def log_folds(self) -> int:
        folds = self.head.shard.take_folds()
        self.log += folds
        self.seen["fold"] += len(folds)
        return len(folds)

    # ---- What comes to the replicas

    def feed(self, replica: Replica) -> bool:
        """The next entry, and sometimes another; whether it was applied."""
        index = replica.index
        if index > 0 and self.random.random() < 0.2:
            old = int(self.random.integers(index))
            assert replica.apply(self.log[old]) == "old"
        if index + 1 < len(self.log) and self.random.random() < 0.2:
            early = int(self.random.integers(index + 1, len(self.log)))
            assert replica.apply(self.log[early]) == "gap"
        if index == len(self.log):
            return False
        assert replica.apply(self.log[index]) == "applied"
        assert replica.index == index + 1
        return True

    def new_from_image(self, source: Replica) -> None:
        index, image = source.shard.image()
        assert index == source.index
        replica = Replica(new_shard(self.layout, self.optimizer, self.bsp))
        assert replica.shard.load_image(image) == (CODE_OK, "")
        assert replica.state() == source.state()
        assert len(replica.shard.image()[1]) == len(image)
        self.replicas.append(replica)

    # ----

    def play(self, n_steps: int) -> None:
        for _ in range(n_steps):
            what = self.random.random()
            if what < 0.45:
                self.write()
            elif what < 0.52 and self.bsp:
                self.close_round()
            elif what < 0.6:
                self.hear()
            elif what < 0.98:
                self.feed(self.replicas[self.random.integers(len(self.replicas))])
            elif len(self.replicas) < 6:
                everybody = [self.head, *self.replicas]
                self.new_from_image(everybody[self.random.integers(len(everybody))])

    def settle(self) -> None:
        while self.heard < len(self.rounds):
            self.hear()
        self.head.shard.fold_closed()
        self.log_folds()
        for replica in self.replicas:
            while self.feed(replica):
                pass
            assert replica.state() == self.head.state()


@pytest.mark.parametrize("bsp", [False, True], ids=["asp", "bsp"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_replicas_are_the_same(optimizer: Optimizer, layout: str, bsp: bool, seed: int) -> None:
    history = History(layout, optimizer, bsp, seed)
    history.play(150)
    history.settle()
    history.new_from_image(history.head)
    head = history.head.shard
    for replica in history.replicas:
        # Whoever leads next answers repeats as the head did and reads as it does.
        for session, last in history.last.items():
            for sequence in range(max(1, last - 63), last + 1):
                expected = head.apply("remove", NONE, None, session, sequence)
                assert replica.shard.apply("remove", NONE, None, session, sequence) == expected
        if layout == "dense":
            everything = uint64s([8, 16])
        else:
            everything = uint64s(range(14))
            assert replica.shard.contains(everything).tolist() == head.contains(everything).tolist()
        assert replica.shard.pull(everything).tobytes() == head.pull(everything).tobytes()
        assert replica.shard.figures()[0] == head.figures()[0]


def test_histories_hold_everything() -> None:
    """What the test above is for does happen in it."""
    seen: Counter[str] = Counter()
    for seed in range(60):
        history = History("sparse rows", SGD(lr=0.5), True, seed)
        history.play(300)
        seen += history.seen
    codes = [CODE_OK, CODE_SHAPE, CODE_VALUE]
    for case in [f"{kind} {code}" for kind in ("push", "assign") for code in codes]:
        assert seen[case] > 0, case
    for case in ["remove 0", "set_lr 0", f"set_lr {CODE_CONFIG}", "late", "no entry", "fold"]:
        assert seen[case] > 0, case


def entry(index: int, kind: str, selection: Any, values: Any, **fields: Any) -> Entry:
    given = {"session": 1, "sequence": index, "code": CODE_OK, "detail": 0, "step": None} | fields
    return (
        index,
        given["session"],
        given["sequence"],
        kind,
        given["code"],
        given["detail"],
        given["step"],
        uint64s(selection),
        floats(values),
    )


def test_entries_come_once_and_in_order() -> None:
    shard = new_shard("sparse floats", Accumulate(), False)
    before = shard.pull(uint64s([7]))
    first, second, third = (entry(i, "push", [7], [1.0]) for i in (1, 2, 3))
    assert shard.apply_entry(*second) == "gap"
    assert shard.apply_entry(*first) == "applied"
    assert shard.apply_entry(*first) == "old"
    assert shard.apply_entry(*third) == "gap"
    assert shard.apply_entry(*entry(0, "push", [7], [1.0])) == "old"
    assert shard.apply_entry(*second) == "applied"
    assert shard.apply_entry(*second) == "old"
    assert shard.apply_entry(*third) == "applied"
    np.testing.assert_array_equal(shard.pull(uint64s([7])), before + 1 + 1 + 1)
    assert shard.figures()[2] == 3
    # It leads now: what was entries are repeats, the next write is new.
    assert shard.take("push", uint64s([7]), floats([1]), 1, 3)[:4] == (CODE_OK, 0, 3, False)
    assert shard.take("push", uint64s([7]), floats([1]), 1, 4)[:4] == (CODE_OK, 0, 4, True)


BAD_ENTRIES = {
    "too few values": ("sparse rows", entry(1, "push", [7, 8], [1, 2, 3])),
    "no values": ("sparse rows", entry(1, "assign", [7], [])),
    "not finite": ("sparse rows", entry(1, "push", [7], [1, 2, np.nan])),
    "out of the block": ("dense", entry(1, "push", [0, 3], [1, 2, 3])),
    "half a range": ("dense", entry(1, "push", [9], [1])),
    "backward": ("dense", entry(1, "assign", [12, 9], [])),
    "removal from a dense block": ("dense", entry(1, "remove", [9, 12], [])),
    "two rates": ("sparse rows", entry(1, "set_lr", [], [1, 2])),
    "a rate for a key": ("sparse rows", entry(1, "set_lr", [7], [1])),
    "an illegal rate": ("sparse rows", entry(1, "set_lr", [], [-1])),
    "a code that uses no sequence": ("sparse rows", entry(1, "push", [], [], code=CODE_RETRY)),
    "late without rounds": ("sparse rows", entry(1, "push", [], [], detail=1)),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_entries_of_another_shard_change_nothing(case: str) -> None:
    layout, bad = BAD_ENTRIES[case]
    shard = new_shard(layout, SGD(lr=1.0), False)
    before = shard.figures(), shard.digest()
    assert shard.apply_entry(*bad) == "malformed"
    assert (shard.figures(), shard.digest()) == before


def test_entries_skip_no_write_of_a_session() -> None:
    shard = new_shard("sparse floats", SGD(lr=1.0), False)
    # Of a session that was forgotten the first may have any number.
    assert shard.apply_entry(*entry(1, "push", [7], [1], sequence=5)) == "applied"
    for sequence in (4, 5, 7):
        assert shard.apply_entry(*entry(2, "push", [7], [1], sequence=sequence)) == "malformed"
    assert shard.apply_entry(*entry(2, "push", [7], [1], sequence=6)) == "applied"


def test_under_bsp_entries_have_steps() -> None:
    shard = new_shard("sparse floats", SGD(lr=1.0), True)
    before = shard.digest()
    for kind in ("push", "assign"):
        assert shard.apply_entry(*entry(1, kind, [7], [1])) == "malformed"
    assert shard.apply_entry(*entry(1, "push", [], [], detail=2, step=0)) == "malformed"
    assert shard.digest() == before
    # A session may be refused for having no step.
    assert shard.apply_entry(*entry(1, "assign", [], [], code=CODE_CONFIG)) == "applied"
    assert shard.apply_entry(*entry(2, "set_lr", [], [], code=CODE_CONFIG, step=9)) == "applied"


def test_folds_come_once_and_in_order() -> None:
    shard = new_shard("sparse floats", SGD(lr=1.0), True)
    shard.set_leads(False, False)
    before = shard.digest()
    assert shard.apply_fold(2, 0, []) == "gap"
    assert shard.apply_fold(1, 1, []) == "malformed"  # round 0 is first
    assert shard.digest() == before
    assert shard.apply_entry(*entry(1, "push", [7], [1], step=0)) == "applied"
    shard.close_round(0, [1])
    shard.fold_closed()
    assert shard.rounds() == (0, 0)  # the head says when
    assert shard.apply_fold(2, 0, [1]) == "applied"
    assert shard.apply_fold(2, 0, [1]) == "old"
    assert shard.rounds() == (1, 0)
    assert shard.apply_entry(*entry(3, "push", [], [], sequence=2, detail=1, step=0)) == "applied"
    assert shard.rounds() == (1, 1)
    assert _core_test.Shard(table("sparse", SGD(lr=1.0)), 0).apply_fold(1, 0, []) == "malformed"


def test_no_fold_overtakes_a_write_of_a_session_that_ended() -> None:
    """An assign of a worker that is no member of the round lies before the fold everywhere."""
    head, replica = (new_shard("sparse floats", SGD(lr=1.0), True) for _ in range(2))
    head.set_leads(True, True)
    replica.set_leads(False, False)
    key = uint64s([7])
    push = head.take("push", key, floats([1]), 1, 1, 0)[4]
    assign = head.take("assign", key, floats([8]), 2, 1, 0)[4]
    for shard in (head, replica):
        shard.close_round(0, [1])
        shard.fold_closed()
    (fold,) = head.take_folds()
    assert replica.apply_entry(*push) == "applied"
    assert replica.apply_fold(*fold) == "gap"
    assert replica.apply_entry(*assign) == "applied"
    assert replica.apply_fold(*fold) == "applied"
    assert replica.pull(key) == head.pull(key) == [7]
    assert replica.digest() == head.digest()
