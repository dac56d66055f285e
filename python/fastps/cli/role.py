"""What the roles have in common: a word when they are ready, and an end on SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
from collections.abc import Callable

from fastps.cli.options import whole_number
from fastps.config import Settings

__all__ = ["add_ready_fd", "on_stop_signals", "read_settings", "report_ready"]


def add_ready_fd(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--ready-fd``."""
    parser.add_argument(
        "--ready-fd",
        type=whole_number(0, 1 << 20),
        metavar="FD",
        help="when ready, write a line of JSON with the address to this file descriptor and close "
        "it (default: print the line)",
    )


def read_settings() -> Settings:
    """Return the settings of the environment, after setting up logging as they say."""
    settings = Settings.from_environment()
    logging.basicConfig(level=settings.log.upper(), format="%(levelname)s %(name)s: %(message)s")
    return settings


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop`, which must not wait, on SIGTERM and SIGINT, unless they were ignored before."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop())


def report_ready(fd: int | None, role: str, address: str) -> None:
    """Tell whoever started this process where it can be reached."""
    line = json.dumps({"role": role, "address": address, "pid": os.getpid()})
    if fd is None:
        print(line, flush=True)
        return
    with os.fdopen(fd, "w") as ready:
        print(line, file=ready)
