"""Types of command line arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["DATA_THREADS_MAX", "SERVERS_MAX", "WORKERS_MAX", "named_number", "whole_number"]

DATA_THREADS_MAX = 64  # cpp/base/limits.h: kDataThreadsMax
SERVERS_MAX = 1024  # cpp/base/limits.h: kServersMax
WORKERS_MAX = 1 << 16


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers within bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {most}"
            )
        return int(text)

    return parse


def named_number(text: str) -> tuple[str, int]:
    """Return ``NAME=K`` as (NAME, K), for argparse."""
    name, _, number = text.rpartition("=")
    if not name or not (number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=K, for example eval=1")
    return name, whole_number(0, WORKERS_MAX)(number)
