"""What the launcher says of a job's steps at its end: who was slow, how stale pulls were. Pure."""

from __future__ import annotations

import statistics
from typing import Any

__all__ = ["pace_lines"]

RANKS_NAMED_MAX = 8
STEPS_NAMED_MAX = 8
SLOW_FACTOR = 1.5  # a rank is called slow when its steps take so many times the median


def pace_lines(status: dict[str, Any]) -> list[str]:
    """Return lines for people; none of a group that ended no steps.

    Parameters
    ----------
    status : dict
        The status of the job; scheduler/CONTROL.md lists the names.
    """
    lines = []
    for group in status.get("groups", []):
        times = {each["rank"]: each for each in group["step_times"] if each["steps"]}
        if not times:
            continue
        lines.append(f"group {group['name']}: {_pace(times)}")
        for table, pulls_of in group["staleness"].items():
            if not pulls_of:
                continue
            lines.append(f"table {table}: {_staleness(pulls_of)}")
        if group["late"]:
            lines.append(
                f"group {group['name']}: {group['late']} pushes came too late for their round"
            )
    return lines


def _pace(times: dict[int, dict[str, Any]]) -> str:
    seconds = {rank: each["busy_s"] / each["steps"] for rank, each in times.items()}
    median = statistics.median(seconds.values())
    steps = sum(each["steps"] for each in times.values())
    said = f"{steps} steps of {len(times)} workers, {_duration(median)} of work each (median)"
    slow = sorted(
        (rank for rank in seconds if seconds[rank] > SLOW_FACTOR * median),
        key=lambda rank: -seconds[rank],
    )
    if not slow or len(seconds) < 2:
        return said
    named = ", ".join(
        f"rank {rank} ({_duration(seconds[rank])})" for rank in slow[:RANKS_NAMED_MAX]
    )
    more = f" and {len(slow) - RANKS_NAMED_MAX} more" if len(slow) > RANKS_NAMED_MAX else ""
    return f"{said}; slow: {named}{more}"


def _staleness(pulls_of: dict[str, int]) -> str:
    counted = sorted((int(steps), pulls) for steps, pulls in pulls_of.items())
    total = sum(pulls for _, pulls in counted)
    if len(counted) <= STEPS_NAMED_MAX:
        shares = ", ".join(f"{steps}: {pulls / total:.0%}" for steps, pulls in counted)
        return f"{total} pulls saw a staleness of {shares} (in steps)"
    median, high = (_quantile(counted, total * share) for share in (0.5, 0.99))
    return (
        f"{total} pulls saw a staleness of {median} steps (median), {high} (99th percentile), "
        f"{counted[-1][0]} (highest)"
    )


def _quantile(counted: list[tuple[int, int]], wanted: float) -> int:
    seen = 0
    for steps, pulls in counted:
        seen += pulls
        if seen >= wanted:
            return steps
    return counted[-1][0]


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
