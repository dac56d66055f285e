"""Figures of ``fastps-bench memory`` as text."""

from __future__ import annotations

from typing import Any

from fastps_bench.report import aligned, header

__all__ = ["memory_table"]

LABELS = {"quiet": "no pushes", "growth": "pushes of new keys", "again": "pushes of the same keys"}


def memory_table(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Return the results as lines for people.

    Parameters
    ----------
    facts : dict
        What `machine.describe` returns.
    results : list of dict
        One for each case: its measure ("bytes" or "growth") and keys, with width and optimizer and
        what `footprint` gave, or with mode and what `growth` gave.
    """
    lines = header(facts)
    footprints = [result for result in results if result["measure"] == "bytes"]
    growths = [result for result in results if result["measure"] == "growth"]
    if footprints:
        lines += ["", *_footprints(footprints)]
        lines += ["", "Bytes per key. Stored: key, values and state. Rows were checked."]
    if growths:
        lines += ["", *_growths(growths)]
        lines += [
            "",
            "Waits of single pulls while another worker pushes. The last line of each has the same",
            "pushes without growth: what it shows, the machine and the pushes themselves delay.",
        ]
    return "\n".join(lines)


def _footprints(results: list[dict[str, Any]]) -> list[str]:
    rows = [["optimizer", "floats", "keys", "RSS", "stored", "RSS / stored", "stats", "of RSS"]]
    for result in results:
        resident = result["rss_per_key"]
        stats = result["stats_per_key"]
        rows.append(
            [
                result["optimizer"],
                str(result["width"]),
                f"{result['keys']:,}",
                f"{resident:.1f}",
                str(result["stored_per_key"]),
                f"{resident / result['stored_per_key']:.2f}",
                f"{stats:.1f}",
                f"{100 * stats / resident:.0f} %" if resident > 0 else "",
            ]
        )
    return aligned(rows)


def _growths(results: list[dict[str, Any]]) -> list[str]:
    rows = [["growth", "keys", "during", "pulls", "p50 us", "p99 us", "longest ms"]]
    for result in results:
        for phase, label in LABELS.items():
            waits = result["waits"][phase]
            before, after = (1, 1) if phase == "quiet" else (1, 2) if phase == "growth" else (2, 2)
            keys = " to ".join(f"{n * result['keys']:,}" for n in sorted({before, after}))
            rows.append(
                [
                    result["mode"],
                    keys,
                    label,
                    f"{waits['pulls']:,}",
                    f"{waits['p50_us']:.1f}",
                    f"{waits['p99_us']:.1f}",
                    f"{waits['max_us'] / 1e3:.2f}",
                ]
            )
    return aligned(rows)
