"""A process that measures one case and writes the figures to a file.

``python -m fastps_bench.worker CASE.json``; under fastps-launch when the case needs a cluster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fastps
from fastps_bench.footprint import footprint
from fastps_bench.growth import growth
from fastps_bench.limits import memcpy_gb_s, zmq_round_trip_us
from fastps_bench.measure import Plan, measure
from fastps_bench.targets import RIVALS, FastPSTarget, Target
from fastps_bench.timing import Note
from fastps_bench.workload import Work

__all__ = ["NOTE_SECONDS", "Notes", "main"]

NOTE_SECONDS = 0.2


def main(path: Path) -> int:
    """Measure the case that the file describes; return the exit code.

    Every case has benchmark, work and result (the file to write); what else it has depends on
    benchmark: "sparse" mode, servers, plan and copy_bytes; "growth" mode and pull_keys; "bytes"
    nothing. Of the workers of one case, one writes.
    """
    case = json.loads(path.read_text())
    result = MEASURES[case["benchmark"]](case, Work(**case["work"]), Notes())
    if result is not None:
        Path(case["result"]).write_text(json.dumps(result))
    return 0


def _sparse(case: dict[str, Any], work: Work, note: Note) -> dict[str, Any]:
    plan = Plan(**case["plan"])
    target = _target(case["mode"], case["servers"], work)
    result = measure(target, work, plan, note)
    target.close()
    if case["mode"] == "tcp":
        result["zmq_round_trip_us"] = asdict(zmq_round_trip_us(plan.repeats, plan.n_single))
    result["memcpy_gb_s"] = asdict(memcpy_gb_s(plan.repeats, case["copy_bytes"]))
    return result


def _bytes(case: dict[str, Any], work: Work, note: Note) -> dict[str, Any]:
    return footprint(work, note)


def _growth(case: dict[str, Any], work: Work, note: Note) -> dict[str, Any] | None:
    return growth(case["mode"], work, case["pull_keys"], note)


MEASURES: dict[str, Callable[[dict[str, Any], Work, Note], dict[str, Any] | None]] = {
    "sparse": _sparse,
    "bytes": _bytes,
    "growth": _growth,
}


def _target(mode: str, servers: int, work: Work) -> Target:
    if mode in RIVALS:
        return RIVALS[mode](work)
    if mode == "embedded":
        return FastPSTarget(fastps.connect(embedded=True, num_servers=servers), work)
    return FastPSTarget(fastps.connect(require_cluster=True), work)


class Notes:
    """Tells the parent how far it is, in lines of JSON, a few a second."""

    def __init__(self) -> None:
        self._last = ("", 0.0)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell it, if it is time to."""
        now = time.monotonic()
        if what != self._last[0] or now > self._last[1] + NOTE_SECONDS:
            self._last = (what, now)
            print(json.dumps([what, done, total]), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
