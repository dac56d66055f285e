"""The byte formats of cpp/wire/FORMAT.md: round trips, golden bytes, and bytes from strangers."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test

Array = npt.NDArray[Any]
Frames = list[bytes]

FORMAT_MD = Path(__file__).parents[1] / "cpp" / "wire" / "FORMAT.md"
GOLDEN = Path(__file__).parent / "golden" / "wire_v1"

BOOT_ID = bytes(range(0x10, 0x20))
OPS = {
    **{"pull": 1, "push": 2, "assign": 3, "remove": 4, "contains": 5, "scan": 6, "stats": 7},
    "set_lr": 8,
}
WRITES = {2, 3, 4, 8}
CARRY_VALUES = {2, 3, 8}


def uint64s(values: Any = ()) -> Array:
    return np.array(values, dtype=np.uint64)


def floats(values: Any = ()) -> Array:
    return np.array(values, dtype=np.float32)


def request(**fields: Any) -> dict[str, Any]:
    return {
        "cluster_id": 0xC1,
        "epoch": 2,
        "incarnation": 3,
        "boot_id": BOOT_ID,
        "map_version": 4,
        "op": OPS["pull"],
        "table": 5,
        "session": 6,
        "request_id": 7,
        "argument": 0,
        "parts": [],
        "keys": uint64s(),
        "values": floats(),
        **fields,
    }


def reply(**fields: Any) -> dict[str, Any]:
    return {
        "cluster_id": 0xC1,
        "boot_id": BOOT_ID,
        "map_version": 4,
        "request_id": 7,
        "code": 0,
        "parts": [],
        "keys": uint64s(),
        "values": floats(),
        "flags": np.array([], dtype=np.uint8),
        **fields,
    }


def cluster_map(**fields: Any) -> dict[str, Any]:
    return {
        "cluster_id": 0xC1,
        "epoch": 2,
        "incarnation": 3,
        "version": 4,
        "highest_session": 9,
        "sessions": [6, 8],
        "servers": [
            (1, BOOT_ID, False, ["tcp://10.0.0.1:7001", "tcp://10.0.0.1:7002"]),
            (2, bytes(16), True, []),
        ],
        "tables": [
            {
                "id": 5,
                "name": "words",
                "kind": "sparse",
                "row_width": 2,
                "n_rows": 0,
                "num_shards": 3,
                "rule": (4, [0.5, 1.0, 0.25, 0.125]),
                "initializer": (3, 42, -1.0, 1.0),
                "placement": [1, 1, 2],
                "views": [1, 1, 7],
            },
            {
                "id": 6,
                "name": "bias",
                "kind": "dense",
                "row_width": 1,
                "n_rows": 10,
                "num_shards": 1,
                "rule": (1, []),
                "initializer": (1, 0, 0.0, 0.0),
                "placement": [1],
                "views": [1],
                "rounds": (0, 6),
            },
        ],
        **fields,
    }


def heartbeat(**fields: Any) -> dict[str, Any]:
    return {
        "role": 1,
        "id": 3,
        "boot_id": BOOT_ID,
        "cluster_id": 0xC1,
        "incarnation": 3,
        "map_version": 4,
        "rows": 1000,
        "requests": 2000,
        "clock": 0,
        "busy_us": 0,
        "heard": 9,
        **fields,
    }


CLOCK_NOTICE = {
    "cluster_id": 0xC1,
    "session": 2**40,
    "number": 9,
    "clock": 7,
    "minimum": 5,
    "rounds": 6,
    "backup": 1,
    "map_version": 4,
}
ROUNDS_NOTICE = {
    "cluster_id": 0xC1,
    "map_version": 4,
    "first_number": 8,
    "rounds": [(0, 5, [(0, 11), (2, 2**40)]), (1, 2, [])],
}


# The messages that FORMAT.md shows and the golden files hold.
PUSH_REQUEST = request(
    op=OPS["push"],
    parts=[(0, 1, 11, 2, 4), (3, 1, 12, 1, 2)],
    keys=uint64s([7, 2**64 - 1, 300]),
    values=floats([1.0, -2.0, 0.5, 0.25, 8.0, -0.0]),
)
PUSH_REPLY = reply(parts=[(0, 0, 0, 0, 0), (3, 3, 0, 0, 11)])
EXAMPLES: dict[str, Callable[[], Frames]] = {
    "push_request": lambda: _core_test.encode_request(PUSH_REQUEST),
    "push_reply": lambda: _core_test.encode_reply(PUSH_REPLY),
    "pull_request": lambda: _core_test.encode_request(
        request(parts=[(2, 1, 0, 2, 0)], keys=uint64s([7, 8]))
    ),
    "pull_reply": lambda: _core_test.encode_reply(
        reply(parts=[(2, 0, 0, 4, 0)], values=floats([1.0, 2.0, 3.0, 4.0]))
    ),
    "remove_request": lambda: _core_test.encode_request(
        request(op=OPS["remove"], parts=[(2, 1, 1, 1, 0)], keys=uint64s([7]))
    ),
    "set_lr_request": lambda: _core_test.encode_request(
        request(op=OPS["set_lr"], parts=[(2, 1, 1, 0, 1)], values=floats([0.5]))
    ),
    "contains_reply": lambda: _core_test.encode_reply(
        reply(parts=[(2, 0, 0, 0, 0)], flags=np.array([1, 0, 1], dtype=np.uint8))
    ),
    "scan_request": lambda: _core_test.encode_request(
        request(op=OPS["scan"], argument=100, parts=[(2, 1, 0, 1, 0)], keys=uint64s([0]))
    ),
    "scan_reply": lambda: _core_test.encode_reply(
        reply(parts=[(2, 0, 1, 2, 2**64 - 1)], keys=uint64s([7]), values=floats([1.0, 2.0]))
    ),
    "stats_request": lambda: _core_test.encode_request(
        request(op=OPS["stats"], parts=[(0, 1, 0, 0, 0), (1, 1, 0, 0, 0)])
    ),
    "stats_reply": lambda: _core_test.encode_reply(
        reply(
            parts=[(0, 0, 5, 0, 0), (1, 0, 5, 0, 0)],
            keys=uint64s([10, 4096, 2, 6, 0, 20, 8192, 4, 6, 1]),
        )
    ),
    "moved_reply": lambda: _core_test.encode_reply(reply(parts=[(2, 2, 0, 0, 0)])),
    "wrong_cluster_reply": lambda: _core_test.encode_reply(reply(code=25)),
    "cluster_map": lambda: [_core_test.encode_map(cluster_map())],
    "server_heartbeat": lambda: [_core_test.encode_heartbeat(heartbeat())],
    "worker_heartbeat": lambda: [_core_test.encode_heartbeat(worker_heartbeat())],
    "clock_notice": lambda: [_core_test.encode_clock_notice(CLOCK_NOTICE)],
    "rounds_notice": lambda: [_core_test.encode_rounds_notice(ROUNDS_NOTICE)],
}


def worker_heartbeat() -> dict[str, Any]:
    return heartbeat(role=2, id=2**40, rows=0, clock=7, busy_us=123456)


def decode(name: str, frames: Frames, offset: int = 0) -> Any:
    """What the frames say; None or ValueError when they are refused."""
    if name.endswith("_request"):
        return _core_test.decode_request(frames, offset)
    if name.endswith("_reply"):
        return _core_test.decode_reply(frames, offset)
    (frame,) = frames
    if name == "cluster_map":
        return _core_test.decode_map(frame)
    if name.endswith("_notice"):
        return getattr(_core_test, f"decode_{name}")(frame)
    return _core_test.decode_heartbeat(frame)


def encode(name: str, message: Any) -> Frames:
    if name.endswith("_request"):
        return list(_core_test.encode_request(message))
    if name.endswith("_reply"):
        return list(_core_test.encode_reply(message))
    if name.endswith("_notice"):
        return [getattr(_core_test, f"encode_{name}")(message)]
    return [
        _core_test.encode_map(message)
        if name == "cluster_map"
        else _core_test.encode_heartbeat(message)
    ]


def is_refused(name: str, frames: Frames) -> bool:
    try:
        return decode(name, frames) is None
    except ValueError:
        return True


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


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert got[name].dtype == value.dtype
            assert got[name].tobytes() == value.tobytes(), name
        else:
            assert got[name] == value, name


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


names = st.text(st.characters(codec="utf-8"), max_size=40)


@st.composite
def tables(draw: Any, table_id: int, servers: list[int]) -> dict[str, Any]:
    num_shards = draw(st.integers(1, 6))
    return {
        "id": table_id,
        "name": draw(names),
        "kind": draw(st.sampled_from(["sparse", "dense"])),
        "row_width": draw(st.integers(1, 1 << 22)),
        "n_rows": draw(st.integers(0, 1 << 18)),
        "num_shards": num_shards,
        "rule": (draw(st.integers(0, 255)), draw(st.lists(finite, min_size=8, max_size=8))),
        "initializer": (draw(st.integers(0, 255)), draw(u64), draw(finite), draw(finite)),
        "placement": [draw(st.sampled_from(servers)) for _ in range(num_shards)],
        "views": [draw(u32) for _ in range(num_shards)],
        "rounds": draw(st.none() | st.tuples(u32, u64)),
    }


@st.composite
def maps(draw: Any) -> dict[str, Any]:
    servers = sorted(draw(st.sets(u32, max_size=4)))
    table_ids = sorted(draw(st.sets(u32, max_size=3))) if servers else []
    return {
        "cluster_id": draw(u64),
        "epoch": draw(u32),
        "incarnation": draw(u32),
        "version": draw(u64),
        "highest_session": draw(u64),
        "sessions": sorted(draw(st.sets(u64, max_size=5))),
        "servers": [
            (i, draw(boot_ids), draw(st.booleans()), draw(st.lists(names, max_size=3)))
            for i in servers
        ],
        "tables": [draw(tables(i, servers)) for i in table_ids],
    }


def as_decoded(message: dict[str, Any]) -> dict[str, Any]:
    """Names and endpoints as bytes; constants of rules filled up with zeros."""
    return {
        **message,
        "servers": [
            (i, boot_id, lost, [e.encode() for e in endpoints])
            for i, boot_id, lost, endpoints in message["servers"]
        ],
        "tables": [
            {
                **t,
                "name": t["name"].encode(),
                "rule": (t["rule"][0], (t["rule"][1] + [0.0] * 8)[:8]),
            }
            for t in message["tables"]
        ],
    }


@given(maps())
@settings(deadline=None)
def test_a_map_comes_back(message: dict[str, Any]) -> None:
    assert _core_test.decode_map(_core_test.encode_map(message)) == as_decoded(message)


@given(st.sampled_from([1, 2]), u64, boot_ids, u64, u32, u64, u64, u64, u64, u64, u64)
def test_a_heartbeat_comes_back(
    role: int,
    id_: int,
    boot_id: bytes,
    cluster_id: int,
    incarnation: int,
    map_version: int,
    rows: int,
    requests: int,
    clock: int,
    busy_us: int,
    heard: int,
) -> None:
    message = {
        "role": role,
        "id": id_,
        "boot_id": boot_id,
        "cluster_id": cluster_id,
        "incarnation": incarnation,
        "map_version": map_version,
        "rows": rows,
        "requests": requests,
        "clock": clock,
        "busy_us": busy_us,
        "heard": heard,
    }
    frame = _core_test.encode_heartbeat(message)
    assert frame.startswith(b"FPH1")
    assert _core_test.decode_heartbeat(frame) == message


@given(st.fixed_dictionaries(dict.fromkeys(CLOCK_NOTICE, u64)))
def test_a_clock_notice_comes_back(message: dict[str, int]) -> None:
    frame = _core_test.encode_clock_notice(message)
    assert frame.startswith(b"FPC1")
    assert _core_test.decode_clock_notice(frame) == message
    assert _core_test.decode_rounds_notice(frame) is None


members_by_rank = st.lists(st.tuples(u32, u64), max_size=4).map(sorted)


@given(
    st.fixed_dictionaries(
        {
            "cluster_id": u64,
            "map_version": u64,
            "first_number": u64.filter(bool),
            "rounds": st.lists(st.tuples(u32, u64, members_by_rank), max_size=4),
        }
    )
)
def test_closed_rounds_come_back(message: dict[str, Any]) -> None:
    frame = _core_test.encode_rounds_notice(message)
    assert frame.startswith(b"FPR1")
    assert _core_test.decode_rounds_notice(frame) == message
    assert _core_test.decode_clock_notice(frame) is None


def test_rounds_against_the_rules_are_refused() -> None:
    for wrong in (
        {"first_number": 0},
        {"rounds": [(0, 5, [(2, 1), (0, 2)])]},  # not by rank
    ):
        frame = _core_test.encode_rounds_notice({**ROUNDS_NOTICE, **wrong})
        assert _core_test.decode_rounds_notice(frame) is None
    frame = bytearray(_core_test.encode_rounds_notice(ROUNDS_NOTICE))
    frame[28:32] = b"\xff" * 4  # so many rounds are not there, and none is made room for
    assert _core_test.decode_rounds_notice(bytes(frame)) is None


def test_a_map_frame_is_a_tag_and_a_map() -> None:
    blob = _core_test.encode_map(cluster_map())
    assert _core_test.map_of_frame(b"FPM1" + blob) == blob
    assert _core_test.map_of_frame(b"FPM1") == b""
    for frame in (b"", b"FPM", b"FPH1" + blob, blob):
        assert _core_test.map_of_frame(frame) is None


# ---- Bytes from strangers


def truncations(frames: Frames) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        for size in range(len(frame)):
            yield [*frames[:i], frame[:size], *frames[i + 1 :]]


def mutations(frames: Frames, every: int = 1) -> Iterator[Frames]:
    """Each byte changed: to all values in the first frame, to some in the others."""
    for i, frame in enumerate(frames):
        for at, old in enumerate(frame):
            for new in range(256):
                if new != old and ((at * 256 + new) % every == 0 or bin(new ^ old).count("1") == 1):
                    yield [
                        *frames[:i],
                        frame[:at] + bytes([new]) + frame[at + 1 :],
                        *frames[i + 1 :],
                    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_truncation_is_refused(name: str) -> None:
    for frames in truncations(EXAMPLES[name]()):
        assert is_refused(name, frames)


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


@pytest.mark.parametrize("name", [n for n in EXAMPLES if n.endswith(("_request", "_reply"))])
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
    for name in ("push_request", "push_reply"):
        assert is_refused(name, frames)
    for frame in frames:
        for name in ("cluster_map", "server_heartbeat"):
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


def with_table(**fields: Any) -> dict[str, Any]:
    first, second = cluster_map()["tables"]
    return cluster_map(tables=[{**first, **fields}, second])


SERVER = (1, BOOT_ID, False, ["tcp://10.0.0.1:7001"])


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (cluster_map(sessions=[8, 6]), "out of order"),
        (cluster_map(sessions=[6, 6]), "out of order"),
        (cluster_map(servers=[SERVER, SERVER], tables=[]), "out of order"),
        (cluster_map(tables=cluster_map()["tables"][::-1]), "out of order"),
        (cluster_map(servers=[SERVER]), "unknown server"),
        (cluster_map(servers=[(i, BOOT_ID, False, []) for i in range(1025)]), "number of servers"),
        (cluster_map(servers=[(1, BOOT_ID, False, ["e"] * 65)], tables=[]), "endpoints"),
        (cluster_map(servers=[(1, BOOT_ID, False, ["e" * 513])], tables=[]), "endpoint"),
        (with_table(name="n" * 513), "table"),
        (with_table(row_width=0), "row"),
        (with_table(row_width=(1 << 22) + 1), "row too wide"),
        (with_table(kind="dense", row_width=0, n_rows=4), "row"),
        (with_table(kind="dense", row_width=1 << 32, n_rows=1 << 32), "elements"),
        (with_table(kind="dense", row_width=1 << 21, n_rows=1 << 20), "elements"),
        (with_table(num_shards=0, placement=[], views=[]), "number of shards"),
    ],
)
def test_a_map_against_the_rules_is_refused(message: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _core_test.decode_map(_core_test.encode_map(message))


def test_a_map_of_another_version_is_refused() -> None:
    blob = _core_test.encode_map(cluster_map())
    with pytest.raises(ValueError, match="another format version"):
        _core_test.decode_map(b"\2\0" + blob[2:])


def test_a_heartbeat_of_an_unknown_role_is_refused() -> None:
    for role in (0, 3, 255):
        assert is_refused("server_heartbeat", [_core_test.encode_heartbeat(heartbeat(role=role))])
