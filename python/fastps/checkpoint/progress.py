"""A bar that shows how much of a save or restore is done, on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TextIO

__all__ = ["Progress", "counted", "make_progress"]


class Progress:
    """A bar of bytes; one thread uses it, within its context.

    Parameters
    ----------
    title : str
        What is being done.
    stream : text file
        A terminal.

    Raises
    ------
    ImportError
        rich is not installed.
    """

    def __init__(self, title: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=Console(file=stream, highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, done_bytes: int, total_bytes: int | None) -> None:
        """Show that so many bytes are done; None: nobody knows of how many."""
        self._bar.update(self._task, completed=done_bytes, total=total_bytes)


def make_progress(title: str, stream: TextIO | None = None) -> Progress | None:
    """Return a bar if `stream` (default: stderr) is a terminal and rich is there, else None."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        return None
    try:
        return Progress(title, stream)
    except ImportError:
        return None


@contextlib.contextmanager
def counted(title: str, total_bytes: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar, where there can be one, for a block that is given what counts further bytes."""
    bar = make_progress(title)
    if bar is None:
        yield lambda _: None
        return
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        bar.show(done, total_bytes)

    with bar:
        yield advance
