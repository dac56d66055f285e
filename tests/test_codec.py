"""The byte formats of cpp/wire/FORMAT.md: golden bytes, requests and replies, bytes from strangers.

Maps, heartbeats, notices and reports: test_codec_maps.py. Messages of chains: test_codec_chain.py.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from wire_examples import (
    CARRY_VALUES,
    EXAMPLES,
    OPS,
    WRITES,
    Frames,
    assert_same,
    decode,
    encode,
    floats,
    is_refused,
    mutations,
    reply,
    request,
    truncations,
)

FORMAT_MD = Path(__file__).parents[1] / "cpp" / "wire" / "FORMAT.md"
GOLDEN = Path(__file__).parent / "golden" / "wire_v1"


def hex_of(frames: Frames) -> str:
    return "".join(frame.hex() + "\n" for frame in frames)


# ---- Golden bytes


@pytest.mark.parametrize("name", EXAMPLES)
def test_version_1_is_written_and_read_as_ever(name: str) -> None:
    golden = (GOLDEN / f"{name}.hex").read_text()
    assert hex_of(EXAMPLES[name]()) == golden
    frames = [bytes.fromhex(line) for line in golden.splitlines()]
    assert encode(name, decode(name, frames)) == frames


def test_no_golden_file_is_left_out() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXAMPLES)


def example_in_format_md(title: str) -> list[tuple[str, bytes]]:
    """(what the line says, its bytes) of the worked example under `title`."""
    text = FORMAT_MD.read_text()
    block = re.search(rf"### {title}\n+```\n(.*?)```", text, re.DOTALL)
    assert block, f"FORMAT.md has no example {title!r}"
    lines = []
    for line in block[1].splitlines():
        octets, _, meaning = line.partition("  ")
        if octets:
            lines.append((meaning.strip(), bytes.fromhex(octets)))
    return lines


@pytest.mark.parametrize(
    ("title", "name"), [("A push request", "push_request"), ("Its reply", "push_reply")]
)
def test_the_worked_example_is_what_is_sent(title: str, name: str) -> None:
    shown = example_in_format_md(title)
    assert b"".join(octets for _, octets in shown) == b"".join(EXAMPLES[name]())
    assert all(meaning for meaning, _ in shown), "each line says what it is"


def test_every_wire_value_stands_in_format_md() -> None:
    """Each named value of the enums, with its number, has a row in FORMAT.md."""
    root = FORMAT_MD.parents[1]
    tables = re.findall(r"^\| *(\d+) *\| *`(\w+)`", FORMAT_MD.read_text(), re.MULTILINE)
    documented = {(name, int(number)) for number, name in tables}
    wanted = set()
    for path, enum in [
        ("base/status.h", "Code"),
        ("wire/message.h", "Op"),
        ("wire/map_codec.h", "Role"),
        ("wire/reports.h", "State"),
        ("routing/table_spec.h", "TableKind"),
        ("routing/table_spec.h", "RuleKind"),
        ("routing/table_spec.h", "InitializerKind"),
    ]:
        body = re.search(
            rf"enum class {enum} [^{{]*{{(.*?)}}", (root / path).read_text(), re.DOTALL
        )
        assert body
        wanted |= {(name, int(n)) for name, n in re.findall(r"(k\w+) = (\d+)", body[1])}
    assert len(wanted) > 30
    assert wanted == documented


# ---- Round trips

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
boot_ids = st.binary(min_size=16, max_size=16)
finite = st.floats(width=32, allow_nan=False)


def split(total: int, n_parts: int, rng: np.random.Generator) -> list[int]:
    if n_parts == 0:
        return []
    edges = np.sort(rng.integers(0, total + 1, n_parts - 1))
    return np.diff([0, *edges.tolist(), total]).tolist()


@st.composite
def requests(draw: Any) -> dict[str, Any]:
    rng = np.random.default_rng(draw(u32))
    op = draw(st.sampled_from(sorted(OPS.values())))
    n_parts = draw(st.integers(0, 12))
    n_keys = draw(st.integers(0, 50)) if n_parts else 0
    n_values = draw(st.integers(0, 50)) if n_parts and op in CARRY_VALUES else 0
    parts = [
        (draw(u32), draw(u32), draw(u64.filter(bool) if op in WRITES else u64), keys, values)
        for keys, values in zip(
            split(n_keys, n_parts, rng), split(n_values, n_parts, rng), strict=True
        )
    ]
    return request(
        cluster_id=draw(u64),
        epoch=draw(u32),
        incarnation=draw(u32),
        boot_id=draw(boot_ids),
        map_version=draw(u64),
        op=op,
        table=draw(u32),
        session=draw(u64),
        request_id=draw(u64),
        argument=draw(u64),
        parts=parts,
        keys=rng.integers(0, 2**64 - 1, n_keys, dtype=np.uint64, endpoint=True),
        values=floats(rng.standard_normal(n_values)),
    )


@st.composite
def replies(draw: Any) -> dict[str, Any]:
    rng = np.random.default_rng(draw(u32))
    n_parts = draw(st.integers(0, 12))
    n_keys, n_values = (draw(st.integers(0, 50)) if n_parts else 0 for _ in range(2))
    parts = [
        (draw(u32), draw(st.integers(0, 255)), keys, values, draw(u64))
        for keys, values in zip(
            split(n_keys, n_parts, rng), split(n_values, n_parts, rng), strict=True
        )
    ]
    return reply(
        cluster_id=draw(u64),
        boot_id=draw(boot_ids),
        map_version=draw(u64),
        request_id=draw(u64),
        code=draw(st.integers(0, 255)),
        parts=parts,
        keys=rng.integers(0, 2**64 - 1, n_keys, dtype=np.uint64, endpoint=True),
        values=floats(rng.standard_normal(n_values)),
        flags=rng.integers(0, 2, draw(st.integers(0, 30)), dtype=np.uint8),
    )


@given(requests(), st.integers(0, 7))
@settings(deadline=None)
def test_a_request_comes_back(message: dict[str, Any], offset: int) -> None:
    frames = _core_test.encode_request(message)
    assert_same(_core_test.decode_request(frames, offset), message)


@given(replies(), st.integers(0, 7))
@settings(deadline=None)
def test_a_reply_comes_back(message: dict[str, Any], offset: int) -> None:
    frames = _core_test.encode_reply(message)
    assert_same(_core_test.decode_reply(frames, offset), message)


# ---- Bytes from strangers


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_truncation_is_refused(name: str) -> None:
    original = EXAMPLES[name]()
    for frames in truncations(original):
        # A shorter piece of an image is a piece of it; none is not.
        is_piece = name == "chain_slice" and frames[0] == original[0] and frames[1]
        assert is_refused(name, frames) != bool(is_piece)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_changed_byte_gives_is_refused_or_consistent(name: str) -> None:
    original = EXAMPLES[name]()
    n_accepted = 0
    for frames in mutations(original, every=7):
        try:
            message = decode(name, frames)
        except ValueError:
            continue
        if message is None:
            continue
        n_accepted += 1
        # Reserved bytes are not kept, and any byte but 0 says that a server is lost.
        again = encode(name, message)
        assert [len(frame) for frame in again] == [len(frame) for frame in frames]
        assert encode(name, decode(name, again)) == again
    assert n_accepted > 0


@pytest.mark.parametrize(
    "name", [n for n in EXAMPLES if n.endswith(("_request", "_reply")) or n.startswith("chain_")]
)
def test_frames_added_left_out_or_swapped_are_refused(name: str) -> None:
    frames = EXAMPLES[name]()
    for other in (b"", b"\0", frames[0], bytes(8)):
        assert is_refused(name, [*frames, other])
        assert is_refused(name, [other, *frames])
    for i in range(len(frames)):
        assert is_refused(name, frames[:i] + frames[i + 1 :])
        grown = [*frames[:i], frames[i] + b"\0", *frames[i + 1 :]]
        assert is_refused(name, grown)
    assert is_refused(name, [])
    assert is_refused(name, frames * 5)


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(deadline=None)
def test_random_bytes_are_refused(frames: Frames) -> None:
    for name in ("push_request", "push_reply", "chain_entries"):
        assert is_refused(name, frames)
    for frame in frames:
        for name in ("cluster_map", "server_heartbeat", "rounds_notice", "report"):
            assert is_refused(name, [frame])


COUNT_OFFSETS = {  # of n_parts, n_keys, n_values (and n_flags)
    "push_request": [76, 80, 84],
    "contains_reply": [48, 52, 56, 60],
}


@pytest.mark.parametrize("name", COUNT_OFFSETS)
@pytest.mark.parametrize("value", [0, 1, 2, 5, 2**16, 2**16 + 1, 2**31, 2**32 - 1])
def test_a_count_that_lies_is_refused(name: str, value: int) -> None:
    frames = EXAMPLES[name]()
    for at in COUNT_OFFSETS[name]:
        head = frames[0][:at] + struct.pack("<I", value) + frames[0][at + 4 :]
        if head != frames[0]:
            assert is_refused(name, [head, *frames[1:]])


def test_counts_of_parts_that_overflow_together_are_refused() -> None:
    """2 * 2^31 keys are 0 keys in 32 bits."""
    parts = [(0, 1, 0, 2**31, 0), (1, 1, 0, 2**31, 0)]
    assert is_refused("pull_request", _core_test.encode_request(request(parts=parts)))
    results = [(0, 0, 0, 2**31, 0), (1, 0, 0, 2**31, 0)]
    assert is_refused("pull_reply", _core_test.encode_reply(reply(parts=results)))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"op": 0}, "unknown operation"),
        ({"op": 9}, "unknown operation"),
        ({"op": 2, "parts": [(0, 1, 0, 0, 0)]}, "without a sequence"),
        ({"op": 4, "parts": [(0, 1, 1, 0, 1)], "values": floats([1])}, "values where none belong"),
        ({"op": 1, "parts": [(0, 1, 0, 1, 0)]}, "counts"),
    ],
)
def test_a_request_against_the_rules_says_why_it_is_refused(
    fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        _core_test.decode_request(_core_test.encode_request(request(**fields)))


def test_the_most_parts_that_a_message_may_have() -> None:
    parts = [(i, 1, 0, 0, 0) for i in range(1 << 16)]
    frames = _core_test.encode_request(request(op=7, parts=parts))
    assert len(_core_test.decode_request(frames)["parts"]) == 1 << 16
    frames = _core_test.encode_request(request(op=7, parts=[*parts, parts[0]]))
    with pytest.raises(ValueError, match="too many parts"):
        _core_test.decode_request(frames)
