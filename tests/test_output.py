"""Result files: what is there is replaced whole, and nothing else is replaced."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastps.cli.main import main
from fastps.errors import ConfigError, FastPSError
from fastps.launch.job_file import JobFile, check_job_file
from fastps.models.model_file import LinearModel, save_model
from fastps.output import atomic_output, check_output, check_picture, write_json


def write(path: Path | str, content: bytes = b"new") -> None:
    with atomic_output(path) as file:
        file.write(content)


def fail_within(path: Path) -> None:
    def work() -> None:
        with atomic_output(path) as file:
            file.write(b"part")
            raise KeyError

    with pytest.raises(KeyError):
        work()


def read_once(path: Path) -> tuple[threading.Thread, list[bytes]]:
    """Start to read a pipe to its end."""
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    thread.start()
    return thread, read


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "d").mkdir()
    real, link, second = tmp_path / "d/p", tmp_path / "out", tmp_path / "second"
    if is_there:
        real.write_bytes(b"old")
    link.symlink_to("d/p")
    second.symlink_to("out")
    check_output("--output", second)
    write(second)
    assert second.is_symlink()
    assert link.is_symlink()
    assert not real.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(tmp_path / "d") == ["p"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path, fifo: Path) -> None:
    check_output("--output", fifo)
    (tmp_path / "link").symlink_to(fifo)
    for path in (fifo, tmp_path / "link"):
        thread, read = read_once(fifo)
        write(path)
        thread.join(30)
        assert read == [b"new"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert names(tmp_path) == ["fifo", "link"]


def test_an_archive_goes_through_a_pipe(fifo: Path) -> None:
    model = LinearModel.from_rows(np.array([3], np.uint64), np.array([2], np.float32))
    thread, read = read_once(fifo)
    save_model(fifo, model)
    thread.join(30)
    assert read[0][:2] == b"PK"


def test_nothing_reaches_a_pipe_when_the_work_fails(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    fail_within(fifo)
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failure_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    fail_within(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_what_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
        listener.bind("socket")
        wrong = [tmp_path, tmp_path / "no/file", tmp_path / "socket", loop, "/proc/x.json", ""]
        wrong += ["/dev/fd/999", f"{tmp_path}/out/"]
        for path in wrong:
            with pytest.raises(ConfigError, match="--output"):
                check_output("--output", path)
    assert names(tmp_path) == ["loop", "socket"]
    with pytest.raises(FastPSError, match="cannot be written"):
        write_json("/proc/x.json", {})


def test_an_input_is_no_output(tmp_path: Path) -> None:
    source, hard, link = tmp_path / "in", tmp_path / "hard", tmp_path / "link"
    source.write_bytes(b"1")
    hard.hardlink_to(source)
    link.symlink_to(source)
    for path in (source, hard, link, tmp_path / "." / "in"):
        with pytest.raises(ConfigError, match="is read"):
            check_output("--output", path, [source])
    with pytest.raises(ConfigError, match="is read"):
        check_output("--output", tmp_path / "new", [tmp_path])  # would be read next time
    check_output("--output", tmp_path / "new", [source, tmp_path / "absent"])


def test_pictures_have_an_ending_that_says_so(tmp_path: Path, fifo: Path) -> None:
    for ending in (".png", ".PDF", ".svg"):
        check_picture("--plot", tmp_path / f"p{ending}")
    check_picture("--plot", fifo)
    for name in ("p.xyz", "p", "p.jpeg"):
        with pytest.raises(ConfigError, match=r"\.png, \.pdf or \.svg"):
            check_picture("--plot", tmp_path / name)


def test_a_job_file_replaces_only_job_files(tmp_path: Path, fifo: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    for path in (real, link):
        check_job_file("--job-file", path)
        file = JobFile(path)
        file.write("tcp://x", [])
        check_job_file("--job-file", path)
        assert json.loads(real.read_text())["processes"] == []
        file.remove()
        assert not real.exists()
        assert link.is_symlink()
    script = tmp_path / "train.py"
    script.write_text("print(1)")
    for path in (fifo, script, tmp_path):
        with pytest.raises(ConfigError, match="--job-file"):
            check_job_file("--job-file", path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.npz"
    save_model(path, LinearModel.from_rows(np.array([3], np.uint64), np.array([2], np.float32)))
    return path


def predict(*arguments: Any, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fastps", "predict", *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=100)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_any_name(tmp_path: Path, model: Path, name: str) -> None:
    data = tmp_path / "d"
    data.write_text("1 3:1\n")
    done = predict(model, data, "--output", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"0.880797078\n"
    assert b"log-loss" in done.stderr
    with (tmp_path / "log").open("wb") as log:  # a file that the shell opened stays that file
        number = os.fstat(log.fileno()).st_ino
        done = predict(model, data, "--output", name, stdout=log)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").stat().st_ino == number
    assert (tmp_path / "log").read_bytes() == b"0.880797078\n"
    assert not Path("-").exists()


def test_predict_does_not_write_over_what_it_reads(tmp_path: Path, model: Path) -> None:
    data = tmp_path / "d"
    data.write_text("1 3:1\n")
    before = model.read_bytes()
    for output in (data, model):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(model), str(data), "--output", str(output)])
        assert ended.value.code == 2
    assert data.read_text() == "1 3:1\n"
    assert model.read_bytes() == before
