"""``fastps server``: one server of a job as a process."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading

from fastps.arguments import checked_address
from fastps.cli import role
from fastps.cli.advertise import add_advertise, checked_bind, published
from fastps.cli.options import DATA_THREADS_MAX, whole_number
from fastps.errors import FastPSError, ServerLostError, WireError

__all__ = ["add_parser"]

# A scheduler that is gone must not keep a server from ending.
LEAVE_SECONDS = 0.5
BOOT_ID_BYTES = 16


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "server",
        description="Run one server of a job until SIGTERM. It holds shards of the job's tables in "
        "memory. fastps-launch starts as many as it is told.",
    )
    parser.add_argument(
        "--scheduler", required=True, metavar="ADDR", help="address of the job's scheduler"
    )
    parser.add_argument(
        "--bind",
        default="tcp://127.0.0.1:*",
        metavar="ADDR",
        help="where to listen; port * is a free one (default: %(default)s)",
    )
    add_advertise(parser)
    parser.add_argument(
        "--data-threads",
        type=whole_number(1, DATA_THREADS_MAX),
        default=1,
        metavar="N",
        help="threads that serve pushes and pulls (default: 1)",
    )
    parser.add_argument(
        "--boot-id",
        type=_boot_id,
        default=None,
        metavar="HEX",
        help="16 bytes that no other server has, by which whoever started this one tells of its "
        "end (default: random)",
    )
    role.add_ready_fd(parser)
    parser.set_defaults(run=run)


def _boot_id(text: str) -> bytes:
    try:
        boot_id = bytes.fromhex(text)
    except ValueError:
        boot_id = b""
    if len(boot_id) != BOOT_ID_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not {2 * BOOT_ID_BYTES} hex digits")
    return boot_id


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    from fastps import _core, _libzmq
    from fastps.checkpoint.agent import Agent
    from fastps.control import SocketControl, new_boot_id
    from fastps.scheduler.messages import ProcessExited, RegisterServer

    scheduler = checked_address("--scheduler", arguments.scheduler)
    bind = checked_bind("--bind", arguments.bind)
    settings = role.read_settings()
    if settings.kernels is not None:
        _core.force_kernels(settings.kernels)
    _libzmq.load()
    stop = threading.Event()
    role.on_stop_signals(stop.set)
    boot_id = arguments.boot_id or new_boot_id()
    server = _core.Server(boot_id, bind, arguments.data_threads)
    control = SocketControl(scheduler)
    endpoints = published(server.endpoints, arguments.advertise, scheduler)
    chain_endpoints = published(server.chain_endpoints, arguments.advertise, scheduler)
    register = RegisterServer(boot_id.hex(), endpoints, os.getpid(), chain_endpoints)
    registered, blob = control.call(register, settings.timeout)
    if blob is None:
        raise WireError(f"the scheduler at {scheduler} registered us without a map")
    server.start(registered.server_id, blob, scheduler, registered.rounds)
    unknown: list[str] = []

    def on_unknown(why: str) -> None:
        unknown.append(why)
        stop.set()

    agent = Agent(SocketControl(scheduler), server, registered.server_id, boot_id, on_unknown)
    agent.start()
    role.report_ready(arguments.ready_fd, "server", endpoints[0])
    stop.wait()
    # Without this word clients would wait until the silence is long enough.
    with contextlib.suppress(FastPSError):
        ended = ProcessExited("server", os.getpid(), "", None, True, boot_id.hex())
        control.call(ended, LEAVE_SECONDS)
    control.close()
    agent.stop()
    server.stop()
    if unknown:
        raise ServerLostError(
            f"the job goes on without server {registered.server_id} for good ({unknown[0]}): it "
            "was silent for too long; start another"
        )
    return 0
