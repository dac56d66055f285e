"""Shows how far a benchmark is: a bar on a terminal with rich, else a line for each case."""

from __future__ import annotations

import sys
from typing import TextIO

__all__ = ["BarProgress", "Progress", "make_progress"]


class Progress:
    """A line for each case, on `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, case: str) -> None:
        """Begin a case."""
        print(f"fastps-bench: {case}", file=self._stream, flush=True)

    def note(self, what: str, done: int, total: int) -> None:
        """Show how far the case is."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Show nothing any more."""


class BarProgress(Progress):
    """A bar for the stage under way."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._case = ""
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(file=stream, highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()

    def begin(self, case: str) -> None:
        """Begin a case."""
        self._case = case
        self._bar.reset(self._task, description=case, total=None)

    def note(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        text = f"{self._case}: {what}"
        self._bar.update(self._task, description=text, completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def make_progress(stream: TextIO | None = None) -> Progress:
    """Return a bar if `stream` (default: stderr) is a terminal and rich is there, else lines."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        try:
            return BarProgress(stream)
        except ImportError:
            pass
    return Progress(stream)
