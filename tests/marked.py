"""Processes that are told apart by a mark in their environment, which children inherit."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["Marked"]


class Marked:
    """All processes with a variable of this name and value in their environment."""

    def __init__(self, name: str, value: str) -> None:
        self.environment = {name: value}
        self._mark = f"{name}={value}".encode()

    def running(self) -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                found += self._mark in path.read_bytes()
            except OSError:
                continue
        return found

    def wait_until(self, enough: int, least: bool) -> None:
        """Wait until at least so many run, or fewer."""
        deadline = time.monotonic() + 30
        while (self.running() >= enough) != least:
            assert time.monotonic() < deadline, f"{self.running()} processes"
            time.sleep(0.05)
