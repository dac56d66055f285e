"""The command ``fastps-launch``."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fastps import _core
from fastps.checkpoint.storage import Store
from fastps.cli.options import (
    DATA_THREADS_MAX,
    LEASE_HELP,
    SERVERS_MAX,
    WORKERS_MAX,
    add_copies,
    lease,
    named_number,
    whole_number,
    wrong_copies,
)
from fastps.config import DEFAULT_GROUP, Settings
from fastps.errors import ConfigError, FastPSError
from fastps.launch.checkpoints import CheckpointPlan
from fastps.launch.commands import program_command, python_command
from fastps.launch.job_file import check_job_file
from fastps.launch.launcher import run
from fastps.launch.spec import JobSpec, WorkerGroup
from fastps.output import check_output, write_json
from fastps.standard_files import open_standard_files

__all__ = ["main", "parse"]

DESCRIPTION = """\
Run a Python script on several workers that share parameter tables, with the servers and the
scheduler that this needs, all on this machine. In the script, fastps.connect() joins the job.
"""

EPILOG = """\
examples:
  fastps-launch train.py                             1 server, 1 worker
  fastps-launch --servers 2 --workers 4 train.py --epochs 3
  fastps-launch --workers 4 -m package.train --epochs 3
  fastps-launch --workers 4 --group eval=1:eval.py train.py
  fastps-launch --group "eval=1:eval.py --every 60" train.py
  fastps-launch --servers 3 --replication 2 --workers 4 --max-restarts 3 train.py
  fastps-launch --workers 4 --checkpoint ckpt --checkpoint-every 5m train.py
  fastps-launch --servers 2 --max-servers 4 --job-file job.json train.py
  fastps status --job job.json                       (in another terminal)
  fastps scale --job job.json --servers 3

Everything after the script belongs to the script.

Each worker has FASTPS_SCHEDULER, FASTPS_RANK, FASTPS_NUM_WORKERS and FASTPS_GROUP, and, unless set
before, PYTHONUNBUFFERED=1 and OMP_NUM_THREADS=1. What it prints goes to stdout and stderr, each
line after the name of the worker.

A worker or server that dies does not stop the others. With --replication 2 or 3 the other copies
of a dead server's shards serve on, and new copies are made when a server is there for them. With
one copy of each shard they stay lost: calls that need them raise ServerLostError. The scheduler is
always started again, and goes on from its journal.

With --checkpoint URI a job that was ended, by whatever, goes on where its newest checkpoint is when
it is started again with the same command. In the script, client.clock_value says at which step.

exit code:
  0    every worker succeeded
  N    of the last attempt of the first worker that failed for good; 128+N if signal N killed it
  1    no worker failed, but a server was lost for good, and with it the only copy of something,
       or the end of the job could not be saved (--checkpoint)
  2    wrong usage
  130  Ctrl-C       143  SIGTERM       (all processes end within 5 s)

With --checkpoint, SIGTERM saves first, for at most 20 s; a second signal does not wait for that.
SIGUSR1 saves and goes on. A last save that fails makes an exit code of 0 a 1. A signal that was
ignored when the launcher was started, as by nohup, stays ignored.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process when not given.
    """
    open_standard_files()
    spec = parse(list(sys.argv[1:] if argv is None else argv))
    result = run(spec)
    if spec.summary is not None:
        try:
            write_json(spec.summary, result.to_json())
        except FastPSError as error:
            print(f"fastps-launch: --summary: {error}", file=sys.stderr)
    return result.exit_code


def parse(arguments: list[str]) -> JobSpec:
    """Return the job that the arguments describe; ends the process on wrong usage (code 2)."""
    parser = _parser()
    n_own = _n_own_arguments(parser, arguments)
    options = parser.parse_args(arguments[:n_own])
    try:
        settings = Settings.from_environment()  # workers and servers would fail one by one
        if settings.kernels is not None:
            _core.force_kernels(settings.kernels)
    except FastPSError as error:
        parser.error(str(error))
    if options.on != "local":
        parser.error(f"--on {options.on} is not there yet; available: --on local")
    wrong = wrong_copies(
        options.servers, options.replication, options.min_copies, options.max_servers
    )
    if wrong:
        parser.error(wrong)
    command = _without_dashes(arguments[n_own:])
    if not command:
        parser.error("no script is given, for example: fastps-launch --workers 2 train.py")
    as_command = program_command if options.no_python else python_command
    try:
        groups = [WorkerGroup(DEFAULT_GROUP, options.workers, as_command(command))]
    except ConfigError as error:
        parser.error(str(error))
    groups += [_group(parser, text, as_command) for text in options.group]
    if options.checkpoint is None and (options.checkpoint_every or options.keep):
        parser.error("--checkpoint-every and --keep are of no use without --checkpoint URI")
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        parser.error(f"--group: each name once, and not {DEFAULT_GROUP!r}, the script's own group")
    if options.journal is not None and options.journal.exists():
        parser.error(
            f"--journal {options.journal}: it exists. It is of another job, whose servers are "
            "gone; give a file that does not exist"
        )
    try:
        check_output("--summary", options.summary, command[:1])
        check_job_file("--job-file", options.job_file)
    except FastPSError as error:
        parser.error(str(error))
    if options.journal is not None and not options.journal.absolute().parent.is_dir():
        parser.error(f"--journal {options.journal}: its folder does not exist")
    return JobSpec(
        num_servers=options.servers,
        groups=tuple(groups),
        data_threads=options.data_threads,
        replication=options.replication,
        min_copies=options.min_copies,
        max_servers=options.max_servers,
        max_restarts=options.max_restarts,
        lease=options.lease,
        checkpoints=_plan(parser, options),
        journal=options.journal,
        job_file=options.job_file,
        summary=options.summary,
        prefix=not options.no_prefix,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastps-launch",
        usage="fastps-launch [options] train.py ARGS...\n"
        "       fastps-launch [options] -m package.module ARGS...\n"
        "       fastps-launch [options] --no-python program ARGS...",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    number, servers, workers = "N", whole_number(1, SERVERS_MAX), whole_number(1, WORKERS_MAX)
    add("--servers", type=servers, default=1, metavar=number, help="servers (default: 1)")
    add("--workers", type=workers, default=1, metavar=number, help="workers (default: 1)")
    add(
        "--group",
        action="append",
        default=[],
        metavar="NAME=K:SCRIPT",
        help="a further group of K workers that run another script, with ranks, clocks and "
        "barriers of its own; may be given several times",
    )
    add_copies(parser)
    add(
        "--max-servers",
        type=servers,
        metavar=number,
        help="the most that fastps scale may ask for (default: --servers)",
    )
    add(
        "--data-threads",
        type=whole_number(1, DATA_THREADS_MAX),
        default=1,
        metavar=number,
        help="threads of each server that serve pushes and pulls (default: 1)",
    )
    add(
        "--max-restarts",
        type=whole_number(0, 1_000_000),
        default=0,
        metavar=number,
        help="how often each worker, and each server, is started again when it fails (default: 0)",
    )
    add("--lease", type=lease, default=10.0, metavar="SECONDS", help=LEASE_HELP)
    add(
        "--checkpoint",
        metavar="URI",
        help="save checkpoints in this folder (a path, s3://..., gs://..., hdfs://...) while the "
        "job runs and at its end, and begin with the newest one that is there",
    )
    add(
        "--checkpoint-every",
        type=_period,
        metavar="PERIOD",
        help="time from one checkpoint to the next (90s, 10m, 2h), or steps of the slowest worker "
        "(100steps) (default: 60s)",
    )
    add(
        "--keep",
        type=whole_number(1, 1_000_000),
        metavar=number,
        help="checkpoints that are kept, the newest ones and those with names of their own, "
        "which client.save(tag=...) gives (default: 3)",
    )
    add(
        "--no-resume",
        action="store_true",
        help="begin anew, though there is a checkpoint",
    )
    add(
        "--journal",
        type=Path,
        metavar="FILE",
        help="keep the scheduler's journal in this new file (default: in a folder that is removed "
        "at the end)",
    )
    add(
        "--job-file",
        type=Path,
        metavar="J",
        help="keep a JSON file of the running processes for fastps status; removed at the end",
    )
    add(
        "--summary",
        type=Path,
        metavar="S",
        help="write a JSON file at the end: exit codes, each rank's steps and time of work on "
        "them, seen staleness of each table, late pushes",
    )
    add(
        "--no-python",
        action="store_true",
        help="run programs and executable scripts (train.sh), as they are, not Python's",
    )
    add("--no-prefix", action="store_true", help="print lines without the name of their process")
    add(
        "--on",
        default="local",
        metavar="WHERE",
        help="where to run (default and only one yet: local, this machine)",
    )
    return parser


def _n_own_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Return how many arguments come before the script (or -m).

    argparse itself would look for options in the script's arguments, or swallow a ``--`` there.
    """
    with_value = {
        option
        for action in parser._actions
        if action.nargs is None
        for option in action.option_strings
    }
    at = 0
    while at < len(arguments):
        argument = arguments[at]
        if argument in ("-m", "--") or not argument.startswith("-"):
            return at
        at += 2 if argument in with_value else 1
    return len(arguments)


def _period(text: str) -> tuple[float | None, int | None]:
    """Return ``60s``, ``10m`` or ``100steps`` as (seconds, None) or (None, steps), for argparse."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|steps?)", text)
    if found is None or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a period, for example 90s, 10m, 2h or 100steps"
        )
    if not found[2].startswith("step"):
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]], None
    if not found[1].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of steps")
    return None, int(found[1])


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> CheckpointPlan | None:
    """Return what checkpoints are asked for; ends the process when they cannot be made at all."""
    if options.checkpoint is None:
        return None
    seconds, steps = options.checkpoint_every or (60.0, None)
    try:
        uri = Store(options.checkpoint).uri
    except FastPSError as error:
        parser.error(f"--checkpoint {options.checkpoint}: {error}")
    return CheckpointPlan(uri, seconds, steps, options.keep or 3, not options.no_resume)


def _without_dashes(command: list[str]) -> list[str]:
    """Return a command without the ``--`` that may stand before it."""
    return command[1:] if command[:1] == ["--"] else command


def _group(
    parser: argparse.ArgumentParser,
    text: str,
    as_command: Callable[[Sequence[str]], tuple[str, ...]],
) -> WorkerGroup:
    wrong = f"--group {text!r} is not NAME=K:SCRIPT, for example eval=1:eval.py"
    head, _, script = text.partition(":")
    try:
        name, num_workers = named_number(head)
        command = _without_dashes(shlex.split(script))
    except (argparse.ArgumentTypeError, ValueError) as error:
        parser.error(f"{wrong}: {error}")
    if num_workers < 1 or not command:
        parser.error(wrong)
    try:
        return WorkerGroup(name, num_workers, as_command(command))
    except ConfigError as error:
        parser.error(f"--group {text!r}: {error}")


if __name__ == "__main__":
    sys.exit(main())
