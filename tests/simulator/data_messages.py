"""Requests and replies of cpp/wire/FORMAT.md, as far as model workers speak them; fast."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "AGAIN",
    "ASSIGN",
    "GAP",
    "OK",
    "PULL",
    "PUSH",
    "SESSION_ENDED",
    "Answer",
    "PartAnswer",
    "Stamp",
    "chain_text",
    "decode_reply",
    "encode_request",
    "request_id_of",
]

PULL, PUSH, ASSIGN = 1, 2, 3
OK = (0, 4)  # kOk, kDuplicate
GAP = 3
AGAIN = (1, 2, GAP, 25)  # kRetry, kMoved, kGap, kWrongCluster
SESSION_ENDED = 20

_REQUEST = struct.Struct("<4sHBBQII16sQQQQIIII")
_REQUEST_ID = struct.Struct("<Q")
_PART = struct.Struct("<IIQIIII")
_REPLY = struct.Struct("<4sHBBQ16sQQIIII")
_RESULT = struct.Struct("<IBBHIIQ")


class Stamp(NamedTuple):
    """Whom a request is meant for, and the map it was made by."""

    cluster_id: int
    epoch: int
    incarnation: int
    boot_id: bytes
    map_version: int


class PartAnswer(NamedTuple):
    """What one shard answers."""

    shard: int
    code: int
    values: tuple[float, ...]
    detail: int


class Answer(NamedTuple):
    """A reply."""

    code: int
    boot_id: bytes
    request_id: int
    parts: tuple[PartAnswer, ...]


def encode_request(
    stamp: Stamp,
    op: int,
    table: int,
    session: int,
    request_id: int,
    argument: int,
    parts: Sequence[tuple[int, int, int, Sequence[int], Sequence[float]]],
) -> list[bytes]:
    """Return the frames of a request; a part is (shard, view, sequence, keys, values)."""
    keys = [key for part in parts for key in part[3]]
    values = [value for part in parts for value in part[4]]
    head = _REQUEST.pack(
        b"FPS1", 1, op, 0, *stamp, session, request_id, argument, table,
        len(parts), len(keys), len(values),
    )  # fmt: skip
    for shard, view, sequence, part_keys, part_values in parts:
        head += _PART.pack(shard, view, sequence, len(part_keys), len(part_values), 0, 0)
    frames = [head]
    if keys:
        frames.append(struct.pack(f"<{len(keys)}Q", *keys))
    if values:
        frames.append(struct.pack(f"<{len(values)}f", *values))
    return frames


def request_id_of(frames: list[bytes]) -> int:
    """Return the number of a request."""
    number: int = _REQUEST_ID.unpack_from(frames[0], 56)[0]
    return number


def decode_reply(frames: list[bytes]) -> Answer:
    """Return what a server answered. Requires: it carries no keys (pulls and writes do not)."""
    head = frames[0]
    _, _, code, _, _, boot_id, _, request_id, n_parts, n_keys, n_values, _ = _REPLY.unpack_from(
        head
    )
    assert n_keys == 0
    values = struct.unpack(f"<{n_values}f", frames[1]) if n_values else ()
    parts, begin = [], 0
    for n in range(n_parts):
        at = _REPLY.size + n * _RESULT.size
        shard, part_code, _, _, _, count, detail = _RESULT.unpack_from(head, at)
        parts.append(PartAnswer(shard, part_code, values[begin : begin + count], detail))
        begin += count
    return Answer(code, boot_id, request_id, tuple(parts))


def chain_text(frames: list[bytes]) -> str:
    """Return a chain message in short, for the trace."""
    return f"{frames[0][:4].decode()} {[len(frame) for frame in frames]}"
