"""Write the corpus that fuzzing starts from: the golden messages, as steps of fuzz.h.

Usage: seeds.py GOLDEN_FOLDER CORPUS_FOLDER
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

REQUEST, REPLY, MAP, HEARTBEAT, SHAPED, CLOCKS, ROUNDS, REPORT, CHAIN_FRAMES, CHAIN_STORY = range(
    10
)
KINDS = {
    "request": REQUEST,
    "reply": REPLY,
    "map": MAP,
    "heartbeat": HEARTBEAT,
    "clock_notice": CLOCKS,
    "rounds_notice": ROUNDS,
    "report": REPORT,
}
IN_FRAMES = (REQUEST, REPLY, CHAIN_FRAMES)
OPS = 8
TABLES = 6
IN_ROUNDS = {4: (0, 1), 5: (1, 0)}  # of the tables under BSP: (group, first round)
PULL, PUSH = 0, 1
CHAIN_TABLES = 4  # of chain_victim.cc
STORIES = 40


def chunk(data: bytes) -> bytes:
    """Return a u16 length and the bytes."""
    return len(data).to_bytes(2, "little") + data


def step(kind: int, data: bytes) -> bytes:
    """Return one step of an input."""
    return bytes([kind]) + chunk(data)


def rounds_notice(first_number: int, group: int, numbers: range) -> bytes:
    """Return closed rounds of sessions 1 and 3, as FORMAT.md has them."""
    members = struct.pack("<IIQIQ", 2, 0, 1, 1, 3)
    rounds = b"".join(struct.pack("<IQ", group, number) + members for number in numbers)
    return struct.pack("<4sQQQI", b"FPR1", 1, 0, first_number, len(numbers)) + rounds


def clock_notice(number: int) -> bytes:
    """Return a notice for session 1 (see control_steps.cc) that opens gates up to `number`."""
    return struct.pack("<4s7Q", b"FPC1", 1, 2, number, number, number, number, 0)


def seeds(golden: Path) -> dict[str, bytes]:
    """Return inputs by name."""
    steps = {}
    for path in sorted(golden.glob("*.hex")):
        frames = [bytes.fromhex(line) for line in path.read_text().split()]
        is_chain = path.stem.startswith("chain_")
        ends = (kind for end, kind in KINDS.items() if path.stem.endswith(end))
        kind = CHAIN_FRAMES if is_chain else next(ends)
        data = b"".join(map(chunk, frames)) if kind in IN_FRAMES else frames[0]
        steps[path.stem] = step(kind, data)
    # Shaped requests: op, table, session, step, key set, then parts. One story for each operation
    # and table, with several requests, so that there is something to pull, scan and forget.
    source = random.Random(1)
    for op in range(OPS):
        for table in range(TABLES):
            story = [
                step(SHAPED, bytes([kind, table, 1]) + source.randbytes(100))
                for kind in (PUSH, op, PUSH, op, op)
            ]
            steps[f"shaped_{op}_{table}"] = b"".join(story)
    # Steps under BSP: two sessions push, the round is closed, gates open, pulls follow.
    for table, (group, first) in IN_ROUNDS.items():
        story = []
        for number in range(first, first + 3):
            story += [
                step(SHAPED, bytes([op, table, session, number + 1, 0]) + source.randbytes(60))
                for op, session in ((PUSH, 1), (PUSH, 3), (PULL, 1))
            ]
            # TakeRounds makes it 1, 2, 3.
            closed = rounds_notice(4 + number - first, group, range(number, number + 1))
            story += [step(ROUNDS, closed), step(CLOCKS, clock_notice(number + 1))]
        steps[f"steps_{table}"] = b"".join(story)
    # Chains: a push at each server to each table, then whatever comes of it.
    for number in range(STORIES):
        story = b""
        for table in range(CHAIN_TABLES):
            # Ask: node, op, table, session, step, no key set, one part: shard, sequence, 4 keys
            push = bytes([0, table % 2, PUSH, table, 1, 1, 0, 0, table % 3, 0, 4, 1, 2, 3, 5, 0])
            story += push + bytes(12) + bytes([4, 0, 0]) * 4  # and Deliver
        story += source.randbytes(200 + 20 * number)
        steps[f"chains_{number}"] = step(CHAIN_STORY, story)
    return steps


def main() -> None:
    """Write one file an input."""
    golden, corpus = map(Path, sys.argv[1:])
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(golden).items():
        (corpus / name).write_bytes(data)


if __name__ == "__main__":
    main()
