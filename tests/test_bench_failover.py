"""``fastps-bench failover``, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fastps_bench")
from fastps_bench.main import main

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def test_copies_and_failovers_are_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "figures.json"
    sizes = ["--keys=100", "--rows=1000", "--calls=5", "--repeats=2"]
    counts = ["--copies=1,2", "--kills=1", f"--json={path}"]
    assert main(["failover", *sizes, *counts]) == 0
    table = capsys.readouterr().out
    assert "2 copies, stopped" in table
    one, two = json.loads(path.read_text())["results"]
    assert (one["copies"], two["copies"]) == (1, 2)
    assert one["failovers"] == {}
    for result in (one, two):
        for name in ("push", "pull"):
            assert result[f"{name}_mkeys_s"]["min"] > 0
            assert 0 < result[f"{name}_one_us"]["p50"] <= result[f"{name}_one_us"]["p99"]
    for how in ("killed", "stopped"):
        found = two["failovers"][how]
        assert found["n"] == 1
        assert 0 < found["s"]["max"] <= found["all_copies_s"]["max"]


def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failover", "--copies=3", "--servers=2"]) == 1
    assert "--servers is 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["failover", "--copies=4"])
    assert ended.value.code == 2
    assert "at most 3" in capsys.readouterr().err
