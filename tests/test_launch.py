"""fastps-launch with real processes: exit codes, output, restarts, and that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastps._core")
pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

WAIT_SECONDS = 30.0


class Launch:
    """One run of fastps-launch."""

    def __init__(self, folder: Path, arguments: list[str], new_environment: dict[str, str]) -> None:
        self.job_file = folder / "job.json"
        self.out_path, self.err_path = folder / "out", folder / "err"
        environment = {**os.environ, **new_environment}
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastps.launch.main", *arguments],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
            )

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        return self.process.wait(seconds)

    @property
    def out(self) -> bytes:
        return self.out_path.read_bytes()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    def pids(self, role: str | None = None) -> list[int]:
        content = json.loads(self.job_file.read_text())
        return [each["pid"] for each in content["processes"] if role in (None, each["role"])]

    def until_out_has(self, text: str, times: int = 1) -> None:
        until(lambda: self.out.decode(errors="replace").count(text) >= times)

    def numbers_after(self, word: str) -> list[int]:
        return [int(n) for n in re.findall(rf"{word} (\d+)", self.out.decode())]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    started: list[Launch] = []

    def start(script: str, *arguments: str, script_arguments: tuple[str, ...] = (), **env: str):
        (tmp_path / "script.py").write_text(textwrap.dedent(script))
        command = [*arguments, "--job-file", "job.json", "script.py", *script_arguments]
        started.append(Launch(tmp_path, command, env))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if condition():
                return
        time.sleep(0.05)
    pytest.fail("the condition did not come true")


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def assert_all_end(pids: list[int], seconds: float = 5.0) -> None:
    assert pids
    until(lambda: not any(is_running(pid) for pid in pids), seconds)


# What workers see, and what they print.


def test_every_worker_runs_the_script_with_its_place_and_its_arguments(launch) -> None:
    job = launch(
        """
        import json, os, sys
        names = "RANK NUM_WORKERS GROUP SCHEDULER".split()
        place = {name: os.environ["FASTPS_" + name] for name in names}
        print(json.dumps([sys.argv[1:], place, os.environ["PYTHONUNBUFFERED"],
                          os.environ["OMP_NUM_THREADS"]]))
        """,
        *("--servers", "2", "--workers", "3"),
        script_arguments=("--workers", "9", "--", "-m", "x y"),
        OMP_NUM_THREADS="5",
        FASTPS_RANK="77",
    )
    assert job.wait() == 0, job.err
    lines = sorted(job.out.decode().splitlines())
    assert len(lines) == 3
    addresses = set()
    for rank, line in enumerate(lines):
        prefix, _, content = line.partition("] ")
        assert prefix == f"[worker {rank}"
        arguments, place, unbuffered, threads = json.loads(content)
        assert arguments == ["--workers", "9", "--", "-m", "x y"]
        addresses.add(place.pop("SCHEDULER"))
        assert place == {"RANK": str(rank), "NUM_WORKERS": "3", "GROUP": "default"}
        assert (unbuffered, threads) == ("1", "5")
    assert len(addresses) == 1


def test_modules_and_further_groups(launch, tmp_path: Path) -> None:
    (tmp_path / "package.py").write_text(
        "import os, sys; print(os.environ['FASTPS_GROUP'], os.environ['FASTPS_RANK'], sys.argv[1:])"
    )
    (tmp_path / "script.py").write_text("")
    job = Launch(
        tmp_path,
        ["--workers", "2", "--group", "eval=1:package.py --every 5", "-m", "package", "a"],
        {},
    )
    assert job.wait() == 0, job.err
    assert sorted(job.out.decode().splitlines()) == [
        "[eval 0] eval 0 ['--every', '5']",
        "[worker 0] default 0 ['a']",
        "[worker 1] default 1 ['a']",
    ]


def test_stdout_and_stderr_stay_apart_and_bytes_stay_what_they_are(launch) -> None:
    job = launch(
        r"""
        import sys
        sys.stdout.buffer.write(b"\xff\xfe\r\n" + b"y" * 3_000_000 + b"\n\nno end")
        sys.stderr.write("to stderr")
        """
    )
    assert job.wait() == 0
    assert job.out == (
        b"[worker 0] \xff\xfe\r\n[worker 0] " + b"y" * 3_000_000 + b"\n[worker 0] \n"
        b"[worker 0] no end\n"
    )
    assert "[worker 0] to stderr\n" in job.err


def test_lines_of_workers_do_not_mix(launch) -> None:
    job = launch(
        """
        import os, sys, time
        rank = os.environ["FASTPS_RANK"]
        for _ in range(200):
            sys.stdout.write(rank * 500); sys.stdout.flush()
            sys.stdout.write(rank * 500 + "\\n"); sys.stdout.flush()
        """,
        *("--workers", "3", "--no-prefix"),
    )
    assert job.wait() == 0
    lines = job.out.decode().splitlines()
    assert len(lines) == 600
    assert {len(set(line)) for line in lines} == {1}
    assert {len(line) for line in lines} == {1000}


# Exit codes and restarts.


def test_the_code_is_that_of_the_first_worker_that_failed_and_the_others_finish(launch) -> None:
    job = launch(
        """
        import os, sys, time
        rank = int(os.environ["FASTPS_RANK"])
        time.sleep([0.8, 0.1, 1.2][rank])
        print("finished", rank)
        sys.exit([7, 5, 0][rank])
        """,
        *("--workers", "3"),
    )
    assert job.wait() == 5
    assert sorted(job.numbers_after("finished")) == [0, 1, 2]


def test_a_killed_worker_gives_128_plus_the_signal(launch) -> None:
    job = launch("import os; os.kill(os.getpid(), 9)")
    assert job.wait() == 137
    assert "worker 0 was killed by signal 9 (SIGKILL)" in job.err


def test_a_worker_is_started_again_so_often(launch) -> None:
    script = """
        import os, pathlib, sys
        tries = pathlib.Path("tries" + os.environ["FASTPS_RANK"])
        n = int(tries.read_text()) if tries.exists() else 0
        tries.write_text(str(n + 1))
        print("try", n)
        sys.exit(0 if n == 2 else 10 + n)
        """
    job = launch(script, "--workers", "2", "--max-restarts", "2")
    assert job.wait() == 0
    assert sorted(job.numbers_after("try")) == [0, 0, 1, 1, 2, 2]
    assert job.err.count("it is started again (1 of 2)") == 2


def test_the_last_attempt_gives_the_code(launch) -> None:
    script = """
        import pathlib, sys
        tries = pathlib.Path("tries")
        n = int(tries.read_text()) if tries.exists() else 0
        tries.write_text(str(n + 1))
        sys.exit(10 + n)
        """
    job = launch(script, "--max-restarts", "1")
    assert job.wait() == 11


def test_a_lost_server_gives_1_and_stops_nobody(launch) -> None:
    job = launch("import time; print('up'); time.sleep(3); print('done')", "--servers", "2")
    job.until_out_has("up")
    os.kill(job.pids("server")[0], signal.SIGKILL)
    assert job.wait() == 1
    assert b"done" in job.out
    assert "its shards are lost" in job.err


def test_a_restarted_server_is_said_to_be_empty(launch) -> None:
    job = launch("import time; print('up'); time.sleep(3)", "--max-restarts", "1")
    job.until_out_has("up")
    (first,) = job.pids("server")
    os.kill(first, signal.SIGKILL)
    until(lambda: job.pids("server") not in ([first], []))
    assert job.wait() == 0
    assert "its shards are lost; a new, empty one is started (1 of 1)" in job.err


def test_a_lost_server_whose_shards_have_other_copies_is_no_failure(launch) -> None:
    job = launch(
        "import time; print('up'); time.sleep(3); print('done')",
        *("--servers", "2", "--replication", "2"),
    )
    job.until_out_has("up")
    os.kill(job.pids("server")[0], signal.SIGKILL)
    assert job.wait() == 0
    assert "its shards are served by their other copies" in job.err


def test_a_scheduler_that_ends_is_always_started_again(launch) -> None:
    job = launch("import time; print('up'); time.sleep(6); print('done')")
    job.until_out_has("up")
    address = json.loads(job.job_file.read_text())["scheduler"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        (before,) = job.pids("scheduler")
        os.kill(before, number)
        until(lambda: job.pids("scheduler") not in ([before], []))  # noqa: B023
        said = 1 + (number == signal.SIGTERM)
        until(lambda: job.err.count("the scheduler is back after") == said)  # noqa: B023
    assert json.loads(job.job_file.read_text())["scheduler"] == address
    assert job.wait() == 0
    assert b"done" in job.out
    assert "the scheduler was killed by signal 9 (SIGKILL); it is started again" in job.err
    assert "the scheduler exited with code 0; it is started again" in job.err


def test_a_scheduler_that_cannot_start_ends_the_job(launch) -> None:
    job = launch("print('never')", "--journal", "/proc/there-are-no-files-made")
    assert job.wait() == 1
    assert b"never" not in job.out
    assert "could not start" in job.err


# Stopping.

STUBBORN = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid)
    time.sleep(600)
    """


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_even_stubborn_workers_within_five_seconds(launch, number, code) -> None:
    job = launch(STUBBORN, "--workers", "2", "--servers", "2")
    job.until_out_has("child", 2)
    pids = job.pids() + job.numbers_after("child")
    assert len(pids) == 7
    before = time.monotonic()
    job.process.send_signal(number)
    assert job.wait() == code
    assert time.monotonic() - before < 5
    assert_all_end(pids, 0.5)
    assert not job.job_file.exists()


def test_workers_are_told_of_ctrl_c(launch) -> None:
    job = launch(
        """
        import time
        try:
            print("up"); time.sleep(600)
        except KeyboardInterrupt:
            print("cleaned up")
        """
    )
    job.until_out_has("up")
    job.process.send_signal(signal.SIGINT)
    assert job.wait() == 130
    assert b"cleaned up" in job.out


def test_ctrl_c_while_nobody_reads_the_output(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("while True: print('x' * 1000)")
    process = subprocess.Popen(
        [sys.executable, "-m", "fastps.launch.main", "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        process.stdout.read(1000)
        time.sleep(1)
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert time.monotonic() - before < 5
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_nothing_is_left_when_the_launcher_is_killed(launch) -> None:
    job = launch(STUBBORN, "--workers", "2", "--servers", "2")
    job.until_out_has("child", 2)
    pids = job.pids() + job.numbers_after("child")
    job.process.kill()
    job.wait()
    assert_all_end(pids)
    until(lambda: not job.job_file.exists())


def test_a_workers_own_children_end_with_it(launch) -> None:
    job = launch(
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("child", child.pid)
        """
    )
    assert job.wait() == 0
    assert_all_end(job.numbers_after("child"), 1.0)


def test_a_job_that_ends_leaves_no_process_and_no_file(launch) -> None:
    for _ in range(3):
        job = launch("import time; print('up'); time.sleep(1)", "--servers", "2", "--workers", "2")
        job.until_out_has("up", 2)
        until(lambda job=job: len(job.pids()) == 5)
        content = json.loads(job.job_file.read_text())
        pids = job.pids()
        assert job.wait() == 0
        assert_all_end(pids, 0.5)
        assert not job.job_file.exists()
    assert content["scheduler"].startswith("tcp://127.0.0.1:")
    places = [(each["role"], each["rank"], each["group"]) for each in content["processes"]]
    assert places == [
        ("scheduler", 0, None),
        ("server", 0, None),
        ("server", 1, None),
        ("worker", 0, "default"),
        ("worker", 1, "default"),
    ]


# Usage.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replication", "2", "script.py"], "--replication 2 needs as many servers, and --se"),
        (["--replication", "4", "script.py"], "'4' is not a whole number from 1 to 3"),
        (["--min-copies", "2", "script.py"], "--min-copies 2 is more than there are"),
        (
            ["--servers", "3", "--max-servers", "2", "script.py"],
            "--max-servers 2 is less than --servers 3",
        ),
        (["--journal", "script.py", "script.py"], "give a file that does not exist"),
        (["--journal", "none/j", "script.py"], "--journal none/j: its folder does not exist"),
        (["--on", "ray", "script.py"], "--on ray is not there yet; available"),
        (["nothere.py"], "'nothere.py' does not exist"),
        ([], "no script is given"),
        (["-m"], "-m needs a module"),
        (["--servers", "0", "script.py"], "'0' is not a whole number from 1"),
        (["--workers", "many", "script.py"], "'many'"),
        (["--speed", "9", "script.py"], "unrecognized arguments: --speed"),
        (["--work", "9", "script.py"], "unrecognized arguments: --work"),
        (["--group", "eval:script.py", "script.py"], "is not NAME=K:SCRIPT"),
        (["--group", "default=1:script.py", "script.py"], "each name once"),
        (["--job-file", "no/such/j.json", "script.py"], "its folder does not exist"),
    ],
)
def test_wrong_usage_gives_2_and_says_what_is_right(tmp_path, arguments, said) -> None:
    (tmp_path / "script.py").write_text("print('ran')")
    job = Launch(tmp_path, arguments, {})
    assert job.wait() == 2
    assert said in " ".join(job.err.split())
    assert job.out == b""


def test_a_wrong_setting_is_said_once(launch) -> None:
    job = launch("", FASTPS_TIMEOUT="soon")
    assert job.wait() == 2
    assert "FASTPS_TIMEOUT is 'soon'" in job.err


def test_help_teaches(tmp_path: Path) -> None:
    job = Launch(tmp_path, ["--help"], {})
    assert job.wait() == 0
    text = job.out.decode()
    for word in ("--servers", "--group", "--max-restarts", "-m package", "exit code", "130"):
        assert word in text


def test_the_end_tells_who_was_slow_and_how_stale_pulls_were(launch, tmp_path: Path) -> None:
    job = launch(
        """
        import time
        import fastps
        with fastps.connect() as client:
            table = client.sparse_table("w", consistency=fastps.SSP(1))
            for _ in range(6):
                table.pull([1])
                time.sleep(0.08 if client.rank == 2 else 0.01)
                table.push([1], [1.0])
                client.clock()
        """,
        "--workers=3",
        "--summary=summary.json",
    )
    assert job.wait() == 0, job.err
    assert "group default: 18 steps of 3 workers" in job.err
    assert re.search(r"slow: rank 2 \(\d+(\.\d+)? ms\)", job.err)
    assert re.search(r"table w: 18 pulls saw a staleness of 0: \d+%, 1: \d+%", job.err)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["exit_code"] == 0
    assert [(each["rank"], each["code"]) for each in summary["workers"]] == [(0, 0), (1, 0), (2, 0)]
    (group,) = summary["groups"]
    assert sum(group["staleness"]["w"].values()) == 18
    assert set(group["staleness"]["w"]) <= {"0", "1"}
    slow = {each["rank"]: each["busy_s"] / each["steps"] for each in group["step_times"]}
    assert slow[2] > 2 * slow[0], "waits at gates are no work"


def test_a_job_without_steps_says_nothing_of_them(launch) -> None:
    job = launch("import fastps; fastps.connect().close()")
    assert job.wait() == 0
    assert len(job.err.splitlines()) == 1
