"""``fastps scheduler``: the scheduler of a job as a process."""

from __future__ import annotations

import argparse
import logging
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fastps.cli import role
from fastps.cli.advertise import add_advertise, checked_bind, published
from fastps.cli.options import (
    LEASE_HELP,
    SERVERS_MAX,
    WORKERS_MAX,
    add_copies,
    lease,
    named_number,
    whole_number,
    wrong_copies,
)
from fastps.config import DEFAULT_GROUP
from fastps.errors import ConfigError

if TYPE_CHECKING:
    from fastps.scheduler.actions import JobShape
    from fastps.scheduler.journal import Journal
    from fastps.scheduler.state import SchedulerState

__all__ = ["add_parser"]

log = logging.getLogger("fastps.scheduler")


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
    add_advertise(parser)
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
    add_copies(parser)
    parser.add_argument(
        "--max-servers",
        type=whole_number(0, SERVERS_MAX),
        metavar="N",
        help="the most that fastps scale may ask for (default: 1024)",
    )
    parser.add_argument("--lease", type=lease, default=10.0, metavar="SECONDS", help=LEASE_HELP)
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="keep what must not be forgotten in this SQLite file; when it has the journal of a "
        "job, go on with that job, given the same options (default: none)",
    )
    role.add_ready_fd(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or a Shutdown message."""
    import zmq

    from fastps.scheduler.actions import JobShape
    from fastps.scheduler.journal import Journal
    from fastps.scheduler.service import SchedulerService

    address = checked_bind("--address", arguments.address)
    settings = role.read_settings()
    groups = {DEFAULT_GROUP: arguments.workers} if arguments.workers else {}
    for name, number in arguments.group:
        if name in groups:
            raise ConfigError(f"group {name!r} is given twice; --workers is {DEFAULT_GROUP!r}")
        groups[name] = number
    servers, most = arguments.servers, arguments.max_servers
    wrong = wrong_copies(servers or SERVERS_MAX, arguments.replication, arguments.min_copies, None)
    if wrong or (most is not None and most < servers):
        raise ConfigError(wrong or f"--max-servers {most} is less than --servers {servers}")
    shape = JobShape(
        num_servers=servers,
        groups=groups,
        lease=arguments.lease,
        patience=settings.gate_timeout,
        replication=arguments.replication,
        min_copies=arguments.min_copies,
        max_servers=most,
    )
    journal = None if arguments.journal is None else Journal(arguments.journal)
    state = _state(shape, journal)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    service = SchedulerService(address, state, context, journal)
    role.on_stop_signals(service.stop)
    (known_as,) = published([service.address], arguments.advertise)
    role.report_ready(arguments.ready_fd, "scheduler", known_as)
    service.run()
    context.term()
    if journal is not None:
        journal.close()
    return 0


def _state(shape: JobShape, journal: Journal | None) -> SchedulerState:
    """Return the state of a new job, or of the journal's; what it begins with is journalled."""
    from fastps.scheduler.replay import replay
    from fastps.scheduler.state import SchedulerState

    written = [] if journal is None else journal.read()
    if not written:
        state = SchedulerState(shape, secrets.randbits(63) + 1, time.monotonic())
    else:
        state = replay(shape, written, time.monotonic())
        state.go_on()
        awaited = len(state.awaited())
        log.warning(
            "going on with job %016x as scheduler number %d; %d workers are to say where they are",
            *(state.cluster_id, state.incarnation, awaited),
        )
    if journal is not None:
        try:
            journal.write(state.take_records())
        except OSError as error:
            raise ConfigError(str(error)) from error
    return state
