"""Types of command line arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from fastps.arguments import checked_address
from fastps.errors import ConfigError

__all__ = [
    "DATA_THREADS_MAX",
    "LEASE_HELP",
    "SERVERS_MAX",
    "WORKERS_MAX",
    "add_copies",
    "add_job",
    "lease",
    "named_number",
    "scheduler_address",
    "seconds",
    "whole_number",
    "wrong_copies",
]

DATA_THREADS_MAX = 64  # cpp/base/limits.h: kDataThreadsMax
SERVERS_MAX = 1024  # cpp/base/limits.h: kServersMax
WORKERS_MAX = 1 << 16
COPIES_MAX = 3  # cpp/base/limits.h: kReplicasMax
LEASE_SECONDS_MIN = 0.5  # heartbeats come every 0.2 s: two may be late

LEASE_HELP = (
    "end the session of a worker that nothing was heard of for so long: nobody waits for it any "
    "more and its chunks go to others (default: 10; inf: never)"
)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers within bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {most}"
            )
        return int(text)

    return parse


def lease(text: str) -> float:
    """Return seconds a worker may be silent, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= LEASE_SECONDS_MIN:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds from {LEASE_SECONDS_MIN:g} (inf is legal)"
        )
    return seconds


def add_copies(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--replication`` and ``--min-copies``."""
    parser.add_argument(
        "--replication",
        type=whole_number(1, COPIES_MAX),
        default=1,
        metavar="K",
        help="copies of each shard, on different servers, 1 to 3, unless a table says otherwise "
        "(default: 1)",
    )
    parser.add_argument(
        "--min-copies",
        type=whole_number(1, COPIES_MAX),
        default=1,
        metavar="M",
        help="a shard with fewer copies left takes no pushes until there are so many again "
        "(default: 1)",
    )


def wrong_copies(servers: int, replication: int, min_copies: int, most: int | None) -> str:
    """Return what does not fit together in these numbers; empty: all does."""
    if replication > servers:
        return (
            f"--replication {replication} needs as many servers, and --servers is {servers}: each "
            "copy of a shard lies on another"
        )
    if min_copies > replication:
        return f"--min-copies {min_copies} is more than there are: --replication is {replication}"
    if most is not None and most < servers:
        return f"--max-servers {most} is less than --servers {servers}"
    return ""


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add the options that tell of a running job."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--job", type=Path, metavar="J", help="the file of fastps-launch --job-file")
    where.add_argument("--scheduler", metavar="ADDR", help="the scheduler's address")


def scheduler_address(arguments: argparse.Namespace) -> str:
    """Return where the scheduler is that the options of `add_job` tell of.

    Raises
    ------
    ConfigError
        The job file cannot be read, or names none yet.
    """
    from fastps.launch.job_file import read_job_file

    if arguments.scheduler is not None:
        return checked_address("--scheduler", arguments.scheduler)
    address = read_job_file(arguments.job).get("scheduler")
    if address is None:
        raise ConfigError(f"the job of {str(arguments.job)!r} has no scheduler yet; ask again")
    return checked_address(f"the scheduler of {str(arguments.job)!r}", address)


def seconds(text: str) -> float:
    """Return a time to wait, more than nothing, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0 (inf is legal)"
        )
    return number


def named_number(text: str) -> tuple[str, int]:
    """Return ``NAME=K`` as (NAME, K), for argparse."""
    name, _, number = text.rpartition("=")
    if not name or not (number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=K, for example eval=1")
    return name, whole_number(0, WORKERS_MAX)(number)
