"""``fastps scheduler``: the scheduler of a job as a process."""

from __future__ import annotations

import argparse
import secrets
import time
from pathlib import Path

from fastps.cli import role
from fastps.cli.options import (
    LEASE_HELP,
    SERVERS_MAX,
    WORKERS_MAX,
    lease,
    named_number,
    whole_number,
)
from fastps.config import DEFAULT_GROUP
from fastps.errors import ConfigError

__all__ = ["add_parser"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "scheduler",
        description="Run the scheduler of a job until SIGTERM. It keeps who is alive, which server "
        "holds which shard, the clocks and the chunk queue; it never sees a parameter. "
        "fastps-launch starts one for each job.",
    )
    parser.add_argument(
        "--address",
        default="tcp://127.0.0.1:*",
        metavar="ADDR",
        help="where to listen; port * or 0 is a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--servers",
        type=whole_number(0, SERVERS_MAX),
        default=1,
        metavar="N",
        help="servers to wait for before the first table is made (default: 1)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(0, WORKERS_MAX),
        default=1,
        metavar="N",
        help=f"workers of the group {DEFAULT_GROUP!r} to wait for in barriers (default: 1)",
    )
    parser.add_argument(
        "--group",
        type=named_number,
        action="append",
        default=[],
        metavar="NAME=K",
        help="a further group, with K workers to wait for; may be given several times",
    )
    parser.add_argument("--lease", type=lease, default=10.0, metavar="SECONDS", help=LEASE_HELP)
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="keep joins, tables and closed rounds in this new SQLite file (default: none)",
    )
    role.add_ready_fd(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or a Shutdown message."""
    import zmq

    from fastps.scheduler.journal import Journal
    from fastps.scheduler.service import SchedulerService
    from fastps.scheduler.state import JobShape, SchedulerState

    settings = role.read_settings()
    groups = {DEFAULT_GROUP: arguments.workers} if arguments.workers else {}
    for name, number in arguments.group:
        if name in groups:
            raise ConfigError(f"group {name!r} is given twice; --workers is {DEFAULT_GROUP!r}")
        groups[name] = number
    shape = JobShape(arguments.servers, groups, arguments.lease, settings.gate_timeout)
    state = SchedulerState(shape, secrets.randbits(63) + 1, time.monotonic())
    journal = None if arguments.journal is None else Journal(arguments.journal)
    if journal is not None and journal.read():
        raise ConfigError(
            f"the journal {str(arguments.journal)!r} is of another job, and going on from one is "
            "not there yet: give a file that does not exist"
        )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    service = SchedulerService(arguments.address, state, context, journal)
    role.on_stop_signals(service.stop)
    role.report_ready(arguments.ready_fd, "scheduler", service.address)
    service.run()
    context.term()
    if journal is not None:
        journal.close()
    return 0
