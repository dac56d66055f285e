"""``fastps-bench sparse``: pulls and pushes of random keys, each case in processes of its own."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import deque
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastps_bench import machine
from fastps_bench.limits import COPY_BYTES
from fastps_bench.measure import Plan
from fastps_bench.progress import Progress, make_progress
from fastps_bench.report import table
from fastps_bench.targets import RIVALS
from fastps_bench.workload import OPTIMIZERS, Work

__all__ = ["MODES", "CaseError", "add_parser", "run"]

MODES = ("embedded", "tcp")
N_KEYS = 10_000_000
N_REQUESTS = 64
TAIL_LINES = 20
PR_SET_PDEATHSIG = 1

DESCRIPTION = """\
Measure a sparse table: pulls and pushes of random keys with 1, 16 and 64 floats a row, and requests
of one key. Every row is checked before a figure is told. Figures are medians of the repeats, with
the least and the greatest, beside the speed of memcpy, of numpy and of bare ZeroMQ in this run.
"""


class CaseError(Exception):
    """A case could not be measured, or its outcome was wrong."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "sparse",
        help="pulls and pushes of random keys",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--keys", type=_positive, help="rows of the table; by default 10 M, or what memory allows")
    add("--batch", type=_positive, default=100_000, help="keys of a request")
    add("--widths", type=_widths, default="1,16,64", help="floats of a row")
    add("--repeats", type=_positive, default=5, help="of every figure")
    add("--requests", type=_positive, default=N_REQUESTS, help="in a repeat")
    add("--single", type=_positive, default=1000, help="requests of one key in a repeat")
    add("--in-flight", type=_positive, default=1, help="requests under way at a time")
    add("--mode", type=_modes, default=",".join(MODES), help="embedded (in process) and tcp")
    add("--servers", type=_positive, default=1, help="server processes")
    add("--data-threads", type=_positive, default=1, help="of each server")
    add("--optimizer", choices=OPTIMIZERS, default="sgd", help="rule of the servers")
    add("--rivals", type=_rivals, default="", help=f"also measure some of: {', '.join(RIVALS)}")
    add("--seed", type=int, default=0, help="of the choice of keys")
    add("--json", type=Path, metavar="FILE", help="append all figures as one line of JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all cases, print a table; return the exit code."""
    plan = Plan(options.repeats, min(options.single, options.batch), options.in_flight)
    results: list[dict[str, Any]] = []
    progress = make_progress()
    try:
        for width in options.widths:
            work = Work(
                options.keys or _keys_that_fit(width),
                width,
                options.batch,
                options.requests,
                options.optimizer,
                options.seed,
            )
            _check_memory(work)
            for mode in (*options.rivals, *options.mode):
                if mode in RIVALS and work.optimizer == "adagrad":
                    progress.say(f"fastps-bench: {mode} is skipped: it has no adagrad")
                    continue
                progress.begin(f"{mode}, {width} floats, {work.n_keys:,} keys")
                figures = _measure(mode, options, work, plan, progress)
                results.append({"mode": mode, "width": width, "keys": work.n_keys, **figures})
    except CaseError as error:
        progress.close()
        print(f"fastps-bench: {error}", file=sys.stderr)
        return 1
    finally:
        progress.close()
    facts = machine.describe()
    print(table(facts, results))
    if options.json is not None:
        parameters = {
            name: value for name, value in vars(options).items() if name not in ("run", "json")
        }
        line = {"benchmark": "sparse", **facts, "parameters": parameters, "results": results}
        with options.json.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0


def _measure(
    mode: str, options: argparse.Namespace, work: Work, plan: Plan, progress: Progress
) -> dict[str, Any]:
    with TemporaryDirectory(prefix="fastps-bench-") as folder:
        case, result = Path(folder) / "case.json", Path(folder) / "result.json"
        content = {
            "mode": mode,
            "servers": options.servers,
            "work": asdict(work),
            "plan": asdict(plan),
            "result": str(result),
            "copy_bytes": min(COPY_BYTES, work.n_keys * 64),
        }
        case.write_text(json.dumps(content))
        worker = ["-m", "fastps_bench.worker", str(case)]
        command = [sys.executable, *worker]
        if mode == "tcp":
            counts = [
                "--servers",
                str(options.servers),
                "--data-threads",
                str(options.data_threads),
            ]
            launcher = ["-m", "fastps.launch.main", "--no-prefix", *counts]
            command = [sys.executable, *launcher, *worker]
        code, tail = _watch(command, progress)
        if code != 0 or not result.exists():
            raise CaseError(f"{mode}, {work.width} floats: exit code {code}\n" + "\n".join(tail))
        figures: dict[str, Any] = json.loads(result.read_text())
        return figures


def _watch(command: list[str], progress: Progress) -> tuple[int, deque[str]]:
    """Run a command that prints notes; return its exit code and the last lines that are none.

    However this process ends, the command is told to end as well.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # it only makes system calls
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith('["'):
                    progress.note(*json.loads(line))
                else:
                    tail.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    return process.returncode, tail


def _needed_bytes(n_keys: int, width: int) -> int:
    # A row and room for growth, its key, what it should be, and two arrays of a copy's check.
    return int(n_keys * (width * 4 * 1.3 + 100)) + (1 << 30)


def _keys_that_fit(width: int) -> int:
    n_keys, available = N_KEYS, machine.available_bytes()
    while n_keys > 1000 and _needed_bytes(n_keys, width) > available // 2:
        n_keys //= 2
    return n_keys


def _check_memory(work: Work) -> None:
    needed, available = _needed_bytes(work.n_keys, work.width), machine.available_bytes()
    if needed > available:
        raise CaseError(
            f"{work.n_keys:,} keys of {work.width} floats need about {needed / 2**30:.0f} GiB, "
            f"there are {available / 2**30:.0f}: give fewer --keys"
        )


def _positive(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _widths(text: str) -> list[int]:
    return [_positive(word) for word in text.split(",")]


def _modes(text: str) -> list[str]:
    return _names(text, MODES)


def _rivals(text: str) -> list[str]:
    return _names(text, tuple(RIVALS))


def _names(text: str, known: tuple[str, ...]) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names
