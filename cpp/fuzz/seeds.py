"""Write the corpus that fuzzing starts from: the golden messages, as steps of fuzz.h.

Usage: seeds.py GOLDEN_FOLDER CORPUS_FOLDER
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

REQUEST, REPLY, MAP, HEARTBEAT, SHAPED = range(5)
KINDS = {"request": REQUEST, "reply": REPLY, "map": MAP, "heartbeat": HEARTBEAT}


def chunk(data: bytes) -> bytes:
    """Return a u16 length and the bytes."""
    return len(data).to_bytes(2, "little") + data


def step(kind: int, data: bytes) -> bytes:
    """Return one step of an input."""
    return bytes([kind]) + chunk(data)


def seeds(golden: Path) -> dict[str, bytes]:
    """Return inputs by name."""
    steps = {}
    for path in sorted(golden.glob("*.hex")):
        frames = [bytes.fromhex(line) for line in path.read_text().split()]
        kind = KINDS[path.stem.rsplit("_", 1)[1]]
        data = b"".join(map(chunk, frames)) if kind in (REQUEST, REPLY) else frames[0]
        steps[path.stem] = step(kind, data)
    # Shaped requests: op, table, session, key set, then parts. One story for each operation and
    # table, with several requests, so that there is something to pull, scan and forget.
    source = random.Random(1)
    for op in range(7):
        for table in range(4):
            story = [
                step(SHAPED, bytes([kind, table, 1]) + source.randbytes(100))
                for kind in (1, op, 1, op, op)
            ]
            steps[f"shaped_{op}_{table}"] = b"".join(story)
    return steps


def main() -> None:
    """Write one file an input."""
    golden, corpus = map(Path, sys.argv[1:])
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(golden).items():
        (corpus / name).write_bytes(data)


if __name__ == "__main__":
    main()
