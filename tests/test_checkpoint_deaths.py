"""kill -9 of everybody in the middle of saves; `make checkpointdeaths` does it a hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest

import checkpoint_deaths

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240, method="signal")]


def test_what_is_restored_is_whole_and_the_newest(tmp_path: Path) -> None:
    figures = checkpoint_deaths.one_job(tmp_path, 1)
    assert {role: each["kills"] for role, each in figures.items()} == {
        "scheduler": 1,
        "server": 1,
        "worker": 1,
        "launcher": 1,
    }
