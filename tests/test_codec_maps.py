"""Cluster maps, heartbeats, notices and reports: round trips, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastps import _core_test
from wire_examples import (
    BOOT_ID,
    CLOCK_NOTICE,
    REPORT,
    ROUNDS_NOTICE,
    cluster_map,
    heartbeat,
    is_refused,
    mutations,
    view,
)

u32, u64 = (st.integers(0, 2**bits - 1) for bits in (32, 64))
boot_ids = st.binary(min_size=16, max_size=16)
finite = st.floats(width=32, allow_nan=False)
names = st.text(st.characters(codec="utf-8"), max_size=40)


# ---- Maps


@st.composite
def views(draw: Any, servers: list[int]) -> tuple[int, list[int], bool, bool, int | None]:
    chain = draw(st.lists(st.sampled_from(servers), min_size=1, max_size=3, unique=True))
    others = sorted(set(servers) - set(chain))
    joiner = draw(st.none() | st.sampled_from(others)) if others else None
    return (draw(u32), chain, draw(st.booleans()), draw(st.booleans()), joiner)


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
        "replication": draw(st.integers(1, 3)),
        "rule": (draw(st.integers(0, 255)), draw(st.lists(finite, min_size=8, max_size=8))),
        "initializer": (draw(st.integers(0, 255)), draw(u64), draw(finite), draw(finite)),
        "views": [draw(views(servers)) for _ in range(num_shards)],
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
            (
                *(i, draw(boot_ids), draw(st.booleans())),
                *(draw(st.lists(names, max_size=3)) for _ in range(2)),
            )
            for i in servers
        ],
        "tables": [draw(tables(i, servers)) for i in table_ids],
    }


def as_decoded(message: dict[str, Any]) -> dict[str, Any]:
    """Names and endpoints as bytes; constants of rules filled up with zeros."""
    return {
        **message,
        "servers": [
            (i, boot_id, lost, *([each.encode() for each in ends] for ends in endpoints))
            for i, boot_id, lost, *endpoints in message["servers"]
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


HEARTBEATS = st.fixed_dictionaries(
    {
        **dict.fromkeys(heartbeat(), u64),
        "role": st.sampled_from([1, 2]),
        "boot_id": boot_ids,
        "incarnation": u32,
    }
)


@given(HEARTBEATS)
def test_a_heartbeat_comes_back(message: dict[str, Any]) -> None:
    frame = _core_test.encode_heartbeat(message)
    assert frame.startswith(b"FPH1")
    assert _core_test.decode_heartbeat(frame) == message


def test_a_heartbeat_of_an_unknown_role_is_refused() -> None:
    for role in (0, 3, 255):
        assert is_refused("server_heartbeat", [_core_test.encode_heartbeat(heartbeat(role=role))])


# ---- Notices


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
            "forgotten": u64,
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
    frame[36:40] = b"\xff" * 4  # so many rounds are not there, and none is made room for
    assert _core_test.decode_rounds_notice(bytes(frame)) is None


def test_a_map_frame_is_a_tag_and_a_map() -> None:
    blob = _core_test.encode_map(cluster_map())
    assert _core_test.map_of_frame(b"FPM1" + blob) == blob
    assert _core_test.map_of_frame(b"FPM1") == b""
    for frame in (b"", b"FPM", b"FPH1" + blob, blob):
        assert _core_test.map_of_frame(frame) is None


# ---- Maps against the rules


def with_table(**fields: Any) -> dict[str, Any]:
    first, second = cluster_map()["tables"]
    return cluster_map(tables=[{**first, **fields}, second])


def with_view(*chain: int, **fields: Any) -> dict[str, Any]:
    return with_table(num_shards=1, views=[view(1, chain, **fields)])


SERVER = (1, BOOT_ID, False, ["tcp://10.0.0.1:7001"], ["tcp://10.0.0.1:7002"])


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (cluster_map(sessions=[8, 6]), "out of order"),
        (cluster_map(sessions=[6, 6]), "out of order"),
        (cluster_map(servers=[SERVER, SERVER], tables=[]), "out of order"),
        (cluster_map(tables=cluster_map()["tables"][::-1]), "out of order"),
        (cluster_map(servers=[SERVER]), "servers of a shard"),
        (
            cluster_map(servers=[(i, BOOT_ID, False, [], []) for i in range(1025)]),
            "number of servers",
        ),
        (cluster_map(servers=[(1, BOOT_ID, False, ["e"] * 65, [])], tables=[]), "endpoints"),
        (cluster_map(servers=[(1, BOOT_ID, False, [], ["e"] * 65)], tables=[]), "endpoints"),
        (cluster_map(servers=[(1, BOOT_ID, False, ["e" * 513], [])], tables=[]), "endpoint"),
        (cluster_map(servers=[(1, BOOT_ID, False, [], ["e" * 513])], tables=[]), "endpoint"),
        (with_table(name="n" * 513), "table"),
        (with_table(row_width=0), "row"),
        (with_table(row_width=(1 << 22) + 1), "row too wide"),
        (with_table(kind="dense", row_width=0, n_rows=4), "row"),
        (with_table(kind="dense", row_width=1 << 32, n_rows=1 << 32), "elements"),
        (with_table(kind="dense", row_width=1 << 21, n_rows=1 << 20), "elements"),
        (with_table(num_shards=0, views=[]), "number of shards"),
        (with_table(replication=0), "number of copies"),
        (with_table(replication=4), "number of copies"),
        (with_view(4), "servers of a shard"),
        (with_view(1, 1), "servers of a shard"),
        (with_view(1, 2, 1), "servers of a shard"),
        (with_view(1, joiner=4), "servers of a shard"),
        (with_view(3, 1, joiner=1), "servers of a shard"),
    ],
)
def test_a_map_against_the_rules_is_refused(message: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _core_test.decode_map(_core_test.encode_map(message))


def test_a_map_of_another_version_is_refused() -> None:
    blob = _core_test.encode_map(cluster_map())
    with pytest.raises(ValueError, match="another format version"):
        _core_test.decode_map(b"\2\0" + blob[2:])


def test_every_count_of_a_map_is_looked_at_before_it_is_believed() -> None:
    """All four bytes of any field set: refused, or a map that says the same again."""
    blob = _core_test.encode_map(cluster_map())
    for at in range(len(blob) - 3):
        changed = blob[:at] + b"\xff" * 4 + blob[at + 4 :]
        try:
            message = _core_test.decode_map(changed)
        except ValueError:
            continue
        again = _core_test.encode_map(message)  # bytes: a number may be NaN now
        assert _core_test.encode_map(_core_test.decode_map(again)) == again


def test_flags_lengths_and_joiners_of_a_view_are_checked() -> None:
    blob = _core_test.encode_map(with_view(1, 3, sealed=True, joiner=2))
    shown = struct.pack("<IBBIII", 1, 1 | 4, 2, 1, 3, 2)
    at = blob.index(shown)
    for flags, n_members, why in [
        (8 | 5, 2, "unknown flags"),
        (5, 0, "length of a chain"),
        (5, 4, "length of a chain"),
        (1, 2, "map: "),  # what was the joiner is read as what follows
        (5, 3, "map: "),
    ]:
        changed = blob[: at + 4] + bytes([flags, n_members]) + blob[at + 6 :]
        with pytest.raises(ValueError, match=why):
            _core_test.decode_map(changed)
    assert _core_test.decode_map(blob)["tables"][0]["views"] == [(1, [1, 3], True, False, 2)]


@given(st.data())
@settings(deadline=None)
def test_a_damaged_map_is_refused_or_is_a_map(data: Any) -> None:
    blob = bytearray(_core_test.encode_map(data.draw(maps())))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = _core_test.decode_map(bytes(blob))
    except ValueError:
        return
    again = _core_test.encode_map(message)
    assert len(again) == len(blob)
    assert _core_test.encode_map(_core_test.decode_map(again)) == again


# ---- Reports

SHARDS = st.lists(st.tuples(u32, u32, u32, u64, u64, st.sampled_from([1, 2, 3])), max_size=5)
REPORTS = st.fixed_dictionaries(
    {
        "cluster_id": u64,
        "server": u32,
        "boot_id": boot_ids,
        "map_version": u64,
        "silent": st.lists(u32, max_size=4),
        "shards": SHARDS,
    }
)


@given(REPORTS)
def test_a_report_comes_back(message: dict[str, Any]) -> None:
    frame = _core_test.encode_report(message)
    assert frame.startswith(b"FPP1")
    assert _core_test.decode_report(frame) == message
    assert _core_test.decode_heartbeat(frame) is None


@pytest.mark.parametrize("state", [0, 4, 255])
def test_a_report_of_an_unknown_state_is_refused(state: int) -> None:
    frame = _core_test.encode_report({**REPORT, "shards": [(5, 0, 1, 2, 3, state)]})
    assert is_refused("report", [frame])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 2**16, 2**31, 2**32 - 1])
def test_the_counts_of_a_report_that_lie_are_refused(count: int) -> None:
    frame = _core_test.encode_report(REPORT)
    n_silent_at = 4 + 8 + 4 + 16 + 8
    n_shards_at = n_silent_at + 4 + 4 * len(REPORT["silent"])  # type: ignore[arg-type]
    for at in (n_silent_at, n_shards_at):
        changed = frame[:at] + struct.pack("<I", count) + frame[at + 4 :]
        if changed != frame:
            assert is_refused("report", [changed])


@given(REPORTS)
@settings(max_examples=20, deadline=None)
def test_a_damaged_report_is_refused_or_says_just_what_it_holds(message: dict[str, Any]) -> None:
    for (frame,) in mutations([_core_test.encode_report(message)], every=61):
        decoded = _core_test.decode_report(frame)
        if decoded is not None:
            assert _core_test.encode_report(decoded) == frame
