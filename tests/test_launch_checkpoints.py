"""fastps-launch --checkpoint: saves while a job runs, and goes on where it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bsp_model
import fastps
from fastps import errors
from fastps.config import DEFAULT_GROUP
from fastps.launch import folder_lock
from fastps.launch import main as launch_main
from fastps.launch.folder_lock import FolderLock
from jobs import Worker, until

pytestmark = pytest.mark.processes

N_WORKERS, N_STEPS = 2, 40


def train(worker: Worker) -> dict[str, Any]:
    import bsp_model

    with fastps.connect() as client:
        began = client.clock_value
        delay = bsp_model.random_delays(3, client.rank, longest=worker.arguments["longest"])
        digests = bsp_model.train(client, worker.arguments["n_steps"], delay)
        return {"began": began, "digests": digests}


def train_in_job(cluster: Any, folder: Path, *options: str, longest: float = 0.004) -> Any:
    return cluster(
        train,
        *("--checkpoint", str(folder), *options),
        servers=2,
        workers=N_WORKERS,
        n_steps=N_STEPS,
        longest=longest,
        # Where the journal is: who kills the whole job kills those, too, that would remove it.
        environment={"TMPDIR": str(folder.parent)},
    )


def manifests(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/MANIFEST.json")]
    return sorted(found, key=lambda each: each["number"])


def kill_all(job: Any) -> None:
    """End every process of a job at once, the launcher first, as when the power fails."""
    pids = [job.launcher.pid, *(pid for pid in job.alive() if pid != job.launcher.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    job.launcher.wait(10)


def test_a_job_that_was_killed_goes_on_to_the_same_bits(cluster, tmp_path) -> None:
    folder = tmp_path / "checkpoints"
    job = train_in_job(cluster, folder, "--checkpoint-every", "5steps", longest=0.05)
    until(lambda: len(manifests(folder)) >= 2, 60)
    kill_all(job)
    saved = manifests(folder)[-1]["groups"][0]["clock"]
    assert 0 < saved < N_STEPS
    job = train_in_job(cluster, folder, "--checkpoint-every", "5steps")
    results = job.results(90)
    expected = bsp_model.reference_digests(N_WORKERS, N_STEPS)
    assert [each["began"] for each in results] == [saved] * N_WORKERS
    assert [each["digests"] for each in results] == [expected] * N_WORKERS
    assert f"({DEFAULT_GROUP} at step {saved})" in job.err


def test_the_end_is_saved_and_old_ones_go(cluster, tmp_path) -> None:
    folder = tmp_path / "checkpoints"
    options = ("--checkpoint-every", "8steps", "--keep", "2")
    job = train_in_job(cluster, folder, *options, longest=0.05)
    job.results(90)
    assert [each["groups"][0]["clock"] for each in manifests(folder)][-1] == N_STEPS
    assert len(manifests(folder)) == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        each["tag"] for each in manifests(folder)
    ]
    again = train_in_job(cluster, folder, *options)  # there is nothing left to do
    assert [each["began"] for each in again.results(60)] == [N_STEPS] * N_WORKERS
    anew = train_in_job(cluster, folder, *options, "--no-resume")
    assert [each["began"] for each in anew.results(60)] == [0] * N_WORKERS


def test_a_damaged_checkpoint_stops_the_job_before_it_begins(cluster, tmp_path) -> None:
    folder = tmp_path / "checkpoints"
    train_in_job(cluster, folder).results(90)
    part = next(folder.rglob("*.safetensors"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    job = train_in_job(cluster, folder)
    assert job.wait() == 1
    assert part.name in job.err
    assert "--no-resume" in job.err
    assert "[worker" not in job.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint-every", "5s"], "without --checkpoint"),
        (["--checkpoint", "c", "--checkpoint-every", "often"], "'often' is not a period"),
        (["--checkpoint", "nonsense://c"], "nonsense"),
        (["--checkpoint", "c", "--keep", "0"], "--keep"),
    ],
)
def test_wrong_options_are_refused(options, message, capsys, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text("")
    with pytest.raises(SystemExit) as ended:
        launch_main.parse([*options, str(script)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def count_up(worker: Worker) -> float:
    """A job that ends before anybody has asked what it holds."""
    with fastps.connect() as client:
        table = client.sparse_table("count")
        table.push([1], [1.0])
        if "in_the_way" in worker.arguments:
            import shutil

            folder = Path(worker.arguments["in_the_way"])
            shutil.rmtree(folder)
            folder.write_text("no folder")
        return float(table.pull([1])[0])


def test_the_end_of_the_shortest_job_is_saved(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    for n in (1, 2, 3):
        job = cluster(count_up, "--checkpoint", str(folder), servers=1, workers=1)
        assert job.results() == [n], job.err


def test_an_end_that_cannot_be_saved_is_no_success(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    job = cluster(
        count_up,
        *("--checkpoint", str(folder)),
        servers=1,
        workers=1,
        in_the_way=str(folder),
    )
    assert job.wait() == 1, job.err
    assert "the end of the job was not saved" in job.err


def write_script(folder: Path, body: str) -> None:
    (folder / "t.py").write_text(
        "import fastps, pathlib, time\n"
        "client = fastps.connect()\n"
        "table = client.sparse_table('w')\n" + body
    )


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fastps.launch.main", "--checkpoint=ck", *options, "t.py"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def test_sigusr1_saves_and_goes_on_and_sigterm_saves_and_ends(tmp_path: Path) -> None:
    write_script(
        tmp_path,
        "table.push([1], [1.0])\npathlib.Path('runs').touch()\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.02)\n",
    )
    job = start(tmp_path)
    try:
        until((tmp_path / "runs").exists)
        for n in (1, 2):
            job.send_signal(signal.SIGUSR1)
            until(lambda n=n: len(manifests(tmp_path / "ck")) == n)
        assert job.poll() is None
        job.send_signal(signal.SIGTERM)
        _, said = job.communicate(timeout=60)
        assert job.returncode == 143, said
        assert len(manifests(tmp_path / "ck")) == 3, said
    finally:
        if job.poll() is None:
            job.kill()


def test_sigusr1_without_a_folder_says_so(tmp_path: Path) -> None:
    write_script(
        tmp_path,
        "pathlib.Path('runs').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n",
    )
    command = [sys.executable, "-m", "fastps.launch.main", "t.py"]
    with (tmp_path / "err").open("w") as err:
        job = subprocess.Popen(command, cwd=tmp_path, stderr=err)
    try:
        until((tmp_path / "runs").exists)
        job.send_signal(signal.SIGUSR1)
        until(lambda: "--checkpoint" in (tmp_path / "err").read_text())
        (tmp_path / "go").touch()
        assert job.wait(60) == 0
    finally:
        if job.poll() is None:
            job.kill()


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_a_folder_has_one_job_at_a_time(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    uri = str(tmp_path / "ck") if kind == "folder" else f"memory://{tmp_path.name}/{kind}"
    lock = FolderLock(uri)
    with pytest.raises(errors.CheckpointError, match=f"process {os.getpid()} on host"):
        FolderLock(uri)
    lock.close()
    lock = FolderLock(uri)
    if kind == "store":  # as when its process was killed
        monkeypatch.setattr(folder_lock, "DEAD_SECONDS", 0.0)
        FolderLock(uri).close()
    lock.close()
    assert not (tmp_path / "ck").exists()


def test_the_same_job_twice_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    write_script(
        tmp_path,
        "pathlib.Path('runs').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n",
    )
    job = start(tmp_path)
    try:
        until((tmp_path / "runs").exists)
        second = start(tmp_path)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"process {job.pid} on host" in said
        assert "another folder" in said
    finally:
        job.kill()
        job.communicate()
    (tmp_path / "go").touch()
    third = start(tmp_path)
    _, said = third.communicate(timeout=60)
    assert third.returncode == 0, said
