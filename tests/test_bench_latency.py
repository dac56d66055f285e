"""``fastps-bench latency``, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fastps_bench")
from fastps_bench.latency import LABELS
from fastps_bench.main import main

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def test_steps_are_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    arguments = ["--workers=1,2", "--keys=20", "--steps=5", "--repeats=2", f"--json={path}"]
    assert main(["latency", *arguments]) == 0
    table = capsys.readouterr().out
    assert "clock(), nothing pushed" in table
    assert "step of 20 keys, BSP" in table
    line = json.loads(path.read_text())
    assert [result["workers"] for result in line["results"]] == [1, 2]
    for result in line["results"]:
        for name in (*LABELS, "scheduler_per_s"):
            assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"]


def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["latency", "--workers=0"])
    assert ended.value.code == 2
    assert "--workers" in capsys.readouterr().err
