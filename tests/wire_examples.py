"""Messages of every kind as dicts, with what turns them into frames and back.

The golden files in tests/golden/ hold `EXAMPLES`; FORMAT.md shows some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps import _core_test

Array = npt.NDArray[Any]
Frames = list[bytes]

BOOT_ID = bytes(range(0x10, 0x20))
OTHER_BOOT_ID = bytes(range(0x20, 0x30))
OPS = {
    **{"pull": 1, "push": 2, "assign": 3, "remove": 4, "contains": 5, "scan": 6, "stats": 7},
    "set_lr": 8,
}
FOLD = 64  # as the operation of an entry
WRITES = {2, 3, 4, 8}
CARRY_VALUES = {2, 3, 8}


def uint64s(values: Any = ()) -> Array:
    return np.array(values, dtype=np.uint64)


def floats(values: Any = ()) -> Array:
    return np.array(values, dtype=np.float32)


# ---- Data messages


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


PUSH_REQUEST = request(
    op=OPS["push"],
    parts=[(0, 1, 11, 2, 4), (3, 1, 12, 1, 2)],
    keys=uint64s([7, 2**64 - 1, 300]),
    values=floats([1.0, -2.0, 0.5, 0.25, 8.0, -0.0]),
)
PUSH_REPLY = reply(parts=[(0, 0, 0, 0, 0), (3, 3, 0, 0, 11)])


# ---- Maps, heartbeats, notices, reports


def view(
    number: int = 1,
    chain: tuple[int, ...] = (1,),
    sealed: bool = False,
    read_only: bool = False,
    joiner: int | None = None,
) -> tuple[int, list[int], bool, bool, int | None]:
    return (number, list(chain), sealed, read_only, joiner)


def cluster_map(**fields: Any) -> dict[str, Any]:
    return {
        "cluster_id": 0xC1,
        "epoch": 2,
        "incarnation": 3,
        "version": 4,
        "highest_session": 9,
        "sessions": [6, 8],
        "servers": [
            (
                *(1, BOOT_ID, False, ["tcp://10.0.0.1:7001", "tcp://10.0.0.1:7002"]),
                ["tcp://10.0.0.1:7003", "tcp://10.0.0.1:7004"],
            ),
            (2, bytes(16), True, [], []),
            (3, OTHER_BOOT_ID, False, ["tcp://10.0.0.3:7001"], ["tcp://10.0.0.3:7002"]),
        ],
        "tables": [
            {
                "id": 5,
                "name": "words",
                "kind": "sparse",
                "row_width": 2,
                "n_rows": 0,
                "num_shards": 4,
                "replication": 2,
                "rule": (4, [0.5, 1.0, 0.25, 0.125]),
                "initializer": (3, 42, -1.0, 1.0),
                "views": [
                    view(1, (1, 3)),
                    view(8, (3,), sealed=True, joiner=1),
                    view(2, (2,)),
                    view(7, (3, 1), sealed=True, read_only=True),
                ],
                "rounds": None,
            },
            {
                "id": 6,
                "name": "bias",
                "kind": "dense",
                "row_width": 1,
                "n_rows": 10,
                "num_shards": 1,
                "replication": 1,
                "rule": (1, []),
                "initializer": (1, 0, 0.0, 0.0),
                "views": [view(2**32 - 1, (3, 2, 1))],
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
        "told_minimum": 0,
        "told_rounds": 0,
        **fields,
    }


def worker_heartbeat() -> dict[str, Any]:
    return heartbeat(
        role=2, id=2**40, rows=0, clock=7, busy_us=123456, told_minimum=5, told_rounds=6
    )


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
    "forgotten": 3,
    "rounds": [(0, 5, [(0, 11), (2, 2**40)]), (1, 2, [])],
}
REPORT = {
    "cluster_id": 0xC1,
    "server": 3,
    "boot_id": BOOT_ID,
    "map_version": 3 << 32 | 4,
    "silent": [1, 7],
    # table, shard, view, index, folded, state
    "shards": [(5, 0, 1, 2**40, 0, 1), (5, 2, 3, 0, 0, 2), (6, 0, 2, 17, 6, 3)],
}


# ---- Messages of chains


def chain_message(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "cluster_id": 0xC1,
        "epoch": 2,
        "from": BOOT_ID,
        "to": OTHER_BOOT_ID,
        "map_version": 4,
        **fields,
    }


def entry(**fields: Any) -> tuple[int, ...]:
    """Return the numbers of an entry, in the order of EntryHeader."""
    return tuple(
        {
            "table": 5,
            "shard": 0,
            "view": 1,
            "op": OPS["push"],
            "code": 0,
            "has_step": 0,
            "index": 21,
            "session": 6,
            "sequence": 11,
            "detail": 0,
            "step": 0,
            "n_keys": 0,
            "n_values": 0,
            **fields,
        }.values()
    )


ENTRIES = chain_message(
    "entries",
    entries=[
        entry(n_keys=2, n_values=4),
        entry(index=22, sequence=12, code=19),  # refused by the head: without content
        entry(index=23, op=FOLD, has_step=1, session=0, sequence=0, step=5, n_keys=4),
    ],
    keys=uint64s([7, 2**64 - 1, 0, 11, 2, 2**40]),
    values=floats([1.0, -2.0, 0.5, 0.25]),
)
# table, shard, view, resend, held, committed
ACKS = chain_message("acks", acks=[(5, 0, 1, 0, 23, 21), (5, 3, 7, 1, 4, 4)])
QUESTION = chain_message("question", acks=[(5, 0, 1, 0, 23, 21)])
# table, shard, view, image, offset, total
SLICE = chain_message("slice", slice=(5, 1, 8, 2, 1048576, 1048583), bytes=b"\1\2\3\4\5\6\7")
# table, shard, view, refused, image, received
PROGRESS = chain_message("progress", progress=[(5, 1, 8, 0, 2, 1048583), (5, 2, 8, 1, 1, 0)])


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
    # Since folds leave out what is not finite, with what they left out and the rate in force.
    "left_out_stats_reply": lambda: _core_test.encode_reply(
        reply(
            parts=[(1, 0, 9, 0, 0)],
            keys=uint64s([20, 8192, 4, 6, 1, 2, 5, 7, 0x3F000000]),
        )
    ),
    "left_out_pull_reply": lambda: _core_test.encode_reply(
        reply(parts=[(2, 0, 0, 1, 6)], values=floats([1.0]))
    ),
    "not_finite_reply": lambda: _core_test.encode_reply(reply(parts=[(2, 19, 0, 0, 3)])),
    "moved_reply": lambda: _core_test.encode_reply(reply(parts=[(2, 2, 0, 0, 0)])),
    "wrong_cluster_reply": lambda: _core_test.encode_reply(reply(code=25)),
    "cluster_map": lambda: [_core_test.encode_map(cluster_map())],
    "server_heartbeat": lambda: [_core_test.encode_heartbeat(heartbeat())],
    "worker_heartbeat": lambda: [_core_test.encode_heartbeat(worker_heartbeat())],
    "clock_notice": lambda: [_core_test.encode_clock_notice(CLOCK_NOTICE)],
    "rounds_notice": lambda: [_core_test.encode_rounds_notice(ROUNDS_NOTICE)],
    "report": lambda: [_core_test.encode_report(REPORT)],
    "chain_entries": lambda: _core_test.encode_chain_message(ENTRIES),
    "chain_acks": lambda: _core_test.encode_chain_message(ACKS),
    "chain_question": lambda: _core_test.encode_chain_message(QUESTION),
    "chain_slice": lambda: _core_test.encode_chain_message(SLICE),
    "chain_progress": lambda: _core_test.encode_chain_message(PROGRESS),
}


# ---- Frames and back


def decode(name: str, frames: Frames, offset: int = 0) -> Any:
    """What the frames say; None or ValueError when they are refused."""
    if name.endswith("_request"):
        return _core_test.decode_request(frames, offset)
    if name.endswith("_reply"):
        return _core_test.decode_reply(frames, offset)
    if name.startswith("chain_"):
        return _core_test.decode_chain_message(frames, offset)
    (frame,) = frames
    return getattr(_core_test, f"decode_{_single(name)}")(frame)


def encode(name: str, message: Any) -> Frames:
    if name.endswith("_request"):
        return list(_core_test.encode_request(message))
    if name.endswith("_reply"):
        return list(_core_test.encode_reply(message))
    if name.startswith("chain_"):
        return list(_core_test.encode_chain_message(message))
    return [getattr(_core_test, f"encode_{_single(name)}")(message)]


def _single(name: str) -> str:
    """Return what the core calls a message of one frame."""
    kinds = {"cluster_map": "map", "server_heartbeat": "heartbeat", "worker_heartbeat": "heartbeat"}
    return kinds.get(name, name)


def is_refused(name: str, frames: Frames) -> bool:
    try:
        return decode(name, frames) is None
    except ValueError:
        return True


def truncations(frames: Frames) -> Iterator[Frames]:
    for i, frame in enumerate(frames):
        for size in range(len(frame)):
            yield [*frames[:i], frame[:size], *frames[i + 1 :]]


def mutations(frames: Frames, every: int = 1) -> Iterator[Frames]:
    """Each byte changed: by one bit, and to some of all values."""
    for i, frame in enumerate(frames):
        for at, old in enumerate(frame):
            for new in range(256):
                if new != old and ((at * 256 + new) % every == 0 or bin(new ^ old).count("1") == 1):
                    yield [
                        *frames[:i],
                        frame[:at] + bytes([new]) + frame[at + 1 :],
                        *frames[i + 1 :],
                    ]


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert got[name].dtype == value.dtype
            assert got[name].tobytes() == value.tobytes(), name
        else:
            assert got[name] == value, name
