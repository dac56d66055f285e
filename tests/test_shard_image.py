"""Images of shards: what they hold, and that no bytes but an image's are taken."""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from fastps.optimizers import FTRL, SGD, AdaGrad, Adam, Momentum, Optimizer
from test_entries import LAYOUTS, NONE, OPTIMIZERS, History, new_shard
from test_store import CODE_CONFIG, CODE_OK, floats, table, uint64s

CODE_MALFORMED = 16
HEADER = "<IBBBBBQ8fQQQQQQ"


def assert_empty(shard: Any, fresh: Any) -> None:
    assert shard.figures()[0] == fresh.figures()[0]
    assert shard.figures()[2] == 0
    assert shard.rounds() == fresh.rounds()
    assert shard.digest() == fresh.digest()


def small_history(layout: str, bsp: bool, optimizer: Optimizer | None = None) -> History:
    history = History(layout, optimizer or SGD(lr=0.5), bsp, seed=3)
    history.play(60)
    return history


def test_the_layout_is_the_documented_one() -> None:
    shard = _core_test.Shard(table("sparse", SGD(lr=0.5), row_width=2), 0)
    empty = bytes.fromhex(
        "02000000 01 02 00 00 00  0200000000000000  0000003f" + "00000000" * 7
        + "0000000000000000" * 6 + "00000000  00000000  0000000000000000"
    )  # fmt: skip
    assert shard.image() == (0, _core_test.sealed_image(empty))

    shard.apply("push", uint64s([7]), floats([-1, -2]), session=9, sequence=1)
    shard.apply("push", uint64s([7]), floats([1]), session=9, sequence=2)
    shard.apply("set_lr", NONE, floats([0.25]), session=9, sequence=3)
    content = struct.pack(HEADER, 2, 1, 2, 0, 0, 0, 2, 0.25, *[0] * 7, 3, *[0] * 5)
    content += struct.pack("<IQQIQBQ", 1, 9, 3, 1, 2, 18, 0)
    content += struct.pack("<I", 0)
    content += struct.pack("<QQ2f", 1, 7, 0.5, 1.0)
    assert shard.image() == (3, _core_test.sealed_image(content))


def test_the_layout_of_dense_blocks_and_open_rounds() -> None:
    spec = table("dense", Momentum(lr=0.5), n_rows=2, row_width=2, rounds=(0, 6))
    shard = _core_test.Shard(spec, 0)
    shard.apply("push", uint64s([1, 2, 3, 4]), floats([1, 2]), session=5, sequence=1, step=7)
    content = struct.pack(HEADER, 2, 2, 5, 1, 0, 1, 2, *shard_constants(spec), 1, 6, *[0] * 4)
    content += struct.pack("<IQQI", 1, 5, 1, 0)
    content += struct.pack("<IQQIQQ4Q2f", 1, 7, 5, 1, 4, 2, 1, 2, 3, 4, 1.0, 2.0)
    content += struct.pack("<QQ8f", 0, 4, *[0] * 8)
    assert shard.image() == (1, _core_test.sealed_image(content))


def shard_constants(spec: dict[str, Any]) -> list[float]:
    constants: list[float] = list(spec["rule"][1])
    return [*constants, *[0.0] * (8 - len(constants))]


@pytest.mark.parametrize("bsp", [False, True], ids=["asp", "bsp"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_flipped_byte_and_every_truncation_is_refused(layout: str, bsp: bool) -> None:
    image = small_history(layout, bsp).head.shard.image()[1]
    shard, fresh = (new_shard(layout, SGD(lr=0.5), bsp) for _ in range(2))
    for i in range(len(image)):
        for flip in (1, 0x80, 0xFF):
            damaged = image[:i] + bytes([image[i] ^ flip]) + image[i + 1 :]
            assert shard.load_image(damaged)[0] == CODE_MALFORMED
        assert shard.load_image(image[:i])[0] == CODE_MALFORMED
        # With a checksum that fits: lists that end early are found by their counts.
        if i < len(image) - 8:
            assert shard.load_image(_core_test.sealed_image(image[:i]))[0] == CODE_MALFORMED
    for more in (b"\0", image):
        assert shard.load_image(image + more)[0] == CODE_MALFORMED
        assert shard.load_image(_core_test.sealed_image(image[:-8] + more))[0] == CODE_MALFORMED
    assert_empty(shard, fresh)
    assert shard.load_image(image) == (CODE_OK, "")


@pytest.mark.parametrize("bsp", [False, True], ids=["asp", "bsp"])
@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_images_made_by_a_liar_do_no_harm(layout: str, bsp: bool, data: Any) -> None:
    """Right checksums over wrong bytes: refused without a trace, or a state that can be used."""
    content = bytearray(small_history(layout, bsp).head.shard.image()[1][:-8])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        size = data.draw(st.sampled_from([1, 4, 8]))
        word = data.draw(st.sampled_from([0, 1, 2, 7, 255, 2**31, 2**32 - 1, 2**61, 2**64 - 1]))
        content[at : at + size] = (word % 256**size).to_bytes(size, "little")
    shard, fresh = (new_shard(layout, SGD(lr=0.5), bsp) for _ in range(2))
    code, message = shard.load_image(_core_test.sealed_image(bytes(content)))
    if code != CODE_OK:
        assert code == CODE_MALFORMED
        assert message.startswith("the image of a shard is refused: ")
        assert_empty(shard, fresh)
        return
    _, again = shard.image()
    assert len(again) == len(content) + 8
    other = new_shard(layout, SGD(lr=0.5), bsp)
    assert other.load_image(again) == (CODE_OK, "")
    assert other.digest() == shard.digest()
    if bsp:
        folded = shard.rounds()[0]
        for number in range(folded, min(folded + 4, 2**64 - 1)):
            shard.close_round(number, [1, 2, 3])
    shard.fold_closed()
    shard.pull(uint64s([8, 16]) if layout == "dense" else uint64s(range(20)))


def content_with(
    sessions: bytes = b"\0\0\0\0", pending: bytes = b"\0\0\0\0", rows: bytes = b"\0" * 8, **h: Any
) -> bytes:
    """The content of an image of `bsp_shard`."""
    header = {"version": 2, "kind": 1, "rule": 2, "slots": 0, "row_slots": 0, "bsp": 1}
    header |= {"width": 1, "lr": 0.5, "constant1": 0.0, "index": 9, "folded": 2, "n_late": 0}
    header |= {"left_out": 0, "left_out_round": 0, "left_out_key": 0} | h
    fields = list(header.values())
    fields[9:9] = [0.0] * 6
    return struct.pack(HEADER, *fields) + sessions + pending + rows


def bsp_shard() -> Any:
    return _core_test.Shard(table("sparse", SGD(lr=0.5), row_width=1, rounds=(0, 0)), 0)


def one_session(last: int, *answers: tuple[int, int, int]) -> bytes:
    packed = b"".join(struct.pack("<QBQ", *answer) for answer in answers)
    return struct.pack("<IQQI", 1, 4, last, len(answers)) + packed


def rounds_of(*rounds: tuple[int, int], n_pushes: int = 1, n_values: int = 1) -> bytes:
    push = struct.pack("<QQQ", 1, n_values, 7) + b"\0\0\0\0" * n_values
    packed = b"".join(struct.pack("<QQI", *each, n_pushes) + push * n_pushes for each in rounds)
    return struct.pack("<I", len(rounds)) + packed


GOOD_CONTENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "another rate": {"lr": 0.25},
    "answers": {"sessions": one_session(70, (7, 19, 0), (8, 0, 3), (70, 18, 0))},
    "rounds": {"pending": rounds_of((2, 5), (2, 6), (3, 1), n_pushes=7)},
    "rows": {"rows": struct.pack("<QQfQf", 2, 8, 1, 7, 2)},
}
BAD_CONTENTS: dict[str, dict[str, Any]] = {
    "another version": {"version": 1},
    "dense": {"kind": 2},
    "another rule": {"rule": 1},
    "another number of slots": {"slots": 1},
    "row slots": {"row_slots": 2},
    "not under BSP": {"bsp": 0},
    "another width": {"width": 2},
    "an illegal rate": {"lr": -1.0},
    "no rate": {"lr": float("nan")},
    "another constant": {"constant1": 1.0},
    "a session without a write": {"sessions": one_session(0)},
    "sessions out of order": {"sessions": struct.pack("<IQQIQQI", 2, 4, 1, 0, 3, 1, 0)},
    "a session twice": {"sessions": struct.pack("<IQQIQQI", 2, 4, 1, 0, 4, 1, 0)},
    "an answer too old": {"sessions": one_session(70, (6, 19, 0))},
    "an answer to come": {"sessions": one_session(70, (71, 19, 0))},
    "the usual answer": {"sessions": one_session(70, (70, 0, 0))},
    "an answer that is none": {"sessions": one_session(70, (70, 3, 0))},
    "answers out of order": {"sessions": one_session(70, (70, 19, 0), (69, 19, 0))},
    "more sessions than bytes": {"sessions": struct.pack("<I", 2**32 - 1)},
    "a folded round": {"pending": rounds_of((1, 5))},
    "rounds out of order": {"pending": rounds_of((3, 5), (2, 5))},
    "a worker twice": {"pending": rounds_of((2, 5), (2, 5))},
    "a worker without pushes": {"pending": rounds_of((2, 5), n_pushes=0)},
    "pushes that would have been added up": {"pending": rounds_of((2, 5), n_pushes=8)},
    "values that do not fit": {"pending": rounds_of((2, 5), n_values=2)},
    "more rows than bytes": {"rows": struct.pack("<Q", 2**61)},
    "a key twice": {"rows": struct.pack("<QQfQf", 2, 7, 1, 7, 2)},
    "more than the rows": {"rows": b"\0" * 9},
}


@pytest.mark.parametrize("case", GOOD_CONTENTS)
def test_an_image_may_hold(case: str) -> None:
    image = _core_test.sealed_image(content_with(**GOOD_CONTENTS[case]))
    shard = bsp_shard()
    assert shard.load_image(image) == (CODE_OK, "")
    assert shard.figures()[2] == 9
    assert shard.rounds() == (2, 0)


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_an_image_cannot_hold(case: str) -> None:
    shard = bsp_shard()
    image = _core_test.sealed_image(content_with(**BAD_CONTENTS[case]))
    assert shard.load_image(image)[0] == CODE_MALFORMED
    assert_empty(shard, bsp_shard())


def test_open_rounds_are_only_under_bsp() -> None:
    shard = _core_test.Shard(table("sparse", SGD(lr=0.5), row_width=1), 0)
    content = content_with(pending=rounds_of((2, 5)), bsp=0)
    assert shard.load_image(_core_test.sealed_image(content))[0] == CODE_MALFORMED


@pytest.mark.parametrize("number", [0, 2])
def test_a_block_takes_no_other_blocks_image(number: int) -> None:
    fields: dict[str, Any] = {"n_rows": 10, "row_width": 3, "num_shards": 4}
    source, other = (_core_test.Shard(table("dense", **fields), i) for i in (1, number))
    assert other.load_image(source.image()[1])[0] == CODE_MALFORMED


def test_tables_under_other_rules_take_no_image_of_each_other() -> None:
    for layout in LAYOUTS:
        images = [new_shard(layout, o, False).image()[1] for o in OPTIMIZERS]
        for i, optimizer in enumerate(OPTIMIZERS):
            codes = [new_shard(layout, optimizer, False).load_image(image)[0] for image in images]
            assert codes == [CODE_OK if j == i else CODE_MALFORMED for j in range(len(images))]


def test_only_the_rate_may_differ_from_the_tables() -> None:
    image = new_shard("sparse rows", FTRL(alpha=0.5), False).image()[1]
    assert new_shard("sparse rows", FTRL(), False).load_image(image)[0] == CODE_MALFORMED
    image = new_shard("sparse rows", Adam(lr=0.5), False).image()[1]
    shard = new_shard("sparse rows", Adam(lr=0.1), False)
    assert shard.load_image(image) == (CODE_OK, "")
    assert shard.digest() == new_shard("sparse rows", Adam(lr=0.5), False).digest()
    image = new_shard("sparse rows", Adam(lr=0.5, betas=(0.5, 0.5)), False).image()[1]
    assert new_shard("sparse rows", Adam(lr=0.5), False).load_image(image)[0] == CODE_MALFORMED


def test_a_shard_with_entries_takes_no_image() -> None:
    shard = bsp_shard()
    image = shard.image()[1]
    shard.apply("push", uint64s([7]), floats([1]), sequence=1, step=0)
    before = shard.figures(), shard.digest()
    code, message = shard.load_image(image)
    assert code == CODE_CONFIG
    assert "make a new shard" in message
    assert (shard.figures(), shard.digest()) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_digest_sees_every_part_of_the_state(layout: str) -> None:
    selection = uint64s([9, 12]) if layout == "dense" else uint64s([7])
    values = floats([1]) if layout == "sparse floats" else floats([1, 2, 3])
    shard = new_shard(layout, AdaGrad(lr=0.5), True)
    digests = [shard.digest()]

    def write(kind: str, *content: Any, step: int = 0, sequence: int = 0) -> None:
        shard.apply(kind, *content, session=1, sequence=sequence, step=step)
        digests.append(shard.digest())

    write("assign", selection, values)
    write("push", selection, values)
    write("push", selection, values)
    shard.close_round(0, [1])
    shard.fold_closed()
    digests.append(shard.digest())
    write("set_lr", NONE, floats([0.25]))
    write("push", selection, -values, sequence=1, step=1)
    write("push", selection, values[:-1], sequence=2, step=1)
    assert len(set(digests)) == len(digests)
    # Sessions that ended do not count.
    assert shard.digest({1}) == digests[-1]
    assert shard.digest(set()) == shard.digest({2}) != digests[-1]
    shard.forget_all_but(set())
    assert shard.digest() == shard.digest(set())


def test_a_digest_does_not_see_how_rows_came_to_lie() -> None:
    keys = np.random.default_rng(1).permutation(5000).astype(np.uint64)
    one, other = (new_shard("sparse rows", AdaGrad(lr=0.5), False) for _ in range(2))
    values = np.repeat(keys.astype(np.float32), 3)
    one.apply("push", keys, values)
    other.apply("push", keys[::-1], values[::-1])
    other.apply("push", keys + np.uint64(5000), values)
    other.apply("remove", keys + np.uint64(5000), None)
    assert one.digest() == other.digest()
    swapped = keys.copy()
    swapped[:2] = keys[1::-1]
    third = new_shard("sparse rows", AdaGrad(lr=0.5), False)
    third.apply("push", swapped, values)
    assert third.digest() != one.digest()


def test_images_of_common_shards_are_quick() -> None:
    """A few ms are meant; the bound leaves room for a busy machine."""
    shard, other = (
        _core_test.Shard(table("sparse", AdaGrad(lr=0.1), row_width=16), 0) for _ in range(2)
    )
    keys = np.arange(39_000, dtype=np.uint64)
    shard.apply("push", keys, np.ones(39_000 * 16, np.float32))
    begin = time.perf_counter()
    _, image = shard.image()
    assert other.load_image(image) == (CODE_OK, "")
    loaded = time.perf_counter()
    assert other.digest() == shard.digest()
    assert loaded - begin < 0.5
