"""``fastps-bench memory``: bytes per key, and how long pulls wait while a table grows."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from fastps_bench import machine
from fastps_bench.arguments import MODES, add_json, append_json, names, positive
from fastps_bench.cases import CaseError, keys_that_fit, run_case, shown_progress
from fastps_bench.footprint import stored_bytes
from fastps_bench.memory_report import memory_table
from fastps_bench.progress import Progress
from fastps_bench.workload import Work

__all__ = ["add_parser", "run"]

N_CHECKED = 4  # requests that look whether rows are what they should be
TABLES = ((1, "sgd"), (16, "adagrad"))  # floats and rule of the tables whose bytes are measured
MEASURES = ("bytes", "growth")

DESCRIPTION = """\
Measure the memory of sparse tables, in two parts.

bytes: fill a table with --keys rows of one float (SGD), then one with rows of 16 floats (AdaGrad),
  each embedded in a new process, and see how much of the machine's memory (RSS) the process took
  for it. Beside that stand the bytes of key, values and state alone, and what stats() tells.

growth: fill a table with --keys rows of one float, then push as many new keys while another worker
  pulls a few keys at a time. The longest of these pulls is the longest time that growth stopped
  anybody. The same pushes are repeated without new keys, for comparison: on a busy machine pulls
  wait as well when nothing grows. Embedded, the two workers are threads; over tcp they are
  processes, beside one server.
"""
EPILOG = """\
examples:
  fastps-bench memory                                  all of it, about a minute
  fastps-bench memory --keys 1_000_000                 smaller
  fastps-bench memory --measure growth --mode tcp      one part, one way to reach the table
  fastps-bench memory --json figures.jsonl             keep the figures
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "memory",
        help="bytes per key, and waits while a table grows",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--keys",
        type=positive,
        help="rows of a table (before it grows); by default 10 M, or what memory allows",
    )
    add("--batch", type=positive, default=100_000, help="keys of a push (default: 100,000)")
    add("--pull-keys", type=positive, default=16, help="keys of a pull in growth (default: 16)")
    add("--measure", type=_measures, default=list(MEASURES), help="bytes, growth (default: both)")
    add("--mode", type=_modes, default=list(MODES), help="of growth: embedded, tcp (default: both)")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all cases, print tables; return the exit code."""
    results: list[dict[str, Any]] = []
    try:
        with shown_progress() as progress:
            if "bytes" in options.measure:
                results += [_bytes(options, *shape, progress) for shape in TABLES]
            if "growth" in options.measure:
                results += [_growth(options, mode, progress) for mode in options.mode]
    except CaseError as error:
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    facts = machine.describe()
    print(memory_table(facts, results))
    append_json("memory", options, facts, results)
    return 0


def _bytes(
    options: argparse.Namespace, width: int, optimizer: str, progress: Progress
) -> dict[str, Any]:
    # Growth keeps up to 1.3 times the slots, and an index has some slots free.
    row_bytes = int(stored_bytes(width, optimizer) * 1.7) + 8
    n_keys = keys_that_fit(options.keys, row_bytes)
    work = Work(n_keys, width, options.batch, N_CHECKED, optimizer)
    name = f"bytes, {width} floats, {optimizer}, {n_keys:,} keys"
    progress.begin(name)
    case = {"benchmark": "bytes", "work": asdict(work)}
    figures = run_case(name, case, None, progress)
    described = {"measure": "bytes", "width": width, "optimizer": optimizer, "keys": n_keys}
    return {**described, **figures}


def _growth(options: argparse.Namespace, mode: str, progress: Progress) -> dict[str, Any]:
    n_keys = keys_that_fit(options.keys, 2 * int(stored_bytes(1, "sgd") * 2.2))
    work = Work(n_keys, 1, options.batch, 0)
    name = f"growth, {mode}, {n_keys:,} keys"
    progress.begin(name)
    case = {"benchmark": "growth", "mode": mode, "work": asdict(work)}
    launch = ["--workers=2"] if mode == "tcp" else None
    waits = run_case(name, {**case, "pull_keys": options.pull_keys}, launch, progress)
    return {"measure": "growth", "mode": mode, "keys": n_keys, "waits": waits}


def _measures(text: str) -> list[str]:
    return names(text, MEASURES)


def _modes(text: str) -> list[str]:
    return names(text, MODES)
