"""Step times and seen staleness."""

from __future__ import annotations

import pytest

from fastps.errors import WireError
from fastps.scheduler.pace import (
    ENTRIES_MAX,
    STALENESS_MAX,
    StalenessSums,
    StepTimes,
    check_staleness,
)


def test_the_mean_is_over_steps() -> None:
    assert StepTimes().mean_seconds is None
    assert StepTimes(4, 1_000_000).mean_seconds == 0.25


def test_sessions_add_up() -> None:
    sums = StalenessSums()
    sums.add({"w": {"0": 5, "3": 1}, "v": {"1": 2}}, 3, {"w", "v"})
    sums.add({"w": {"3": 1, "10": 4}}, 1, {"w", "v"})
    assert sums.to_json() == {"v": {"1": 2}, "w": {"0": 5, "3": 2, "10": 4}}
    assert sums.late == 4


def test_what_is_kept_is_bounded() -> None:
    sums = StalenessSums()
    sums.add({"unknown": {"0": 1}, "w": {str(STALENESS_MAX + 9): 1, "9" * 20: 1}}, 0, {"w"})
    assert sums.to_json() == {"w": {str(STALENESS_MAX): 2}}


@pytest.mark.parametrize("steps", ["", "-1", "1.5", "many", "٣", "1" * 21])
def test_steps_that_are_no_number_are_refused(steps: str) -> None:
    with pytest.raises(WireError, match="staleness"):
        check_staleness({"w": {steps: 1}})


def test_too_many_entries_are_refused() -> None:
    check_staleness({"w": {str(n): 1 for n in range(ENTRIES_MAX - 1)}})
    with pytest.raises(WireError, match="4096"):
        check_staleness({"w": {str(n): 1 for n in range(ENTRIES_MAX)}})
