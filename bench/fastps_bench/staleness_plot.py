"""The trade-off between statistical and hardware performance as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastps.output import atomic_output

__all__ = ["plot_trade_off"]

# Told apart by people who do not see red and green as different, and in grey.
COLORS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#AA4499", "#555555")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
GREY = "#777777"
ROW_INCHES, WIDTH_INCHES = 4.3, 15.0
N_DIAGONALS = 5


def plot_trade_off(path: str | Path, scenes: list[dict[str, Any]], subject: str) -> None:
    """Draw a row of three panels for each scene: the trade-off, its product, the learning curves.

    Parameters
    ----------
    path : str or Path
        A file that ends in .png, .pdf or .svg (anything else is written as PNG).
    scenes : list of dict
        See `staleness_report.staleness_table`.
    subject : str
        What was learned, where.
    """
    # Not through pyplot: it would look for a screen and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (WIDTH_INCHES, ROW_INCHES * len(scenes) + 0.6)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    title = "What waiting for slow workers costs, and what not waiting costs"
    figure.suptitle(f"{title}\n{subject}", fontsize=13)
    rows = figure.subfigures(len(scenes), 1, squeeze=False)[:, 0]
    for row, scene in zip(rows, scenes, strict=True):
        row.suptitle(
            f"{_sentence(scene['delays'])}; {scene['sharing']}", fontsize=12, weight="bold"
        )
        trade_off, product, curves = row.subplots(1, 3, width_ratios=(1.25, 0.9, 1.1))
        _trade_off(trade_off, scene)
        _product(product, scene)
        _curves(curves, scene)
        handles = _handles(scene)
        columns = min(len(handles), 5)
        row.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    suffix = Path(path).suffix.lower().lstrip(".")
    with atomic_output(path) as file:
        figure.savefig(file, format=suffix if suffix in ("pdf", "svg") else "png")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _style(at: int) -> dict[str, Any]:
    return {"color": COLORS[at % len(COLORS)], "marker": MARKERS[at % len(MARKERS)]}


def _handles(scene: dict[str, Any]) -> list[Any]:
    """Return what the legend of a row shows: each policy, and how its speed compares."""
    from matplotlib.lines import Line2D

    base = scene["policies"][0]
    handles = []
    for at, each in enumerate(scene["policies"]):
        text = each["label"]
        if at > 0:
            ratio = each["steps_per_s"]["median"] / base["steps_per_s"]["median"]
            text += f": {ratio:.2f}x the steps/s of {base['label']}"
        handles.append(Line2D([], [], label=text, markersize=8, linewidth=1.5, **_style(at)))
    return handles


def _error(figure: dict[str, float]) -> list[list[float]]:
    return [[figure["median"] - figure["min"]], [figure["max"] - figure["median"]]]


def _trade_off(axis: Any, scene: dict[str, Any]) -> None:
    """Draw steps a second against steps to the target; seconds are the diagonals."""
    speeds, steps = [], []
    for at, each in enumerate(scene["policies"]):
        speed, needed = each["steps_per_s"], each["steps_to_target"]
        if needed is None:
            continue
        speeds += [speed["min"], speed["max"]]
        steps += [needed["min"], needed["max"]]
        axis.errorbar(
            speed["median"],
            needed["median"],
            xerr=_error(speed),
            yerr=_error(needed),
            markersize=9,
            elinewidth=1,
            capsize=2,
            linestyle="none",
            zorder=3,
            **_style(at),
        )
    axis.set_title("The trade-off: lower right is better", fontsize=10, loc="left")
    axis.set_xlabel("hardware performance: steps/s of all workers  (more is better)")
    axis.set_ylabel("statistical performance:\nsteps to the target  (fewer is better)")
    if not speeds:
        axis.text(0.5, 0.5, "no policy reached the target", transform=axis.transAxes, ha="center")
        return
    axis.set_xlim(0, 1.18 * max(speeds))
    axis.set_ylim(0, 1.3 * max(*steps, 1.0))
    _diagonals(axis)
    axis.text(
        *(0.99, 0.03),
        "grey: equal seconds to the target",
        transform=axis.transAxes,
        fontsize=8,
        color=GREY,
        ha="right",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    _tidy(axis)


def _diagonals(axis: Any) -> None:
    """Draw lines of equal seconds: steps = seconds * steps a second."""
    right, top = axis.get_xlim()[1], axis.get_ylim()[1]
    for seconds in _round_numbers(0.25 * top / right, 4 * top / right):
        end = (min(right, top / seconds), min(top, seconds * right))
        axis.plot([0, end[0]], [0, end[1]], color="#cccccc", linewidth=0.9, zorder=1)
        at = (0.93 * end[0], 0.93 * end[1])
        axis.text(
            *at,
            f"{seconds:g} s",
            color=GREY,
            fontsize=8,
            ha="center",
            va="center",
            zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )


def _round_numbers(least: float, most: float) -> list[float]:
    numbers = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 1.5, 2, 3, 5, 7)]
    return [number for number in numbers if least <= number <= most]


def _product(axis: Any, scene: dict[str, Any]) -> None:
    """Draw the seconds to the target as bars."""
    policies = scene["policies"]
    base = policies[0]["seconds_to_target"]
    places = np.arange(len(policies))[::-1]
    longest = 0.0
    for at, (place, each) in enumerate(zip(places, policies, strict=True)):
        seconds = each["seconds_to_target"]
        if seconds is None:
            axis.text(0, place, " not reached", va="center", fontsize=9, color=GREY)
            continue
        longest = max(longest, seconds["max"])
        color = _style(at)["color"]
        axis.barh(place, seconds["median"], 0.62, color=color, alpha=0.85)
        axis.errorbar(
            seconds["median"], place, xerr=_error(seconds), color="#333333", capsize=3, elinewidth=1
        )
        text = f"  {seconds['median']:.2f} s"
        if base is not None and at > 0 and seconds["median"] > 0:
            text += f",  {base['median'] / seconds['median']:.2f}x"
        axis.text(seconds["max"], place, text, va="center", fontsize=9)
    axis.set_yticks(places, [each["label"] for each in policies])
    axis.set_xlim(0, 1.5 * longest if longest else 1)
    reference = f" (x: times as fast as {policies[0]['label']})" if base is not None else ""
    axis.set_title(f"Their product{reference}", fontsize=10, loc="left")
    axis.set_xlabel("seconds to the target  (fewer is better)")
    _tidy(axis, "x")


def _curves(axis: Any, scene: dict[str, Any]) -> None:
    """Draw the loss over time."""
    start = scene["policies"][0]["curve"]["loss"][0]
    for at, each in enumerate(scene["policies"]):
        curve = each["curve"]
        axis.plot(curve["seconds"], curve["loss"], color=_style(at)["color"], linewidth=1.5)
    _level(axis, scene["target"], "target", "bottom")
    if scene["bayes_loss"] is not None:
        _level(axis, scene["bayes_loss"], "the best possible model", "top")
        axis.set_ylim(bottom=scene["bayes_loss"] - 0.1 * (start - scene["bayes_loss"]))
    axis.set_title("Learning", fontsize=10, loc="left")
    axis.set_xlabel("seconds")
    axis.set_ylabel("held-out log-loss (nats)")
    axis.set_xlim(left=0)
    axis.set_ylim(top=min(axis.get_ylim()[1], 1.1 * start))  # first steps may be wild
    _tidy(axis)


def _level(axis: Any, loss: float, text: str, side: str) -> None:
    axis.axhline(loss, color=GREY, linestyle="--", linewidth=1)
    axis.annotate(
        f"{text} {loss:.4f}",
        (0.99, loss),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2 if side == "bottom" else -2),
        textcoords="offset points",
        ha="right",
        va=side,
        fontsize=8,
        color="#333333",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
    )


def _tidy(axis: Any, grid: str = "both") -> None:
    axis.grid(alpha=0.2, axis=grid)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
