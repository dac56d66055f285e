"""``fastps scale``: more or fewer servers for a running job."""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

from fastps.cli.options import SERVERS_MAX, add_job, scheduler_address, whole_number
from fastps.errors import FastPSTimeoutError

__all__ = ["add_parser", "progress"]

POLL_SECONDS = 0.2
CALL_SECONDS = 5.0
WAIT_SECONDS = 600.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "scale",
        description="Change the number of servers of a running job. Its launcher starts further "
        "ones, up to its --max-servers, and they take over their part of the shards; servers that "
        "leave, the newest first, give theirs away and are then ended. The workers go on "
        "meanwhile. Servers that died and were not started again are replaced, also when N is what "
        "it was. Waits until all is done.",
        epilog="example: fastps scale --job job.json --servers 3",
    )
    add_job(parser)
    parser.add_argument(
        "--servers",
        type=whole_number(1, SERVERS_MAX),
        required=True,
        metavar="N",
        help="how many there shall be",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help="wait so long for the end of it; 0: do not wait (default: 600)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask for so many servers, and wait until they are there and shards have moved."""
    from fastps.control import SocketControl
    from fastps.scheduler.messages import GetStatus, ScaleServers

    deadline = time.monotonic() + arguments.wait
    control = SocketControl(scheduler_address(arguments))
    said = ""
    try:
        control.call(ScaleServers(arguments.servers), CALL_SECONDS)
        while arguments.wait > 0:
            reply, _ = control.call(GetStatus(), CALL_SECONDS)
            left = progress(reply.status, arguments.servers)
            if not left:
                print(f"{arguments.servers} servers, all shards in their places", flush=True)
                break
            if left != said:
                print(left, file=sys.stderr, flush=True)
                said = left
            if time.monotonic() > deadline:
                raise FastPSTimeoutError(
                    f"after {arguments.wait:g} s this is left to do: {left}. It goes on; see "
                    "fastps status"
                )
            time.sleep(POLL_SECONDS)
    finally:
        control.close()
    return 0


def progress(status: dict[str, Any], wanted: int) -> str:
    """Return what is left to do until there are `wanted` servers; empty: nothing.

    Raises
    ------
    FastPSTimeoutError
        It will not come to an end: somebody wants another number now.
    """
    if status["servers_wanted"] != wanted:
        raise FastPSTimeoutError(
            f"{wanted} servers were asked for, but meanwhile {status['servers_wanted']} are "
            "wanted: fastps scale was called again"
        )
    states = [server["state"] for server in status["servers"]]
    there = sum(state in ("alive", "suspect") for state in states)
    parts = []
    if there < wanted:
        parts.append(f"servers there: {there} of {wanted}")
    if leaving := states.count("leaving"):
        parts.append(f"servers to leave: {leaving}")
    if moving := status["views"]["moving"]:
        parts.append(f"shards to move: {moving}")
    return ", ".join(parts)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return seconds
