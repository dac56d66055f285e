"""The command ``fastps``: its help, status and doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastps.cli import status
from fastps.cli.main import SUBCOMMANDS, main
from fastps.scheduler import messages as m
from fastps.scheduler.state import JobShape, SchedulerState


def fastps(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_subcommand_without_importing_extras() -> None:
    # As on a machine where only the core dependencies are installed.
    program = (
        "import sys\n"
        "for name in ('scipy', 'matplotlib', 'rich'): sys.modules[name] = None\n"
        "from fastps.cli.main import main; main(['--help'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    for name in SUBCOMMANDS:
        assert f"\n    {name}" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["dance"], ["status"], ["server"]])
def test_wrong_usage_gives_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: fastps" in capsys.readouterr().err


def test_status_without_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--job", str(tmp_path / "none.json")]) == 2
    assert "cannot read the job file" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("[]")
    assert main(["status", "--job", str(tmp_path / "bad.json")]) == 2
    assert "is not a job file" in capsys.readouterr().err
    content = {"scheduler": "tcp://127.0.0.1:1", "processes": []}
    (tmp_path / "dead.json").write_text(json.dumps(content))
    assert main(["status", "--job", str(tmp_path / "dead.json"), "--timeout", "0.2"]) == 1
    assert "did not answer GetStatus" in capsys.readouterr().err


def test_status_as_a_table() -> None:
    state = SchedulerState(JobShape(1, {"default": 2}), 77, 0.0)
    server = m.RegisterServer("ab" * 16, ("tcp://127.0.0.1:9",), 5)
    state.handle(b"s", 1, server, 0.0)
    state.handle(b"w", 1, m.Join("default", 0, 6, "cd" * 16), 0.0)
    state.handle(b"w", 2, m.CreateTable(1, m.TableDefinition("w", "sparse", (2, 3))), 0.0)
    (reply,) = state.handle(b"x", 1, m.GetStatus(), 1.0)
    text = status.render(reply.message.status)
    for part in ("1 alive", "tcp://127.0.0.1:9", "2x3", "Accumulate", "expected", "group default"):
        assert part in text


def test_doctor_shows_what_it_finds() -> None:
    pytest.importorskip("fastps._core")
    result = fastps("doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ("kernels", "baseline", "(active)", "libzmq", "4.", "open files"):
        assert part in result.stdout
