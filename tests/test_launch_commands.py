"""fastps-launch: what it runs, where, and as whose child."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import until

pytest.importorskip("fastps._core")
pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

LAUNCH = [
    sys.executable,
    "-c",
    "import sys; sys.path.pop(0); from fastps.launch.main import main; sys.exit(main())",
]
SECONDS = 60
PR_SET_CHILD_SUBREAPER = 36


def launch(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **options,
    )


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", ["secrets", "token", "json", "numpy", "zmq", "signal", "queue"])
def test_modules_of_the_current_folder_are_not_taken_for_ours(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.py", "raise SystemExit('taken for another')\n")
    (tmp_path / "scripts").mkdir()
    write(tmp_path / "scripts" / "own.py", "WORD = 'own module'\n")
    write(tmp_path / "scripts" / "t.py", "import own, fastps\nfastps.connect()\nprint(own.WORD)\n")
    done = launch(tmp_path, "scripts/t.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[worker 0] own module\n"


def test_a_module_is_found_in_the_current_folder(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", "print('found')\n")
    done = launch(tmp_path, "-m", "mine")
    assert (done.returncode, done.stdout) == (0, "[worker 0] found\n")


def test_two_dashes_may_stand_before_the_script(tmp_path: Path) -> None:
    write(tmp_path / "t.py", "import sys\nprint(sys.argv[1:])\n")
    write(tmp_path / "-odd.py", "print('odd')\n")
    done = launch(tmp_path, "--group=b=1:-- t.py --x", "--", "t.py", "--", "--servers")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[b 0] ['--x']", "[worker 0] ['--', '--servers']"]
    assert launch(tmp_path, "--", "-odd.py").stdout == "[worker 0] odd\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.sh", "echo hello\n"),
        ("train", "#!/bin/sh\necho hello\n"),
        ("train.bin", "\x7fELF..."),
        ("perl", "#!/usr/bin/env perl\nprint 1\n"),
    ],
)
def test_what_is_not_python_is_not_run_by_it(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path / name, content, 0o755)
    for arguments in [(name,), ("--group", f"b=1:{name}", "-m", "x")]:
        done = launch(tmp_path, *arguments)
        assert done.returncode == 2
        assert "--no-python" in done.stderr, done.stderr
        assert name in done.stderr


@pytest.mark.parametrize("first", ["#!/usr/bin/env python3", "# no shebang"])
def test_a_python_script_needs_no_suffix(tmp_path: Path, first: str) -> None:
    write(tmp_path / "train", f"{first}\nprint('run')\n")
    assert launch(tmp_path, "train").stdout == "[worker 0] run\n"


def test_programs_and_scripts_run_with_no_python(tmp_path: Path) -> None:
    write(tmp_path / "train.sh", '#!/bin/sh\necho "$FASTPS_RANK" "$@"\n', 0o755)
    done = launch(tmp_path, "--no-python", "train.sh", "--a", "b c")
    assert (done.returncode, done.stdout) == (0, "[worker 0] 0 --a b c\n")
    done = launch(tmp_path, "--no-python", "--group=b=1:./train.sh", "sh", "-c", "exit 7")
    assert (done.returncode, done.stdout) == (7, "[b 0] 0\n")
    (tmp_path / "train.sh").chmod(0o644)
    for name, word in [("train.sh", "chmod +x"), ("nowhere", "PATH"), ("-m", "--no-python")]:
        done = launch(tmp_path, "--no-python", name)
        assert done.returncode == 2
        assert word in done.stderr


def test_folders_and_pipes_are_no_scripts(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, word in [("folder", "__main__.py"), ("pipe", "regular file")]:
        done = launch(tmp_path, name)
        assert done.returncode == 2
        assert word in done.stderr
    write(tmp_path / "folder" / "__main__.py", "print('main')\n")
    assert launch(tmp_path, "folder").stdout == "[worker 0] main\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_standard_files_may_be_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    write(tmp_path / "t.py", "import fastps\nfastps.connect().sparse_table('w')\nopen('r', 'w')\n")
    redirected = " ".join(f"{fd}>&-" for fd in closed)
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", *LAUNCH, "t.py"]
    done = subprocess.run(command, cwd=tmp_path, timeout=SECONDS, check=False)
    assert done.returncode == 0
    assert (tmp_path / "r").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    write(
        tmp_path / "t.py",
        "import signal, sys, time, pathlib\n"
        f"print(signal.getsignal({int(number)}) is signal.SIG_IGN, flush=True)\n"
        "pathlib.Path('runs').touch()\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.02)\n",
    )
    job = subprocess.Popen(
        ["sh", "-c", f"trap '' {number.name[3:]}; exec \"$@\"", "sh", *LAUNCH, "t.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until((tmp_path / "runs").exists)
        os.killpg(job.pid, number)
        (tmp_path / "go").touch()
        out, _ = job.communicate(timeout=SECONDS)
        assert (job.returncode, out) == (0, b"[worker 0] True\n")
    finally:
        if job.poll() is None:
            job.kill()


def test_a_launcher_that_is_given_orphans_reaps_them(tmp_path: Path) -> None:
    write(
        tmp_path / "t.py",
        "import os, pathlib, time\n"
        "for n in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            pathlib.Path(f'orphan{n}').write_text(str(os.getpid()))\n"
        "            time.sleep(0.2)\n"
        "        os._exit(0)\n"
        "pathlib.Path('runs').touch()\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.02)\n",
    )
    libc = ctypes.CDLL(None)
    job = subprocess.Popen(
        [*LAUNCH, "t.py"],
        cwd=tmp_path,
        preexec_fn=lambda: libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0),  # noqa: PLW1509
    )
    try:
        until((tmp_path / "runs").exists)
        paths = [tmp_path / f"orphan{n}" for n in range(3)]
        pids = [until(path.read_text) for path in paths]
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="reaped")
        (tmp_path / "go").touch()
        assert job.wait(SECONDS) == 0
    finally:
        if job.poll() is None:
            job.kill()
