"""fastps-bench memory in a tiny form: it must be right. No time and no size is judged."""

from __future__ import annotations

import json
import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastps._core")

import fastps
from fastps_bench import growth
from fastps_bench.footprint import resident_bytes, stored_bytes
from fastps_bench.main import main
from fastps_bench.workload import Work

TINY = ["--keys=3000", "--batch=500", "--pull-keys=5"]
WAITS = {"pulls", "p50_us", "p99_us", "max_us"}


def results(path: Path) -> list[dict[str, Any]]:
    (line,) = path.read_text().splitlines()
    written = json.loads(line)
    assert written["benchmark"] == "memory"
    assert {"date", "cpu", "commit", "parameters"} <= set(written)
    cases: list[dict[str, Any]] = written["results"]
    return cases


@pytest.mark.processes
def test_everything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main(["memory", *TINY, f"--json={file}"]) == 0
    cases = results(file)
    sizes = [case for case in cases if case["measure"] == "bytes"]
    assert [(case["width"], case["stored_per_key"]) for case in sizes] == [(1, 12), (16, 136)]
    assert all(case["stats_per_key"] >= case["stored_per_key"] for case in sizes)
    growths = [case for case in cases if case["measure"] == "growth"]
    assert [case["mode"] for case in growths] == ["embedded", "tcp"]
    for case in growths:
        assert set(case["waits"]) == {"quiet", "growth", "again"}
        assert all(set(waits) == WAITS for waits in case["waits"].values())
        assert case["waits"]["quiet"]["pulls"] > 0
    out = capsys.readouterr().out
    assert "adagrad" in out
    assert "pushes of the same keys" in out
    assert "3,000 to 6,000" in out


def test_one_part_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--measure=growth", "--mode=embedded", f"--json={file}"]
    assert main(["memory", *TINY, *arguments]) == 0
    assert [case["measure"] for case in results(file)] == ["growth"]


@pytest.mark.parametrize("argument", ["--measure=time", "--mode=udp", "--keys=0"])
def test_wrong_usage(argument: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["memory", argument])
    assert end.value.code == 2


def test_keys_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--keys=1_000_000_000_000"]) == 1
    assert "give fewer --keys" in capsys.readouterr().err


def test_a_wrong_pull_gives_no_figures() -> None:
    work = Work(n_keys=1000, width=1, batch=100, n_requests=0)
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("growth")
        table.assign(work.keys_of(np.arange(1000)), np.full(1000, 5000, np.float32))
        table.assign(growth.PHASE_KEY, np.array([growth.GROWTH], np.float32))
        with pytest.raises(AssertionError, match="other values than were assigned"):
            growth._pull_until_end(table, work, 4)


def test_a_dead_pusher_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SILENCE_SECONDS", 0.3)
    work = Work(n_keys=1000, width=1, batch=100, n_requests=0)
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("growth")
        with pytest.raises(AssertionError, match="did nothing for"):
            growth._pull_until_end(table, work, 4)


def test_the_puller_sees_every_phase() -> None:
    work = Work(n_keys=1000, width=1, batch=100, n_requests=0)
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("growth")
        table.assign(work.keys_of(np.arange(1000)), work.initial(np.arange(1000)))
        found: list[dict[str, Any]] = []
        puller = threading.Thread(
            target=lambda: found.append(growth._pull_until_end(table, work, 4))
        )
        puller.start()
        pause = threading.Event()
        for phase in range(growth.END + 1):
            table.assign(growth.PHASE_KEY, np.array([phase], np.float32))
            pause.wait(0.3)
        puller.join()
    assert all(waits["pulls"] > 0 for waits in found[0].values())


def test_sizes() -> None:
    assert stored_bytes(1, "sgd") == 12
    assert stored_bytes(16, "adagrad") == 136
    before, size = resident_bytes(), 8 << 20
    with mmap.mmap(-1, size) as fresh:  # what malloc gives may have been resident before
        fresh.write(b"1" * size)
        assert resident_bytes() - before > size // 2
