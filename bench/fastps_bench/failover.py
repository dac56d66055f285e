"""``fastps-bench failover``: what copies of shards cost, and how soon they serve on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastps_bench import machine
from fastps_bench.arguments import add_json, append_json, positive
from fastps_bench.cases import CaseError, run_case, shown_progress
from fastps_bench.report import aligned, header

__all__ = ["add_parser", "run"]

DESCRIPTION = """\
Measure what it costs to keep 1, 2 or 3 copies of each shard: pushes and pulls of many keys by all
workers at once, and of one key by one. Then servers die while the other workers push on, each when
all copies are there, and a push to all shards is made: how long it takes until it is acknowledged.
Killed servers are reported by the launcher, as any process of its machine; stopped ones have to be
found out by their silence, as a machine that goes away. More processes than processors wait for
processors, too.
"""
COPIES_MAX = 3


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "failover",
        help="the cost of copies, and how soon they serve on",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--copies", type=_copies, default="1,2,3", help="numbers of copies to measure")
    add("--servers", type=positive, default=3, help="server processes")
    add("--workers", type=positive, default=2, help="worker processes")
    add("--keys", type=positive, default=10_000, help="keys of a push or pull of many")
    add("--rows", type=positive, default=1_000_000, help="of the table, one float each")
    add("--calls", type=positive, default=200, help="calls of each kind in a repeat")
    add("--repeats", type=positive, default=5, help="of every figure")
    add("--kills", type=_whole, default=20, help="servers that die each way, for each 2 and more")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all cases, print the tables; return the exit code."""
    results: list[dict[str, Any]] = []
    try:
        if max(options.copies) > options.servers:
            raise CaseError(
                f"{max(options.copies)} copies of a shard need so many servers, and --servers is "
                f"{options.servers}"
            )
        with shown_progress() as progress:
            for copies in options.copies:
                name = f"{copies} copies"
                progress.begin(name)
                kills = options.kills if copies > 1 else 0
                case = {
                    **{each: getattr(options, each) for each in ("keys", "rows", "calls")},
                    "repeats": options.repeats,
                    "servers": options.servers,
                    "kills": kills,
                }
                launch = [
                    f"--servers={options.servers}",
                    f"--workers={options.workers}",
                    f"--replication={copies}",
                    f"--max-restarts={2 * kills}",
                ]
                module = "fastps_bench.failover_worker"
                figures = run_case(name, case, launch, progress, module)
                results.append({"copies": copies, **figures})
    except CaseError as error:
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    facts = machine.describe()
    print(_table(facts, results))
    append_json("failover", options, facts, results)
    return 0


def _copies(text: str) -> list[int]:
    numbers = [positive(word) for word in text.split(",")]
    if max(numbers) > COPIES_MAX:
        raise argparse.ArgumentTypeError(f"{text}: there are at most {COPIES_MAX} copies")
    return numbers


def _whole(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _table(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    lines = [*header(facts), "", *aligned(_costs(results))]
    failovers = _failovers(results)
    if len(failovers) > 1:
        lines += ["", *aligned(failovers)]
    lines += ["", "Medians (least - greatest) of repeats; p50, p99 and greatest of single calls."]
    return "\n".join(lines)


def _costs(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["copies", "push Mkeys/s", "", "pull Mkeys/s", "", "push of a key, us: p50", "p99"]]
    rows[0] += ["pull, us: p50", "p99"]
    for result in results:
        cells = [str(result["copies"])]
        for name in ("push", "pull"):
            figure = result[f"{name}_mkeys_s"]
            cells += [f"{figure['median']:.2f}", f"({figure['min']:.2f} - {figure['max']:.2f})"]
        for name in ("push", "pull"):
            single = result[f"{name}_one_us"]
            cells += [f"{single['p50']:,.0f}", f"{single['p99']:,.0f}"]
        rows.append(cells)
    return rows


def _failovers(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["failover", "n", "s: p50", "p99", "greatest", "all copies again, s: p50", "greatest"]]
    for result in results:
        for how, found in result["failovers"].items():
            cells = [f"{result['copies']} copies, {how}", str(found["n"])]
            cells += [f"{found['s'][name]:.3f}" for name in ("p50", "p99", "max")]
            cells += [f"{found['all_copies_s'][name]:.1f}" for name in ("p50", "max")]
            rows.append(cells)
    return rows
