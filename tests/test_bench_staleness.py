"""fastps-bench staleness in a tiny form: what it tells must be right. No time is judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastps._core")
pytest.importorskip("matplotlib")

from fastps.consistency import ASP, BSP, SSP
from fastps.data import DataError
from fastps_bench import staleness
from fastps_bench.cases import CaseError
from fastps_bench.main import main
from fastps_bench.staleness_data import generated, log_loss, read, read_problem
from fastps_bench.staleness_figures import Run, default_target, figures_of
from fastps_bench.staleness_plot import plot_trade_off
from fastps_bench.staleness_report import staleness_table
from fastps_bench.staleness_setting import Scene, Slow, Stall, default_scenes, label, policy
from fastps_bench.staleness_worker import RunPlan
from marked import Marked

TINY = ["--workers=2", "--steps=6", "--step-ms=1", "--examples=500", "--batch=8", "--lr=0.1"]
PNG = b"\x89PNG\r\n\x1a\n"
FACTS = ("fastps", "commit", "date", "cpu", "cpus", "memory_gib", "kernels", "libzmq", "numpy")


def results(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (line,) = path.read_text().splitlines()
    written = json.loads(line)
    assert written["benchmark"] == "staleness"
    assert {"date", "cpu", "commit"} <= set(written)
    return written["parameters"], written["results"]


def check_policy(figures: dict[str, Any], repeats: int, out: str) -> None:
    """The three figures of a policy fit each other, and stand in the table."""
    assert figures["repeats"] == repeats
    assert figures["steps"] == 12
    for name in ("steps_per_s", "steps_to_target", "seconds_to_target", "final_loss"):
        figure = figures[name]
        assert 0 <= figure["min"] <= figure["median"] <= figure["max"]
    assert figures["steps_per_s"]["min"] > 0
    assert figures["steps_to_target"]["max"] <= 12
    curve = figures["curve"]
    assert len(curve["seconds"]) == len(curve["steps"]) == len(curve["loss"]) > 1
    assert curve["seconds"] == sorted(curve["seconds"])
    assert curve["steps"] == sorted(curve["steps"])
    assert curve["steps"][-1] == 12
    assert curve["loss"][0] == pytest.approx(np.log(2), abs=1e-6)  # all weights are still zero
    (row,) = [line for line in out.splitlines() if line.startswith(f"{figures['label']} ")][-1:]
    assert f" {figures['final_loss']['median']:.4f} " in row
    assert f" {figures['steps_per_s']['median']:.0f} " in row


@pytest.mark.processes
def test_both_kinds_of_delay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "figures.json", tmp_path / "trade-off.png"
    outputs = [f"--json={file}", f"--plot={picture}"]
    policies = ["--policies=bsp,ssp:1", "--target=0.6931", "--repeats=1"]
    assert main(["staleness", *TINY, *policies, *outputs]) == 0
    parameters, scenes = results(file)
    assert parameters["policies"] == ["bsp", "ssp:1"]
    out = capsys.readouterr().out
    random, constant = scenes
    assert "25 % of all steps take 4x as long; every worker does as many steps" in out
    assert "worker 0 is always 4x slower; work shared by chunks()" in out
    halves = out.split("worker 0 is always")
    for scene, half in zip((random, constant), halves, strict=True):
        assert scene["target"] == 0.6931
        assert 0 < scene["bayes_loss"] < np.log(2)
        assert [each["label"] for each in scene["policies"]] == ["BSP", "SSP(1)"]
        for each in scene["policies"]:
            check_policy(each, 1, half)
            seen = {int(steps): n for steps, n in each["staleness"].items()}
            assert sum(seen.values()) == 12  # one pull a step
            assert max(seen) <= (1 if each["policy"] == "ssp:1" else 0)
    assert picture.read_bytes().startswith(PNG)


@pytest.mark.processes
def test_own_data_and_delays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file = tmp_path / "train.libsvm", tmp_path / "figures.json"
    data.write_text("".join(f"{i % 2} {i % 2}:1 {2 + i % 3}:0.5\n" for i in range(60)))
    delays = ["--slow=factor=2,rank=1", "--stall=p=1,factor=3", "--chunks", "--optimizer=adagrad"]
    policies = ["--policies=asp", "--repeats=1", "--servers=2", "--target=0.6", f"--data={data}"]
    assert main(["staleness", *TINY, *delays, *policies, f"--json={file}"]) == 0
    parameters, (scene,) = results(file)
    assert parameters["data"] == str(data)
    assert parameters["slow"] == [{"rank": 1, "factor": 2}]
    assert scene["bayes_loss"] is None
    assert scene["delays"] == (
        "worker 1 is always 2x slower and 100 % of all steps take 3x as long"
    )
    (asp,) = scene["policies"]
    assert asp["final_loss"]["max"] < scene["target"] == 0.6  # the data can be learned
    check_policy(asp, 1, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--policies=sequential", "bsp, bsp:BACKUP, ssp:STEPS and asp"),
        ("--policies=ssp", "bsp, bsp:BACKUP, ssp:STEPS and asp"),
        ("--policies=asp,asp", "each once"),
        ("--policies=bsp:4", "more --workers than backup workers"),
        ("--slow=rank=4,factor=2", "with --workers 4 ranks are 0 to 3"),
        ("--slow=rank=0", "rank=NUMBER,factor=NUMBER"),
        ("--slow=rank=0.5,factor=2", "not a whole number"),
        ("--slow=rank=0,factor=0.5", "factor is not from 1"),
        ("--slow=rank=0,factor=nan", "factor is not from 1"),
        ("--stall=p=2,factor=4", "p is not from 0 to 1"),
        ("--stall=p=x,factor=4", "could not convert"),
        ("--stall=p=0.5,p=0.5,factor=4", "p=NUMBER,factor=NUMBER"),
        ("--step-ms=0", "not above 0"),
        ("--lr=inf", "not above 0 and at most"),
        ("--seed=-1", "not at least 0"),
        ("--plot=/nowhere/at/all.png", "make the directory"),
    ],
)
def test_wrong_usage(argument: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["staleness", argument])
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_the_same_worker_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["staleness", "--slow=rank=0,factor=2", "--slow=rank=0,factor=3"])
    assert "each rank once" in capsys.readouterr().err


def test_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["staleness", f"--data={tmp_path / 'none.libsvm'}"]) == 1
    assert "no such file" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["staleness", "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for word in ("hardware performance", "statistical performance", "SSP(s) does not help"):
        assert word in out


@pytest.mark.processes
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    marked = Marked("FASTPS_BENCH_TEST", f"staleness-{os.getpid()}")
    command = [sys.executable, "-m", "fastps_bench", "staleness", *TINY, "--steps=100000"]
    bench = subprocess.Popen(
        [*command, f"--plot={tmp_path / 'none.png'}"],
        env={**os.environ, **marked.environment, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Where tests run in the background, SIGINT may be ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        # It, the launcher, the scheduler, a server, two workers, the reader.
        marked.wait_until(7, least=True)
        bench.send_signal(signal.SIGINT)
        assert bench.wait(20) == 130
    finally:
        bench.kill()
        bench.wait()
    marked.wait_until(1, least=False)
    assert not list(tmp_path.glob("fastps-*"))


def test_policies() -> None:
    assert [policy(text) for text in ("bsp", "bsp:1", "ssp:3", "asp")] == [
        *(BSP(), BSP(backup=1), SSP(3), ASP())
    ]
    assert [label(text) for text in ("bsp", "bsp:1", "ssp:3", "asp")] == [
        *("BSP", "BSP(backup 1)", "SSP(3)", "ASP")
    ]


def test_delays_are_the_same_for_every_policy() -> None:
    scene = Scene((Slow(1, 2.0),), Stall(0.25, 4.0))
    first = scene.factors((7, 0), 0, 10_000)
    assert np.array_equal(first, scene.factors((7, 0), 0, 10_000))
    assert set(first) == {1.0, 4.0}
    assert 0.2 < np.mean(first == 4.0) < 0.3
    slow = scene.factors((7, 0), 1, 10_000)
    assert set(slow) == {2.0, 8.0}
    assert scene.factor_max == 8.0
    assert not np.array_equal(first, slow / 2)  # each worker has its own luck
    assert not np.array_equal(first, scene.factors((7, 1), 0, 10_000))
    assert set(Scene().factors((7, 0), 0, 5)) == {1.0}


def test_the_plan_reaches_the_processes_unchanged() -> None:
    for scene in (*default_scenes(True), Scene()):
        plan = RunPlan("ssp:3", scene, 4, 10, 2.5, 8, "sgd", 1.0, (0, 1), "folder")
        assert RunPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_generated_data_has_the_loss_it_says(tmp_path: Path) -> None:
    problem = generated(50, 20_000, seed=3)
    problem.save(tmp_path / "problem.npz")
    again = read_problem(tmp_path / "problem.npz")
    assert again.bayes_loss == problem.bayes_loss is not None
    assert np.array_equal(again.train.columns, problem.train.columns)
    judge = again.held_out
    margins = np.log(judge.targets / (1 - judge.targets))
    assert log_loss(margins, judge.targets) == pytest.approx(problem.bayes_loss, abs=1e-5)
    assert log_loss(margins + np.float32(0.1), judge.targets) > problem.bayes_loss
    assert again.train.matrix(50).n_rows == 20_000
    assert set(again.train.targets) == {0.0, 1.0}


def test_files_are_split(tmp_path: Path) -> None:
    lines = [f"{i % 2} {i}:{i}\n" for i in range(1, 101)]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_text("".join(lines[:30]))
    (tmp_path / "a" / "2").write_text("".join(lines[30:]))
    problem = read([tmp_path / "a"], seed=1)
    assert problem.bayes_loss is None
    seen = []
    for part, n_rows in ((problem.train, 80), (problem.held_out, 20)):
        assert len(part.targets) == n_rows
        keys = problem.keys[part.columns]
        assert np.array_equal(keys, part.values)  # each row kept its own entries
        assert np.array_equal(keys % 2, part.targets)
        seen += keys.tolist()
    assert sorted(seen) == list(range(1, 101))
    (tmp_path / "one").write_text("1 1:1\n")
    with pytest.raises(DataError, match="at least 2"):
        read([tmp_path / "one"], seed=1)


def run_of(losses: list[float], ends: list[float], staleness: dict[str, int]) -> Run:
    half = len(ends) // 2
    workers = [
        {"start": 100.0, "ends": [100 + end for end in ends[:half]], "staleness": staleness},
        {"start": 100.5, "ends": [100 + end for end in ends[half:]], "staleness": {}},
    ]
    times = [100 + at for at in range(len(losses))]
    return Run.of(workers, {"times": times, "losses": losses})


def test_figures_of_a_run() -> None:
    run = run_of([0.7, 0.6, 0.4, 0.45, 0.3], [0.5, 1.5, 2.5, 3.0, 0.7, 1.2, 1.9, 2.0], {"0": 8})
    assert run.seconds == 3.0
    assert run.steps_per_s == pytest.approx(8 / 3)
    assert run.seconds_to(0.5) == pytest.approx(1.5)  # half-way between 0.6 and 0.4
    assert run.steps_until(1.5) == 4
    assert run.seconds_to(0.35) == 3.0  # never later than the last step
    assert run.seconds_to(0.7) == 0.0
    assert run.seconds_to(0.2) is None
    assert run.final_loss == 0.3
    assert default_target(0.7, 0.2, [run]) == pytest.approx(0.25)
    assert default_target(0.7, None, [run]) == pytest.approx(0.34)


def test_a_target_not_reached_is_told(tmp_path: Path) -> None:
    good = run_of([0.7, 0.5, 0.3], [0.5, 1.0, 1.5, 2.0], {"0": 3, "2": 1})
    bad = run_of([0.7, 0.6, 0.6], [1.0, 2.0, 3.0, 4.0], {"0": 4})
    policies = [
        {"label": "BSP", **figures_of([bad, good], 0.4)},
        {"label": "ASP", **figures_of([good, good], 0.4)},
    ]
    assert policies[0]["seconds_to_target"] is None
    assert policies[1]["steps_to_target"]["median"] == 3
    assert policies[1]["staleness"] == {"0": 6, "2": 2}
    scene = {"delays": "x", "sharing": "y", "target": 0.4, "bayes_loss": None, "policies": policies}
    out = staleness_table(dict.fromkeys(FACTS, "x"), [scene])
    assert "not reached  (1 of 2 did)" in out
    for name, shown in (("some", [scene]), ("none", [{**scene, "policies": policies[:1]}])):
        plot_trade_off(tmp_path / f"{name}.png", shown, "nothing")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_a_wrong_run_gives_no_figures() -> None:
    run = run_of([0.7, 0.5], [0.5, 1.0, 1.5, 2.0], {"0": 2, "2": 2})

    def plan(name: str, steps: int = 2) -> RunPlan:
        return RunPlan(name, Scene(), 2, steps, 1.0, 8, "sgd", 1.0, (0, 0), "folder")

    staleness._verify("a", plan("ssp:2"), run)
    with pytest.raises(CaseError, match="2 steps ahead"):
        staleness._verify("a", plan("ssp:1"), run)
    with pytest.raises(CaseError, match="4 steps were made instead of 6"):
        staleness._verify("a", plan("asp", steps=3), run)
    with pytest.raises(CaseError, match="give a smaller --lr"):
        staleness._verify("a", plan("asp"), run_of([0.7, np.inf], [1.0, 2.0, 3.0, 4.0], {}))
