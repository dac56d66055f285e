"""``fastps-bench sparse``: pulls and pushes of random keys, each case in processes of its own."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from fastps_bench import machine
from fastps_bench.arguments import MODES, add_json, append_json, names, positive, positives
from fastps_bench.cases import CaseError, keys_that_fit, run_case, shown_progress
from fastps_bench.limits import COPY_BYTES
from fastps_bench.measure import Plan
from fastps_bench.progress import Progress
from fastps_bench.report import table
from fastps_bench.targets import RIVALS
from fastps_bench.workload import OPTIMIZERS, Work

__all__ = ["add_parser", "run"]

N_REQUESTS = 64

DESCRIPTION = """\
Measure a sparse table: pulls and pushes of random keys with 1, 16 and 64 floats a row, and requests
of one key. Every row is checked before a figure is told. Figures are medians of the repeats, with
the least and the greatest, beside the speed of memcpy, of numpy and of bare ZeroMQ in this run.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "sparse",
        help="pulls and pushes of random keys",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--keys", type=positive, help="rows of the table; by default 10 M, or what memory allows")
    add("--batch", type=positive, default=100_000, help="keys of a request")
    add("--widths", type=positives, default="1,16,64", help="floats of a row")
    add("--repeats", type=positive, default=5, help="of every figure")
    add("--requests", type=positive, default=N_REQUESTS, help="in a repeat")
    add("--single", type=positive, default=1000, help="requests of one key in a repeat")
    add("--in-flight", type=positive, default=1, help="requests under way at a time")
    add("--mode", type=_modes, default=",".join(MODES), help="embedded (in process) and tcp")
    add("--servers", type=positive, default=1, help="server processes")
    add("--data-threads", type=positive, default=1, help="of each server")
    add("--optimizer", choices=OPTIMIZERS, default="sgd", help="rule of the servers")
    add("--rivals", type=_rivals, default="", help=f"also measure some of: {', '.join(RIVALS)}")
    add("--seed", type=int, default=0, help="of the choice of keys")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all cases, print a table; return the exit code."""
    plan = Plan(options.repeats, min(options.single, options.batch), options.in_flight)
    results: list[dict[str, Any]] = []
    try:
        with shown_progress() as progress:
            for width in options.widths:
                work = Work(
                    _n_keys(options, width),
                    width,
                    options.batch,
                    options.requests,
                    options.optimizer,
                    options.seed,
                )
                for mode in (*options.rivals, *options.mode):
                    if mode in RIVALS and work.optimizer == "adagrad":
                        progress.say(f"fastps-bench: {mode} is skipped: it has no adagrad")
                        continue
                    progress.begin(f"{mode}, {width} floats, {work.n_keys:,} keys")
                    figures = _measure(mode, options, work, plan, progress)
                    results.append({"mode": mode, "width": width, "keys": work.n_keys, **figures})
    except CaseError as error:
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    facts = machine.describe()
    print(table(facts, results))
    append_json("sparse", options, facts, results)
    return 0


def _measure(
    mode: str, options: argparse.Namespace, work: Work, plan: Plan, progress: Progress
) -> dict[str, Any]:
    case = {
        "benchmark": "sparse",
        "mode": mode,
        "servers": options.servers,
        "work": asdict(work),
        "plan": asdict(plan),
        "copy_bytes": min(COPY_BYTES, work.n_keys * 64),
    }
    launch = None
    if mode == "tcp":
        launch = [f"--servers={options.servers}", f"--data-threads={options.data_threads}"]
    return run_case(f"{mode}, {work.width} floats", case, launch, progress)


def _n_keys(options: argparse.Namespace, width: int) -> int:
    # A row and room for growth, its key, what it should be, and two arrays of a copy's check.
    return keys_that_fit(options.keys, width * 4 * 1.3 + 100, f" of {width} floats")


def _modes(text: str) -> list[str]:
    return names(text, MODES)


def _rivals(text: str) -> list[str]:
    return names(text, tuple(RIVALS))
