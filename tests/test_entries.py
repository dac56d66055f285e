"""Replicas of one shard: fed with the head's entries, or made from an image, they are the same.

A history is random writes of several sessions to a head: of every kind, refused, late, repeated and
with gaps. Replicas get the entries and the closed rounds some time later.
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
    """A shard and how many closed rounds and entries it got."""

    def __init__(self, shard: Any, heard: int = 0) -> None:
        self.shard = shard
        self.heard = heard

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
        self.head = Replica(new_shard(layout, optimizer, bsp))
        self.replicas = [Replica(new_shard(layout, optimizer, bsp)) for _ in range(2)]
        self.log: list[Entry] = []
        self.last = dict.fromkeys(SESSIONS, 0)
        self.clock = dict.fromkeys(SESSIONS, 0)
        # Of each closed round its members, and the entry that a replica has before it hears of it:
        # a member's pushes are acknowledged before it ends a step, and so are other writes.
        self.rounds: list[tuple[list[int], int]] = []
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
        if kind != "push" and self.head.heard < len(self.rounds):
            return  # see `rounds`: nobody's clock is behind a round that the head did not hear of
        # Mostly the next; else repeated, or too early.
        offset = int(self.random.choice([1, 1, 1, 1, 1, 1, 0, -1, 2]))
        sequence = max(1, self.last[session] + offset)
        if self.random.random() < 0.05:
            sequence = 0  # in-process
        selection, values = self.content(kind)
        step = self.step_of(session, kind)
        before = self.head.index
        code, detail, index, is_entry, _, entry = self.head.shard.take(
            kind, selection, values, session, sequence, step
        )
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
        needed = [
            entry[0]
            for entry in self.log
            if entry[4] == CODE_OK and (entry[3] != "push" or entry[1] in members)
        ]
        self.rounds.append((members, max(needed, default=0)))

    # ---- What comes to the replicas

    def hear(self, replica: Replica) -> bool:
        """One more closed round, unless that must wait."""
        if replica.heard == len(self.rounds):
            return False
        members, needed = self.rounds[replica.heard]
        if replica.index < needed:
            return False
        replica.shard.close_round(replica.heard, members)
        replica.heard += 1
        if self.random.random() < 0.5:
            replica.shard.fold_closed()
        return True

    def feed(self, replica: Replica) -> bool:
        """The next entry, and sometimes another; whether it was applied."""
        index = replica.index
        if index > 0 and self.random.random() < 0.2:
            old = int(self.random.integers(index))
            assert replica.shard.apply_entry(*self.log[old]) == "old"
        if index + 1 < len(self.log) and self.random.random() < 0.2:
            early = int(self.random.integers(index + 1, len(self.log)))
            assert replica.shard.apply_entry(*self.log[early]) == "gap"
        if index == len(self.log):
            return False
        fate = replica.shard.apply_entry(*self.log[index])
        self.seen[fate] += 1
        assert fate in ("applied", "not yet")
        assert replica.index == index + (fate == "applied")
        return bool(fate == "applied")

    def new_from_image(self, source: Replica) -> None:
        index, image = source.shard.image()
        assert index == source.index
        replica = Replica(new_shard(self.layout, self.optimizer, self.bsp))
        assert replica.shard.load_image(image) == (CODE_OK, "")
        replica.heard = replica.shard.rounds()[0]
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
                self.hear(self.head)
            elif what < 0.98:
                replica = self.replicas[self.random.integers(len(self.replicas))]
                if not self.hear(replica) or self.random.random() < 0.5:
                    self.feed(replica)
            elif len(self.replicas) < 6:
                everybody = [self.head, *self.replicas]
                self.new_from_image(everybody[self.random.integers(len(everybody))])

    def settle(self) -> None:
        for replica in [self.head, *self.replicas]:
            while self.hear(replica) or (replica is not self.head and self.feed(replica)):
                pass
            replica.shard.fold_closed()
        for replica in self.replicas:
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
    for case in ["remove 0", "set_lr 0", f"set_lr {CODE_CONFIG}", "late", "no entry", "not yet"]:
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
    key, before = uint64s([7]), shard.digest()
    for kind in ("push", "assign"):
        assert shard.apply_entry(*entry(1, kind, [7], [1])) == "malformed"
    assert shard.apply_entry(*entry(1, "push", [], [], detail=2, step=0)) == "malformed"
    assert shard.digest() == before
    # The head is three rounds further.
    assert shard.apply_entry(*entry(1, "push", [7], [1], step=4)) == "applied"
    assert shard.apply_entry(*entry(2, "assign", [7], [8], step=3)) == "not yet"
    assert shard.apply_entry(*entry(2, "assign", [7], [8], step=3)) == "not yet"
    for number in range(3):
        shard.close_round(number, [])
    assert shard.apply_entry(*entry(2, "assign", [7], [8], step=3)) == "applied"
    # Refused ones wait for nothing, and a session may be refused for having no step.
    assert shard.apply_entry(*entry(3, "assign", [], [], code=CODE_CONFIG)) == "applied"
    assert shard.apply_entry(*entry(4, "set_lr", [], [], code=CODE_CONFIG, step=9)) == "applied"
    assert shard.apply_entry(*entry(5, "push", [], [], detail=1, step=2)) == "applied"
    # Folded here, not yet at the head.
    assert shard.apply_entry(*entry(6, "push", [7], [1], step=2)) == "applied"
    assert shard.rounds() == (3, 1)
    shard.close_round(3, [1])
    shard.close_round(4, [1])
    assert shard.pull(key, step=5) == [7]


def test_an_entry_tells_what_was_folded_before_it() -> None:
    """A worker that is behind assigns after rounds that its step does not wait for."""
    head, replica = (new_shard("sparse floats", SGD(lr=1.0), True) for _ in range(2))
    key, log = uint64s([7]), []
    log.append(head.take("assign", key, floats([8]), 2, 1, 0)[5])
    log.append(head.take("push", key, floats([1]), 1, 1, 0)[5])
    head.close_round(0, [1])
    code, _, _, _, folded, assign = head.take("assign", key, floats([5]), 2, 2, 0)
    assert (code, folded) == (CODE_OK, 1)
    assert [replica.apply_entry(*each) for each in log] == ["applied"] * 2
    assert replica.apply_entry(*assign) == "not yet"
    replica.close_round(0, [1])
    assert replica.apply_entry(*assign) == "applied"
    assert replica.pull(key) == head.pull(key) == [5]
    assert replica.digest() == head.digest()
