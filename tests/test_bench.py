"""fastps-bench in a tiny form: it must be right and leave nothing behind. No time is judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastps._core")

from fastps_bench import report
from fastps_bench.main import main
from fastps_bench.measure import Plan, measure
from fastps_bench.targets import NumpyTarget
from fastps_bench.timing import Figure, percentile
from fastps_bench.workload import OPTIMIZERS, Request, Work, mix
from marked import Marked

TINY = ["--keys=3000", "--batch=500", "--requests=3", "--repeats=2", "--single=5"]


def nothing(what: str, done: int, total: int) -> None:
    pass


def measured(path: Path) -> list[dict[str, object]]:
    (line,) = path.read_text().splitlines()
    result = json.loads(line)
    assert result["benchmark"] == "sparse"
    assert {"date", "cpu", "commit", "parameters"} <= set(result)
    cases: list[dict[str, object]] = result["results"]
    return cases


@pytest.mark.processes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_mode_is_measured_and_right(
    optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    options = ["--servers=2", "--data-threads=2", f"--optimizer={optimizer}", "--rivals=numpy"]
    assert main(["sparse", *TINY, "--widths=1,5", f"--json={file}", *options]) == 0
    cases = measured(file)
    modes = ["embedded", "tcp"] if optimizer == "adagrad" else ["numpy", "embedded", "tcp"]
    assert [(case["width"], case["mode"]) for case in cases] == [
        (width, mode) for width in (1, 5) for mode in modes
    ]
    for width in (1, 5):  # all modes did the same work
        sums = [case["checksum"] for case in cases if case["width"] == width]
        assert np.allclose(sums, sums[0], rtol=1e-6)
    out = capsys.readouterr().out
    assert all(f"\n{mode} " in out for mode in modes)


def test_requests_in_flight(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--widths=2", "--mode=embedded", "--in-flight=3", f"--json={file}"]
    assert main(["sparse", *TINY, *arguments]) == 0
    assert len(measured(file)) == 1


class Forgetful(NumpyTarget):
    """Loses one push in ten."""

    n_pushes = 0

    def push(self, request: Request, gradients: np.ndarray) -> None:  # type: ignore[type-arg]
        self.n_pushes += 1
        if self.n_pushes % 10:
            super().push(request, gradients)


def test_wrong_outcome_gives_no_figures() -> None:
    work = Work(n_keys=1000, width=2, batch=100, n_requests=4)
    plan = Plan(repeats=2, n_single=3, in_flight=1)
    assert measure(NumpyTarget(work), work, plan, nothing)["pull_mkeys_s"]["median"] > 0
    with pytest.raises(AssertionError, match="values are wrong, the first of key"):
        measure(Forgetful(work), work, plan, nothing)


def test_a_failed_case_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sparse", "--keys=1_000_000_000_000"]) == 1
    assert "give fewer --keys" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--mode=udp", "--rivals=redis", "--batch=0", "--widths=1,x"])
def test_wrong_usage(argument: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sparse", argument])
    assert end.value.code == 2


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_it(number: signal.Signals) -> None:
    marked = Marked("FASTPS_BENCH_TEST", f"{os.getpid()}-{number}")
    command = [sys.executable, "-m", "fastps_bench", "sparse", "--keys=100000", "--mode=tcp"]
    bench = subprocess.Popen(
        [*command, "--requests=100000"],
        env={**os.environ, **marked.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Where tests run in the background, SIGINT may be ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        marked.wait_until(5, least=True)  # it, the launcher, the scheduler, a server, a worker
        bench.send_signal(number)
        assert bench.wait(20) != 0
    finally:
        bench.kill()
        bench.wait()
    marked.wait_until(1, least=False)


def test_keys_are_distinct_and_stable() -> None:
    keys = mix(np.arange(100_000, dtype=np.uint64))
    assert len(np.unique(keys)) == len(keys)
    assert keys[0] == 0xE220A8397B1DCDAF  # the first output of splitmix64 seeded with 0


def test_figures() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)
    assert [percentile([4.0, 1.0, 3.0, 2.0], p) for p in (0, 25, 50, 99, 100)] == [1, 1, 2, 4, 4]
    assert report.table({**dict.fromkeys(FACTS, "x"), "commit": None}, []).startswith("fastps x")


FACTS = ("fastps", "commit", "date", "cpu", "cpus", "memory_gib", "kernels", "libzmq", "numpy")
