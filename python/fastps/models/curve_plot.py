"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastps.models.lr_results import CurvePoint
from fastps.output import atomic_output

__all__ = ["plot_curve"]

# Told apart by people who do not see red and green as different, and in grey.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"


def plot_curve(path: str | Path, curve: Sequence[CurvePoint], settings: str) -> None:
    """Draw the log-loss, and the test set's AUC and accuracy, by epoch.

    Parameters
    ----------
    path : str or Path
        A file that ends in .png, .pdf or .svg (anything else is written as PNG).
    curve : sequence of CurvePoint
        At least one.
    settings : str
        Shown under the title.
    """
    # Not through pyplot: it would look for a screen and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_test = any(point.test_log_loss is not None for point in curve)
    figure = Figure(figsize=(10 if has_test else 6, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if has_test else 1, squeeze=False)[0]
    epochs = [point.epoch for point in curve]

    _line(axes[0], epochs, [p.train_log_loss for p in curve], BLUE, "train (before each update)")
    if has_test:
        _line(axes[0], epochs, [p.test_log_loss for p in curve], ORANGE, "test")
        _line(axes[1], epochs, [p.test_auc for p in curve], GREEN, "AUC")
        _line(axes[1], epochs, [p.test_accuracy for p in curve], PURPLE, "accuracy")
        _finish(axes[1], "AUC and accuracy", "share (test set)")
    _finish(axes[0], "Log-loss", "mean log-loss (nats)")
    figure.suptitle(f"Logistic regression on {settings}", fontsize=11)

    suffix = Path(path).suffix.lower().lstrip(".")
    with atomic_output(path) as file:
        figure.savefig(file, format=suffix if suffix in ("pdf", "svg") else "png")


def _line(axis: Any, epochs: list[int], values: list[float | None], color: str, label: str) -> None:
    known = [
        (epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None
    ]
    if not known:
        return
    x, y = zip(*known, strict=True)
    marker = "o" if len(x) <= 40 else None
    axis.plot(x, y, color=color, label=label, linewidth=1.8, marker=marker, markersize=3.5)
    axis.annotate(
        f"{y[-1]:.4f}",
        (x[-1], y[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        color=color,
        fontsize=9,
        va="center",
    )


def _finish(axis: Any, title: str, y_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("epoch")
    axis.set_ylabel(y_label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    first, last = axis.dataLim.intervalx
    axis.set_xlim(first - 0.02 * (last - first) - 0.2, last + 0.16 * (last - first) + 0.5)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
