"""``fastps-bench checkpoint``: how fast tables are saved and restored, and what training feels."""

from __future__ import annotations

import argparse
import sys
from tempfile import TemporaryDirectory
from typing import Any

from fastps_bench import machine
from fastps_bench.arguments import add_json, append_json, positive, positives
from fastps_bench.cases import CaseError, keys_that_fit, run_case, shown_progress
from fastps_bench.report import aligned, header

__all__ = ["add_parser", "run"]

DESCRIPTION = """\
Measure checkpoints of a table whose rows all have state. Workers push all the time, with the next
push as soon as one is acknowledged, and rank 0 saves again and again: what do pushes take before
and meanwhile? Then nobody pushes: how fast is a save, and how much is in an increment after
1 % of the rows, drawn at random, were pushed to? At last new jobs restore the checkpoint. The
disk's own speed is that of one file of as many bytes, written and fsynced, or read, in one go;
before something is read the system is asked to forget it.
"""
OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "RMSProp", "Adam", "FTRL")
CONSISTENCIES = ("ASP", "BSP")
# A row of Adam's needs three floats a value; with its key and the spare room of the index.
ROW_BYTES_MAX = 40
MODULE = "fastps_bench.checkpoint_worker"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "checkpoint",
        help="how fast tables are saved and restored, and what training feels of it",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", type=positive, default=1_000_000, help="of the table")
    add("--row-floats", type=positive, default=16, help="floats of a row, without state")
    add("--servers", type=positive, default=2, help="server processes")
    add(
        "--restore-servers",
        type=positives,
        help="of the jobs that restore (default: as many, and one more)",
    )
    add("--workers", type=positive, default=1, help="worker processes, all of which push")
    add("--optimizer", choices=OPTIMIZERS, default="AdaGrad", help="of the table")
    add("--consistency", choices=CONSISTENCIES, default="ASP", help="under BSP a push is a step")
    add("--batch", type=positive, default=1000, help="keys of a push, drawn at random")
    add("--repeats", type=positive, default=5, help="of every figure")
    add(
        "--folder",
        help="where to save, in a new folder that is removed at the end (default: a temporary one)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all cases, print the tables; return the exit code."""
    results: list[dict[str, Any]] = []
    names = ("rows", "row_floats", "optimizer", "consistency", "batch", "repeats")
    case = {name: getattr(options, name) for name in names}
    restore_servers = options.restore_servers or [options.servers, options.servers + 1]
    try:
        keys_that_fit(options.rows, ROW_BYTES_MAX + 16 * options.row_floats)
        with (
            shown_progress() as progress,
            TemporaryDirectory(prefix="fastps-bench-", dir=options.folder) as folder,
        ):
            for what, servers in [("save", options.servers)] + [
                ("restore", servers) for servers in restore_servers
            ]:
                name = f"{what}, {servers} servers"
                progress.begin(name)
                workers = options.workers if what == "save" else 1
                launch = [f"--servers={servers}", f"--workers={workers}"]
                told = {**case, "what": what, "folder": folder}
                figures = run_case(name, told, launch, progress, MODULE)
                results.append({"case": what, "servers": servers, **figures})
    except CaseError as error:
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    facts = machine.describe()
    print(_table(facts, results))
    append_json("checkpoint", options, facts, results)
    return 0


def _table(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    saved = results[0]
    increment = saved["increment"]
    rows = [["pushes", "kkeys/s", "", "ms: p50", "p99", "", "greatest", ""]]
    for name in ("normal", "saving"):
        figures = saved[name]
        cells = [name, *_cells(figures["kkeys_s"], 0), f"{figures['p50_ms']['median']:.2f}"]
        rows.append([*cells, *_cells(figures["p99_ms"], 2), *_cells(figures["max_ms"], 1)])
    speeds = [["", "MB/s", "", "of the disk's own", "s"]]
    speeds.append(_speed("save", saved["save"]))
    speeds.append(_speed("save while workers push", saved["save_under_load"]))
    for result in results[1:]:
        speeds.append(_speed(f"restore on {result['servers']} servers", result["restore"]))
    fixed = saved["fixed_ms"]
    return "\n".join(
        [
            *header(facts),
            "",
            f"{saved['bytes'] / 1e6:,.0f} MB a save",
            "",
            *aligned(speeds),
            "",
            *aligned(rows),
            "",
            f"The cut was fixed after {fixed['median']:.1f} ms ({fixed['min']:.1f} - "
            f"{fixed['max']:.1f}): so long save_async() takes.",
            f"An increment after {100 * increment['touched']:g} % of the rows: "
            f"{100 * increment['bytes_share']:.2f} % of the bytes, in "
            f"{increment['s']['median']:.2f} s.",
            "",
            "Medians (least - greatest) of repeats.",
        ]
    )


def _speed(name: str, figures: dict[str, Any]) -> list[str]:
    share = 100 * figures["of_disk"]["median"]
    cells = [name, *_cells(figures["mb_s"], 0), f"{share:.0f} %"]
    return [*cells, f"{figures['s']['median']:.2f}"]


def _cells(figure: dict[str, float], digits: int) -> list[str]:
    least, greatest = figure["min"], figure["max"]
    return [
        f"{figure['median']:,.{digits}f}",
        f"({least:,.{digits}f} - {greatest:,.{digits}f})",
    ]
