"""Telling people how a training goes: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO

from fastps.models.lr_results import CurvePoint

__all__ = ["BarProgress", "LineProgress", "Progress", "epoch_line", "make_progress"]


class Progress:
    """What the training reports. This base says nothing; one thread uses it, within its context."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def note(self, text: str) -> None:
        """Say something once."""

    def begin(self, title: str, n_examples: int) -> None:
        """Begin a pass in which all workers together read `n_examples` (0: not known)."""

    def advance(self, n_examples: int, log_loss: float | None) -> None:
        """Tell of examples done by this worker, and their mean loss."""

    def epoch(self, point: CurvePoint, examples_per_second: float) -> None:
        """Tell of a finished epoch."""


class LineProgress(Progress):
    """One plain line for each epoch.

    Parameters
    ----------
    epochs : int
        How many there will be.
    stream : text file
        Where lines go.
    """

    def __init__(self, epochs: int, stream: TextIO) -> None:
        self._epochs = epochs
        self._stream = stream

    def note(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def epoch(self, point: CurvePoint, examples_per_second: float) -> None:
        """Print the figures."""
        self.note(epoch_line(point, self._epochs, examples_per_second))


class BarProgress(LineProgress):
    """A bar for the pass under way, above it a line for each epoch done."""

    def __init__(self, epochs: int, stream: TextIO) -> None:
        super().__init__(epochs, stream)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} examples{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=Console(file=stream, highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")
        self._auc: float | None = None

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def begin(self, title: str, n_examples: int) -> None:
        """Begin the bar anew."""
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=n_examples or None, figures="")

    def advance(self, n_examples: int, log_loss: float | None) -> None:
        """Move the bar."""
        speed = self._bar.tasks[0].speed
        figures = [
            f", {speed:,.0f}/s" if speed else "",
            f", log-loss {log_loss:.4f}" if log_loss is not None else "",
            f", test AUC {self._auc:.4f}" if self._auc is not None else "",
        ]
        self._bar.update(self._task, advance=n_examples, figures="".join(figures))

    def epoch(self, point: CurvePoint, examples_per_second: float) -> None:
        """Print the figures above the bar, and keep the AUC in it."""
        self._auc = point.test_auc
        super().epoch(point, examples_per_second)


def epoch_line(point: CurvePoint, epochs: int, examples_per_second: float) -> str:
    """Return the line of one epoch."""
    parts = [
        f"epoch {point.epoch:>{len(str(epochs))}}/{epochs}",
        f"train log-loss {point.train_log_loss:.4f}",
    ]
    if point.test_log_loss is not None and point.test_accuracy is not None:
        parts.append(f"test log-loss {point.test_log_loss:.4f}")
        parts.append(f"accuracy {point.test_accuracy:.4f}")
    if point.test_auc is not None:
        parts.append(f"AUC {point.test_auc:.4f}")
    parts.append(f"{examples_per_second:,.0f} examples/s")
    return "  ".join(parts)


def make_progress(epochs: int, stream: TextIO | None = None) -> Progress:
    """Return a bar if `stream` (default: stderr) is a terminal and rich is there, else lines."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        try:
            return BarProgress(epochs, stream)
        except ImportError:
            pass  # the lines say the same
    return LineProgress(epochs, stream)
