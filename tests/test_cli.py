"""The command ``fastps``: its help, status and doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastps.cli import scale, status
from fastps.cli.main import SUBCOMMANDS, main
from fastps.errors import FastPSTimeoutError
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
    state.servers.all()[0].peer = b"s"  # as of its first heartbeat: only then its copies count
    state.handle(b"w", 1, m.Join("default", 0, 6, "cd" * 16), 0.0)
    state.handle(b"w", 2, m.CreateTable(1, m.TableDefinition("w", "sparse", (2, 3))), 0.0)
    (reply,) = state.handle(b"x", 1, m.GetStatus(), 1.0)
    text = status.render(reply.message.status)
    for part in ("1 alive", "tcp://127.0.0.1:9", "2x3", "Accumulate", "expected", "group default"):
        assert part in text
    for part in ("scheduler 1, up 1 s", "1 of 1", "256/256", "1.0 s ago", "no failover yet"):
        assert part in text
    said = reply.message.status
    said["views"]["last_failover"] = {
        "server": 3,
        "reason": "exit",
        "started_s_ago": 61.2,
        "seconds": 0.734,
        "shards": 12,
    }
    said["views"].update(moving=5, filling=2, sealed=1)
    said["tables"][0]["redundancy"] = {"wanted": 2, "full": 200, "missing": 55, "lost": 1}
    said["sessions_awaited"] = [1, 4]
    text = status.render(said)
    assert "5 shards changing (2 being filled, 1 sealed)" in text
    assert "last failover 61 s ago: server 3 (exit), 12 shards, took 0.73 s" in text
    assert "55 shards below 2, 1 shards lost" in text
    assert "2 workers are still to say where they are" in text


def _status(*states: str, wanted: int = 2, moving: int = 0) -> dict[str, object]:
    servers = [{"state": state, "pid": n} for n, state in enumerate(states)]
    return {"servers": servers, "servers_wanted": wanted, "views": {"moving": moving}}


def test_scaling_says_what_is_left_to_do() -> None:
    assert scale.progress(_status("alive", "alive"), 2) == ""
    assert scale.progress(_status("alive", "suspect", "retired", "lost (exit)"), 2) == ""
    assert scale.progress(_status("alive"), 2) == "servers there: 1 of 2"
    assert (
        scale.progress(_status("alive", "alive", "leaving", moving=7), 2)
        == "servers to leave: 1, shards to move: 7"
    )
    with pytest.raises(FastPSTimeoutError, match="meanwhile 3 are wanted"):
        scale.progress(_status("alive", wanted=3), 2)


def test_scale_tells_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["scale", "--job", "j", "--servers", "0"])
    assert "whole number from 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["scale", "--job", "j", "--servers", "1", "--wait", "-1"])
    assert "seconds from 0" in capsys.readouterr().err
    assert main(["scale", "--job", "none.json", "--servers", "1"]) == 2
    assert "cannot read the job file" in capsys.readouterr().err


def test_doctor_shows_what_it_finds() -> None:
    pytest.importorskip("fastps._core")
    result = fastps("doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ("kernels", "baseline", "(active)", "libzmq", "4.", "open files"):
        assert part in result.stdout
