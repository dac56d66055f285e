"""Types of command line arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

__all__ = [
    "DATA_THREADS_MAX",
    "LEASE_HELP",
    "SERVERS_MAX",
    "WORKERS_MAX",
    "lease",
    "named_number",
    "whole_number",
]

DATA_THREADS_MAX = 64  # cpp/base/limits.h: kDataThreadsMax
SERVERS_MAX = 1024  # cpp/base/limits.h: kServersMax
WORKERS_MAX = 1 << 16
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


def named_number(text: str) -> tuple[str, int]:
    """Return ``NAME=K`` as (NAME, K), for argparse."""
    name, _, number = text.rpartition("=")
    if not name or not (number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=K, for example eval=1")
    return name, whole_number(0, WORKERS_MAX)(number)
