"""``fastps-bench checkpoint``, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fastps_bench")
pytest.importorskip("safetensors")
from fastps_bench.main import main

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def test_saves_and_restores_are_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, folder = tmp_path / "figures.json", tmp_path / "checkpoints"
    folder.mkdir()
    sizes = ["--rows=1000", "--row-floats=2", "--batch=10", "--repeats=1"]
    job = ["--workers=2", "--consistency=BSP", "--restore-servers=1"]
    assert main(["checkpoint", *sizes, *job, f"--folder={folder}", f"--json={path}"]) == 0
    assert not list(folder.iterdir())
    table = capsys.readouterr().out
    assert "restore on 1 servers" in table
    saved, restored = json.loads(path.read_text())["results"]
    assert (saved["case"], restored["case"]) == ("save", "restore")
    # Keys, values and AdaGrad's sums; what is around them is not much even of so few rows.
    assert 1000 * 24 < saved["bytes"] < 1000 * 24 * 1.5
    assert 0 < saved["increment"]["bytes_share"] < 1
    for name in ("normal", "saving"):
        assert saved[name]["kkeys_s"]["min"] > 0
        assert 0 < saved[name]["p50_ms"]["min"] <= saved[name]["max_ms"]["max"]
    for figures in (saved["save"], saved["save_under_load"], restored["restore"]):
        assert figures["mb_s"]["min"] > 0
        assert figures["of_disk"]["min"] > 0


def test_more_rows_than_memory_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "--rows=1_000_000_000_000"]) == 1
    assert "GiB" in capsys.readouterr().err
