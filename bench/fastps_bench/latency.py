"""``fastps-bench latency``: what steps cost: clock(), gates, rounds, requests to the scheduler."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastps_bench import machine
from fastps_bench.arguments import add_json, append_json, positive, positives
from fastps_bench.cases import CaseError, run_case, shown_progress
from fastps_bench.report import aligned, header

__all__ = ["add_parser", "run"]

DESCRIPTION = """\
Measure what the steps of a job cost on a real cluster, for some numbers of workers at once: one key
pulled (beside bare ZeroMQ), clock() with nothing pushed, a pull whose gate is open beside one that
has no gate, a step of pull, push and clock() under ASP, SSP and BSP, and how many requests the
scheduler answers. More workers than processors wait for processors, too: compare within a line.
"""
LABELS = {
    "zmq_us": "bare ZeroMQ round trip",
    "pull_asp_us": "pull of a key, ASP",
    "pull_ssp_us": "pull of a key, SSP, gate open",
    "clock_us": "clock(), nothing pushed",
    "step_asp_us": "step of {keys} keys, ASP",
    "step_ssp_us": "step of {keys} keys, SSP(3)",
    "step_bsp_us": "step of {keys} keys, BSP",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "latency",
        help="steps, gates, rounds, the scheduler",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--workers", type=positives, default="1,2,8", help="numbers of workers to measure")
    add("--servers", type=positive, default=1, help="server processes")
    add("--keys", type=positive, default=1000, help="keys of a step")
    add("--steps", type=positive, default=200, help="steps, and calls of each kind, in a repeat")
    add("--repeats", type=positive, default=5, help="of every figure")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all cases, print a table; return the exit code."""
    results: list[dict[str, Any]] = []
    try:
        with shown_progress() as progress:
            for workers in options.workers:
                progress.begin(f"{workers} workers")
                case = {"keys": options.keys, "steps": options.steps, "repeats": options.repeats}
                launch = [f"--servers={options.servers}", f"--workers={workers}"]
                module = "fastps_bench.latency_worker"
                figures = run_case(f"{workers} workers", case, launch, progress, module)
                results.append({"workers": workers, **figures})
    except CaseError as error:
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    facts = machine.describe()
    print(_table(facts, results, options.keys))
    append_json("latency", options, facts, results)
    return 0


def _table(facts: dict[str, Any], results: list[dict[str, Any]], keys: int) -> str:
    rows = [["us, median (min - max)", *(f"{result['workers']} workers" for result in results)]]
    for name, label in LABELS.items():
        cells = [_microseconds(result[name]) for result in results]
        rows.append([label.format(keys=keys), *cells])
    rates = [f"{result['scheduler_per_s']['median']:,.0f}" for result in results]
    rows.append(["scheduler, requests/s of all workers", *rates])
    return "\n".join([*header(facts), "", *aligned(rows)])


def _microseconds(figure: dict[str, float]) -> str:
    return f"{figure['median']:,.0f} ({figure['min']:,.0f} - {figure['max']:,.0f})"
