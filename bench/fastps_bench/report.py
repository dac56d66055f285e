"""Figures as text."""

from __future__ import annotations

from typing import Any

__all__ = ["aligned", "header", "table"]

KEY_BYTES = 8


def table(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Return the results as lines for people.

    Parameters
    ----------
    facts : dict
        What `machine.describe` returns.
    results : list of dict
        One for each case: mode, width, keys, and what `measure` and the limits gave.
    """
    lines = [
        *header(facts),
        "",
        *_rates("pull", results),
        "",
        *_rates("push", results),
        "",
        *_single(results),
        "",
        "Medians (least - greatest). All rows were checked in every case. Of memcpy: bytes of keys",
        "and values a second, beside what one thread copies in the same process.",
    ]
    return "\n".join(lines)


def header(facts: dict[str, Any]) -> list[str]:
    """Return what `machine.describe` tells, as lines."""
    return [
        f"fastps {facts['fastps']} ({facts['commit'] or 'no clone'}), {facts['date']}",
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['memory_gib']} GiB, kernels "
        f"{facts['kernels']}, libzmq {facts['libzmq']}, numpy {facts['numpy']}",
    ]


def aligned(rows: list[list[str]]) -> list[str]:
    """Return a table as lines: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _rates(name: str, results: list[dict[str, Any]]) -> list[str]:
    rows = [[name, "floats", "keys", "Mkeys/s", "", "GB/s", "of memcpy", "x numpy"]]
    for result in results:
        figure = result[f"{name}_mkeys_s"]
        gb_s = figure["median"] * (KEY_BYTES + 4 * result["width"]) / 1e3
        numpy = _of_numpy(results, result, f"{name}_mkeys_s")
        rows.append(
            [
                result["mode"],
                str(result["width"]),
                f"{result['keys']:,}",
                f"{figure['median']:.1f}",
                f"({figure['min']:.1f} - {figure['max']:.1f})",
                f"{gb_s:.2f}",
                f"{100 * gb_s / result['memcpy_gb_s']['median']:.0f} %",
                f"{figure['median'] / numpy:.2f}" if numpy else "",
            ]
        )
    return aligned(rows)


def _single(results: list[dict[str, Any]]) -> list[str]:
    heads = ["one key", "floats", "pull p50 us", "p99", "push p50 us", "p99", "bare ZeroMQ p50"]
    rows = [[*heads, "fill Mkeys/s", "bytes/key"]]
    for result in results:
        bare = result.get("zmq_round_trip_us")
        figures = [
            f"{result[f'{name}_one_us'][percent]['median']:.1f}"
            for name in ("pull", "push")
            for percent in ("p50", "p99")
        ]
        rows.append(
            [
                result["mode"],
                str(result["width"]),
                *figures,
                f"{bare['median']:.1f}" if bare else "",
                f"{result['fill_mkeys_s']:.1f}",
                f"{result['bytes_per_key']:.1f}",
            ]
        )
    return aligned(rows)


def _of_numpy(results: list[dict[str, Any]], result: dict[str, Any], name: str) -> float | None:
    for other in results:
        if other["mode"] == "numpy" and other["width"] == result["width"]:
            return float(other[name]["median"])
    return None
