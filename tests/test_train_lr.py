"""``fastps train lr`` and ``fastps predict`` on real data, embedded and on a real cluster.

The figures to reach are those of LIBLINEAR (see examples/data/a1a/SOURCE.txt).
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from fastps.cli.main import main
from fastps.models.lr_settings import LogisticRegressionSettings
from fastps.models.model_file import load_model

EXAMPLES = Path(__file__).parent.parent / "examples"
TRAIN = str(EXAMPLES / "data" / "a1a" / "a1a")
TEST = str(EXAMPLES / "data" / "a1a" / "a1a.t")

OBJECTIVE_L2, OBJECTIVE_L1 = 516.34389, 536.55659


@pytest.fixture
def train(tmp_path, capfd):
    """Run ``fastps train lr``; returns what the metrics file holds."""

    def train(*arguments, data=(TRAIN,), test=TEST, code=0):
        metrics = tmp_path / "metrics.json"
        options = [*data, *(["--test", test] if test else []), *map(str, arguments)]
        assert main(["train", "lr", *options, f"--metrics={metrics}"]) == code
        return json.loads(metrics.read_text()) if code == 0 else capfd.readouterr().err

    return train


@pytest.fixture
def write(tmp_path):
    """Write a data file and return its path."""

    def write(text, name="data"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def check_l2(metrics):
    assert metrics["objective"] <= 1.005 * OBJECTIVE_L2
    assert metrics["objective"] >= 0.99999 * OBJECTIVE_L2  # nothing is below the optimum
    assert metrics["accuracy"] >= 0.840
    assert metrics["auc"] >= 0.892
    assert metrics["log_loss"] == pytest.approx(0.3422, abs=0.002)
    assert metrics["examples"] == 1605


@pytest.mark.parametrize("seed", [0, 1])
def test_l2_reaches_liblinear(train, seed):
    metrics = train("--l2", 1, "--no-bias", "--seed", seed)
    check_l2(metrics)
    assert metrics["nonzeros"] == 113
    assert metrics["metrics_of"] == "test"
    assert metrics["bias"] == 0


@pytest.mark.parametrize(("optimizer", "most"), [("sgd", 1.02), ("ftrl", 1.01)])
def test_other_optimizers_with_l2(train, optimizer, most):
    metrics = train("--optimizer", optimizer, "--l2", 1, "--no-bias")
    assert metrics["objective"] <= most * OBJECTIVE_L2
    assert metrics["accuracy"] >= 0.840
    assert metrics["auc"] >= 0.892


def test_ftrl_with_l1_is_sparse(train):
    metrics = train("--optimizer", "ftrl", "--l1", 1, "--no-bias")
    assert metrics["objective"] <= 1.02 * OBJECTIVE_L1
    assert 45 <= metrics["nonzeros"] <= 75  # LIBLINEAR: 56
    assert metrics["accuracy"] >= 0.840
    assert metrics["auc"] >= 0.892


def test_adagrad_with_l1_reaches_the_objective_without_zeros(train):
    metrics = train("--l1", 1, "--no-bias")
    assert metrics["objective"] <= 1.02 * OBJECTIVE_L1


def test_the_bias_learns_the_log_odds_of_the_labels(train, write):
    metrics = train("--epochs", 50, data=[write(30 * "1\n" + 10 * "-1\n")], test=None)
    assert metrics["bias"] == pytest.approx(np.log(3), abs=0.02)
    assert metrics["nonzeros"] == 0


def test_runs_of_one_worker_are_equal(train):
    first, second = train("--epochs", 3, "--l2", 1), train("--epochs", 3, "--l2", 1)
    for name in ("objective", "log_loss", "auc", "bias"):
        assert first[name] == second[name]
    assert first["objective"] != train("--epochs", 3, "--l2", 1, "--seed", 9)["objective"]


def test_a_cache_that_holds_nothing_changes_nothing(train):
    kept, read_anew = train("--epochs", 2), train("--epochs", 2, "--cache-mb", 0)
    assert kept["objective"] == read_anew["objective"]


def test_hashed_features(train, tmp_path):
    model = tmp_path / "m.npz"
    metrics = train("--hash-bits", 20, "--l2", 1, "--no-bias", "--model", model)
    check_l2(metrics)  # 113 features in a million places: hardly any fall together
    assert load_model(model).hash_bits == 20
    assert load_model(model).keys.max() < 1 << 20
    assert train("--hash-bits", 3, "--epochs", 2)["nonzeros"] <= 8


def test_curve_model_and_plot(train, tmp_path):
    model, plot = tmp_path / "m.npz", tmp_path / "p.png"
    metrics = train("--epochs", 3, "--model", model, "--plot", plot)
    assert [point["epoch"] for point in metrics["curve"]] == [1, 2, 3]
    last = metrics["curve"][-1]
    assert last["test_log_loss"] == pytest.approx(metrics["log_loss"], rel=1e-6)
    assert last["test_auc"] == pytest.approx(metrics["auc"], rel=1e-6)
    assert last["train_log_loss"] < metrics["curve"][0]["train_log_loss"]
    assert 0 < last["seconds"] <= metrics["seconds"]
    assert len(load_model(model).keys) == metrics["nonzeros"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_a_test_set_the_figures_are_of_the_training_data(train, tmp_path):
    metrics = train("--epochs", 2, "--no-bias", "--plot", tmp_path / "p.png", test=None)
    assert metrics["metrics_of"] == "train"
    assert metrics["objective"] == pytest.approx(1605 * metrics["log_loss"], rel=1e-5)
    assert metrics["curve"][0]["test_auc"] is None


def test_predict_repeats_the_figures(train, tmp_path, capfd):
    model, output = tmp_path / "m.npz", tmp_path / "p.txt"
    metrics = train("--epochs", 3, "--model", model)
    capfd.readouterr()
    assert main(["predict", str(model), TEST, "--output", str(output)]) == 0
    printed = capfd.readouterr().out
    for name, label in (("log_loss", "log-loss"), ("accuracy", "accuracy"), ("auc", "AUC")):
        assert f"{label} {metrics[name]:.5f}" in printed
    probabilities = np.loadtxt(output)
    assert probabilities.shape == (30956,)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_predict_without_labels(train, tmp_path, write, capfd):
    model = tmp_path / "m.npz"
    train("--epochs", 1, "--model", model)
    capfd.readouterr()
    with_labels, without = write("1 3:1 7:1\n-1 9:1\n", "l"), write("3:1 7:1\n9:1\n", "n")
    assert main(["predict", str(model), with_labels]) == 0
    first = capfd.readouterr()
    assert main(["predict", str(model), without]) == 0
    second = capfd.readouterr()
    assert first.out == second.out
    assert first.out.count("\n") == 2
    assert "AUC" in first.err
    assert "no figures" in second.err


def test_labels_0_and_1(train, write):
    text = Path(TRAIN).read_text().replace("-1 ", "0 ")
    metrics = train("--l2", 1, "--no-bias", data=[write(text)])
    check_l2(metrics)


BAD_DATA = {
    "1 3:1\n-1 4:x\n": ":2: the value of feature '4:x' is not a number",
    "1 3:1\n2 4:1\n": ":2: label '2' is not -1, 0 or 1",
    "1 3:1\n-1 4:1\n0 5:1\n": "use -1 and 1, or 0 and 1",
    "1 3:1\n1 4:1\n": "all 2 examples have the same label",
    "# nothing\n": "there are no examples",
}


@pytest.mark.parametrize("text", BAD_DATA)
def test_bad_training_data_is_exit_code_1(train, write, text):
    path = write(text)
    error = train(data=[path], test=None, code=1)
    assert error.count(path) == 1
    assert BAD_DATA[text] in error


@pytest.mark.parametrize(("optimizer", "value"), [("sgd", "1e30"), ("ftrl", "1e25")])
def test_a_training_that_diverges_says_so(train, write, optimizer, value):
    lines = [f"{label} 1:{value} 2:1" for label in (1, -1, 1, -1)]
    data = write("\n".join(lines) + "\n")
    options = ["--optimizer", optimizer, "--lr", "1e9", "--epochs", "9", "--batch-size", "1"]
    error = train(*options, data=[data], test=None, code=1)
    assert "the training diverged in epoch 1 of 9: lower --lr from 1e+09 (" in error
    assert "table 'weights'" in error


def test_a_bad_test_set_is_told_before_training(train, write):
    error = train(test=write("1 1:1\nx\n"), code=1)
    assert "data:2: label 'x' is not a number" in error
    assert "epoch" not in error
    assert "there are no examples" in train(test=write("\n"), code=1)
    assert "no such file" in train(test="/nowhere/data", code=1)


def test_bad_lines_can_be_skipped(train, write):
    lines = Path(TRAIN).read_text().splitlines(keepends=True)
    lines.insert(700, "oops\n")
    lines.insert(20, "1 qid:3 4:1\n")
    path = write("".join(lines))
    assert "data:21: 'qid:3' marks a ranking file" in train(data=[path], code=1)
    metrics = train("--l2", 1, "--no-bias", "--skip-bad-lines", data=[path])
    check_l2(metrics)
    assert metrics["bad_lines"] == 2


USAGE_ERRORS = {
    "--consistency=ssp": "use asp (nobody waits), ssp:S",
    "--consistency=bsp:-1": "'bsp:-1' is no consistency",
    "--optimizer=adam": "invalid choice",
    "--optimizer=ftrl --decay": "--decay does nothing with ftrl",
    "--lr=0": "not a number above 0",
    "--l1=-1": "not a number from 0 up",
    "--l2=inf": "not a number from 0 up",
    "--epochs=0": "not a whole number",
    "--hash-bits=65": "not a whole number",
    "--batch-size=0": "not a whole number",
    "--model=/nowhere/m.npz": "make the directory /nowhere first",
    "--plot=/": "is a directory",
    "--servers=-1": "not a whole number",
}


@pytest.mark.parametrize("options", USAGE_ERRORS)
def test_usage_errors_are_exit_code_2(options, capfd):
    with pytest.raises(SystemExit) as error:
        main(["train", "lr", TRAIN, *options.split()])
    assert error.value.code == 2
    assert USAGE_ERRORS[options] in capfd.readouterr().err


def test_the_automatic_batch_grows_with_the_data():
    settings = LogisticRegressionSettings(data=("x",))
    assert [settings.batch_rows(n) for n in (100, 6400, 64_000, 10**9)] == [64, 100, 1000, 4096]
    assert LogisticRegressionSettings(data=("x",), batch_size=7).batch_rows(10**9) == 7


def test_steps_shrink_in_the_second_half():
    settings = LogisticRegressionSettings(data=("x",), epochs=4)
    assert [settings.step_scale(epoch) for epoch in range(4)] == [1, 1, 1, 0.5]
    assert LogisticRegressionSettings(data=("x",), epochs=1).step_scale(0) == 1


# Real processes.


def run(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


CLUSTER = ("--servers=2", "--workers=2")


@pytest.mark.processes
@pytest.mark.parametrize("seed", [0, 1])
def test_a_cluster_reaches_liblinear(tmp_path, seed):
    metrics, model, plot = (tmp_path / name for name in ("m.json", "m.npz", "p.png"))
    files = [f"--metrics={metrics}", f"--model={model}", f"--plot={plot}"]
    options = [TRAIN, "--test", TEST, "--l2=1", "--no-bias", f"--seed={seed}", *files, *CLUSTER]
    done = run("-m", "fastps", "train", "lr", *options)
    assert done.returncode == 0, done.stderr
    check_l2(json.loads(metrics.read_text()))
    assert done.stdout.count("objective") == 1  # one worker speaks
    assert plot.exists()
    assert len(load_model(model).keys) == 113


@pytest.mark.processes
@pytest.mark.parametrize("consistency", ["ssp:3", "bsp"])
def test_workers_that_wait_for_each_other_reach_it_too(tmp_path, consistency):
    def model_of(run_number):
        metrics, model = tmp_path / f"{run_number}.json", tmp_path / f"{run_number}.npz"
        files = [f"--metrics={metrics}", f"--model={model}"]
        options = ["--test", TEST, "--l2=1", "--no-bias", f"--consistency={consistency}", *files]
        done = run("-m", "fastps", "train", "lr", TRAIN, *options, *CLUSTER)
        assert done.returncode == 0, done.stderr
        check_l2(json.loads(metrics.read_text()))
        return load_model(model)

    first = model_of(1)
    if consistency == "bsp":  # the same bits in every run
        second = model_of(2)
        order = [np.argsort(each.keys) for each in (first, second)]
        assert first.keys[order[0]].tobytes() == second.keys[order[1]].tobytes()
        assert first.weights[order[0]].tobytes() == second.weights[order[1]].tobytes()


@pytest.mark.processes
def test_a_cluster_tells_of_a_bad_line(write):
    lines = Path(TRAIN).read_text().splitlines(keepends=True)
    lines[1500] = "1 5\n"
    done = run("-m", "fastps", "train", "lr", write("".join(lines)), *CLUSTER)
    assert done.returncode == 1
    assert "data:1501: feature '5' is not <id>:<value>" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.processes
def test_another_worker_takes_over_from_a_killed_first_one(tmp_path):
    job, metrics = tmp_path / "job.json", tmp_path / "m.json"
    train = ["-m", "fastps", "train", "lr", TRAIN, "--test", TEST, "--l2=1", "--no-bias"]
    launch = ["-m", "fastps.launch.main", *CLUSTER, f"--job-file={job}"]
    command = [sys.executable, *launch, *train, "--epochs=100", f"--metrics={metrics}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            # Once: the one who takes over may tell of the same epoch again.
            if line.startswith("[worker 0] epoch   9/100"):
                os.kill(pid_of(json.loads(job.read_text()), "worker", 0), signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGKILL, "".join(lines)
    assert any(line.startswith("[worker 1] epoch 100/100") for line in lines), "".join(lines)
    result = json.loads(metrics.read_text())
    check_l2(result)
    assert [point["epoch"] for point in result["curve"]] == list(range(1, 101))


def pid_of(job, role, rank):
    (process,) = (p for p in job["processes"] if (p["role"], p["rank"]) == (role, rank))
    return process["pid"]


@pytest.mark.processes
@pytest.mark.parametrize("launch", [(), ("-m", "fastps.launch.main", *CLUSTER)])
@pytest.mark.parametrize("script", ["train_lr.py", "train_mlp.py"])
def test_the_example_scripts(launch, script):
    done = run(*launch, EXAMPLES / script)
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split("test accuracy ")[1].split()[0])
    assert accuracy > 0.83


# What comes through a pipe, and what is not told apart by guessing.


def fed(path: Path, content: bytes) -> Path:
    """Make a pipe that gives this once."""
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_bytes(content), daemon=True).start()
    return path


def test_pipes_are_read_as_files_are(train, tmp_path, write, capfd):
    model = tmp_path / "m.npz"
    train("--epochs", 1, "--model", model)
    capfd.readouterr()
    text = "1 3:1 7:1\n-1 9:1\n"
    assert main(["predict", str(model), write(text, "l")]) == 0
    expected = capfd.readouterr().out
    for name, content in (("a", text.encode()), ("b", gzip.compress(text.encode()))):
        pipe = fed(tmp_path / f"pipe-{name}", content)
        assert main(["predict", str(model), str(pipe)]) == 0
        assert capfd.readouterr().out == expected
    piped_model = fed(tmp_path / "model", model.read_bytes())
    assert main(["predict", str(piped_model), write(text, "l")]) == 0
    assert capfd.readouterr().out == expected
    for name in ("-", "/dev/stdin"):
        command = [sys.executable, "-m", "fastps", "predict", str(model), name]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
        assert done.stdout.decode() == expected


def test_training_from_a_pipe(tmp_path, capfd):
    content = Path(TRAIN).read_bytes()
    one, two = tmp_path / "1.npz", tmp_path / "2.npz"
    base = ["train", "lr", "--epochs", "1"]
    assert main([*base, TRAIN, "--model", str(one)]) == 0
    pipe = fed(tmp_path / "pipe", content)
    before = set(Path(tempfile.gettempdir()).glob("fastps-data-*"))
    assert main([*base, str(pipe), "--model", str(two)]) == 0
    assert set(Path(tempfile.gettempdir()).glob("fastps-data-*")) <= before
    assert one.read_bytes() == two.read_bytes()


def test_a_label_with_a_weight_is_no_feature(train, tmp_path, write, capfd):
    model = tmp_path / "m.npz"
    train("--epochs", 1, "--model", model)
    capfd.readouterr()
    for text, place in (("1:2.5 3:1\n", ":1: "), ("1 3:1\n1:2.5 3:1\n", ":2: ")):
        path = write(text, "w")
        assert main(["predict", str(model), path]) == 1
        captured = capfd.readouterr()
        assert f"{path}{place}the label is missing" in captured.err
        assert captured.out == ""
    assert main(["predict", "--no-labels", str(model), write("1:2.5 3:1\n", "w")]) == 0


def test_a_file_that_is_no_model_is_said_to_be_none(tmp_path, write, capfd):
    for n, content in enumerate((b"junk", b"", b"PK\x03\x04junk", b"\x80\x04]q\x00.")):
        path = tmp_path / f"{n}.npz"
        path.write_bytes(content)
        assert main(["predict", str(path), write("1 3:1\n", "l")]) == 1
        said = capfd.readouterr().err
        assert "is not a model file" in said
        assert "pickle" not in said
