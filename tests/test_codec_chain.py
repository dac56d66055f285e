"""Messages between the servers of a chain: round trips, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from wire_examples import (
    ENTRIES,
    EXAMPLES,
    FOLD,
    OPS,
    SLICE,
    WRITES,
    Frames,
    assert_same,
    chain_message,
    entry,
    floats,
    is_refused,
    mutations,
    uint64s,
)

KINDS = ("entries", "acks", "question", "slice", "progress")
TAGS = dict(zip(KINDS, (b"FPE1", b"FPA1", b"FPQ1", b"FPI1", b"FPJ1"), strict=True))
SINGLE = ("acks", "question", "progress")  # one frame

u8, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
flag = st.integers(0, 1)
boot_ids = st.binary(min_size=16, max_size=16)
STAMP = {
    "cluster_id": u64,
    "epoch": u32,
    "from": boot_ids,
    "to": boot_ids,
    "map_version": u64,
}


@st.composite
def entries(draw: Any) -> dict[str, Any]:
    all_ = []
    for _ in range(draw(st.integers(0, 6))):
        fields = {name: draw(u32) for name in ("table", "shard", "view")}
        fields |= {name: draw(u64) for name in ("session", "detail", "step")}
        fields |= {"index": draw(u64.filter(bool)), "code": draw(u8), "n_keys": draw(u8) % 10}
        if draw(st.booleans()):
            fields |= {"op": FOLD, "has_step": 1, "sequence": draw(u64)}
            fields["n_keys"] *= 2
        else:
            fields |= {"op": draw(st.sampled_from(sorted(WRITES))), "has_step": draw(flag)}
            fields |= {"sequence": draw(u64.filter(bool)), "n_values": draw(u8) % 20}
        all_.append(entry(**fields))
    rng = np.random.default_rng(draw(u32))
    n_keys, n_values = (sum(each[at] for each in all_) for at in (-2, -1))
    return {
        **draw(st.fixed_dictionaries(STAMP)),
        "kind": "entries",
        "entries": all_,
        "keys": rng.integers(0, 2**64 - 1, n_keys, dtype=np.uint64, endpoint=True),
        "values": floats(rng.standard_normal(n_values)),
    }


@st.composite
def slices(draw: Any) -> dict[str, Any]:
    data = draw(st.binary(min_size=1, max_size=50))
    total = draw(st.integers(len(data), 2**64 - 1))
    offset = draw(st.integers(0, total - len(data)))
    where = (draw(u32), draw(u32), draw(u32), draw(u64))
    return {
        **draw(st.fixed_dictionaries(STAMP)),
        "kind": "slice",
        "slice": (*where, offset, total),
        "bytes": data,
    }


def lists(kind: str, field: str) -> st.SearchStrategy[dict[str, Any]]:
    of_one = st.tuples(u32, u32, u32, flag, u64, u64)
    return st.fixed_dictionaries(
        {**STAMP, "kind": st.just(kind), field: st.lists(of_one, max_size=6)}
    )


MESSAGES = {
    "entries": entries(),
    "acks": lists("acks", "acks"),
    "question": lists("question", "acks"),
    "slice": slices(),
    "progress": lists("progress", "progress"),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), offset=st.integers(0, 7))
@settings(deadline=None)
def test_a_message_comes_back(kind: str, data: st.DataObject, offset: int) -> None:
    message = data.draw(MESSAGES[kind])
    frames = _core_test.encode_chain_message(message)
    assert frames[0].startswith(TAGS[kind])
    assert_same(_core_test.decode_chain_message(frames, offset), message)


def test_an_entry_is_64_bytes_in_this_order() -> None:
    """As FORMAT.md has it."""
    one = entry(n_keys=1, n_values=2, code=19, has_step=1, step=8, detail=9)
    message = chain_message("entries", entries=[one], keys=uint64s([7]), values=floats([1, 2]))
    head, keys, values = _core_test.encode_chain_message(message)
    stamp = struct.pack("<4sIQII", b"FPE1", 1, 0xC1, 2, 0) + message["from"] + message["to"]
    stamp += struct.pack("<Q", 4)
    body = struct.pack("<IIIBBBBQQQQQII", 5, 0, 1, 2, 19, 1, 0, 21, 6, 11, 9, 8, 1, 2)
    assert (len(stamp), len(body)) == (64, 64)
    assert head == stamp + body
    assert keys == struct.pack("<Q", 7)
    assert values == struct.pack("<ff", 1, 2)


# ---- Bytes from strangers


@pytest.mark.parametrize(
    "fields",
    [
        *({"op": op} for op in sorted({0, 9, 63, 65, 255, *OPS.values()} - WRITES)),
        {"index": 0},
        {"sequence": 0},
        {"has_step": 2},
        {"op": FOLD, "has_step": 0},
        {"op": FOLD, "has_step": 2},
        {"op": FOLD, "has_step": 1, "n_keys": 1},
        {"op": FOLD, "has_step": 1, "n_values": 1},
    ],
    ids=str,
)
def test_an_entry_that_no_head_makes_is_refused(fields: dict[str, int]) -> None:
    wrong = entry(**fields)
    keys, values = uint64s(range(wrong[-2])), floats(range(wrong[-1]))
    for listed in ([wrong], [entry(), wrong], [wrong, entry()]):
        message = chain_message("entries", entries=listed, keys=keys, values=values)
        assert is_refused("chain_entries", _core_test.encode_chain_message(message))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 2**16, 2**26, 2**31, 2**32 - 1])
def test_a_count_that_lies_is_refused(kind: str, count: int) -> None:
    """2^26 headers of 64 bytes are 0 bytes in 32 bits."""
    head, *others = EXAMPLES[f"chain_{kind}"]()
    changed = head[:4] + struct.pack("<I", count) + head[8:]
    if changed != head:
        assert is_refused(f"chain_{kind}", [changed, *others])


def test_counts_of_entries_that_overflow_together_are_refused() -> None:
    for name in ("n_keys", "n_values"):
        listed = [entry(**{name: 2**31}), entry(**{name: 2**31})]
        message = chain_message("entries", entries=listed, keys=uint64s(), values=floats())
        assert is_refused("chain_entries", _core_test.encode_chain_message(message))


def test_keys_and_values_that_are_not_there_or_too_many_are_refused() -> None:
    for name, change in (("keys", -1), ("keys", 1), ("values", -1), ("values", 1)):
        size = len(ENTRIES[name]) + change
        message = {**ENTRIES, name: np.resize(ENTRIES[name], size)}
        assert is_refused("chain_entries", _core_test.encode_chain_message(message))
    head, keys, values = EXAMPLES["chain_entries"]()
    assert is_refused("chain_entries", [head, values, keys])


@pytest.mark.parametrize(
    ("offset", "total", "size"),
    [(1, 0, 1), (2**64 - 1, 2**64 - 1, 1), (0, 4, 5), (3, 4, 2), (2**64 - 1, 0, 1), (0, 0, 0)],
)
def test_pieces_that_lie_outside_their_image_are_refused(
    offset: int, total: int, size: int
) -> None:
    message = {**SLICE, "slice": (5, 1, 8, 2, offset, total), "bytes": bytes(size)}
    assert is_refused("chain_slice", _core_test.encode_chain_message(message))


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_no_message_of_another_kind(kind: str) -> None:
    """Only what a question and acknowledgements hold is alike."""
    head, *others = EXAMPLES[f"chain_{kind}"]()
    for tag in (*TAGS.values(), b"FPE2", b"FPS1", b"FPP1", bytes(4)):
        frames = [tag + head[4:], *others]
        is_alike = tag == TAGS[kind] or {tag, TAGS[kind]} == {b"FPA1", b"FPQ1"}
        # A piece of progress and an acknowledgement have one layout.
        is_alike = is_alike or (kind in SINGLE and tag in {TAGS[other] for other in SINGLE})
        assert is_refused(f"chain_{kind}", frames) != is_alike


@given(st.data())
@settings(deadline=None)
def test_a_damaged_message_is_refused_or_is_one(data: Any) -> None:
    """Changes, cuts and frames that are repeated or left out."""
    message = data.draw(st.one_of(*MESSAGES.values()))
    frames: Frames = list(_core_test.encode_chain_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frames) - 1))
        frame = bytearray(frames[at])
        change = data.draw(st.sampled_from(["byte", "byte", "byte", "cut", "double", "drop"]))
        if change == "byte" and frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(u8)
            frames[at] = bytes(frame)
        elif change == "cut":
            frames[at] = bytes(frame[: data.draw(st.integers(0, len(frame)))])
        elif change == "double":
            frames.insert(at, frames[at])
        elif len(frames) > 1:
            del frames[at]
    try:
        decoded = _core_test.decode_chain_message(frames)
    except ValueError:
        return
    again = _core_test.encode_chain_message(decoded)
    assert [len(frame) for frame in again] == [len(frame) for frame in frames]
    assert_same(_core_test.decode_chain_message(again), decoded)


@given(st.one_of(*(MESSAGES[kind] for kind in SINGLE)))
@settings(max_examples=10, deadline=None)
def test_a_changed_bit_of_a_list_keeps_its_length(message: dict[str, Any]) -> None:
    for frames in mutations(_core_test.encode_chain_message(message), every=257):
        try:
            decoded = _core_test.decode_chain_message(frames)
        except ValueError:
            continue
        if decoded["kind"] == "entries":  # another tag, and nothing listed
            assert decoded["entries"] == []
            continue
        field = "progress" if decoded["kind"] == "progress" else "acks"
        assert 64 + 32 * len(decoded[field]) == len(frames[0])
