"""Addresses that roles publish, and addresses that are none."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fastps
from fastps.cli.advertise import published
from fastps.cli.main import main

pytest.importorskip("fastps._core")

SCHEDULER = "tcp://127.0.0.1:5000"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on this machine")


@pytest.mark.parametrize(
    ("endpoint", "advertise", "wanted"),
    [
        ("tcp://127.0.0.1:7", None, "tcp://127.0.0.1:7"),
        ("ipc:///tmp/s", None, "ipc:///tmp/s"),
        ("ipc:///tmp/s", "node7", "ipc:///tmp/s"),
        ("tcp://0.0.0.0:7", None, "tcp://127.0.0.1:7"),
        ("tcp://[::]:7", None, "tcp://127.0.0.1:7"),
        ("tcp://0.0.0.0:7", "node7", "tcp://node7:7"),
        ("tcp://127.0.0.1:7", "10.0.0.7", "tcp://10.0.0.7:7"),
        ("tcp://[::]:7", "fd00::7", "tcp://[fd00::7]:7"),
    ],
)
def test_what_is_published(endpoint: str, advertise: str | None, wanted: str) -> None:
    assert published([endpoint], advertise, SCHEDULER) == (wanted,)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:99999", "tcp://x", "127.0.0.1:1", "tcp://:1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--scheduler"),
        ("scale", "--servers=1", "--scheduler"),
        ("server", "--scheduler"),
        ("server", f"--scheduler={SCHEDULER}", "--bind"),
        ("scheduler", "--address"),
    ],
)
def test_an_address_that_is_none_is_refused(arguments, address, capsys) -> None:
    assert main([*arguments, address]) == 2
    said = capsys.readouterr().err
    assert address in said
    assert "tcp://127.0.0.1:5000" in said
    assert arguments[-1] in said


def test_a_job_file_with_a_wrong_address(tmp_path: Path, capsys) -> None:
    job = {"scheduler": "tcp://127.0.0.1:99999", "processes": []}
    (tmp_path / "j").write_text(json.dumps(job))
    assert main(["status", "--job", str(tmp_path / "j")]) == 2
    assert "99999" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", "", "tcp://a", "a b", "node:5000"])
@pytest.mark.parametrize("role", [("server", f"--scheduler={SCHEDULER}"), ("scheduler",)])
def test_hosts_that_nobody_can_connect_to(role, host, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*role, f"--advertise={host}"])
    assert ended.value.code == 2
    assert "--advertise" in capsys.readouterr().err


def _start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fastps", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["address"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("host", "advertise"),
    [
        ("0.0.0.0", ()),
        ("0.0.0.0", ("--advertise=localhost",)),
        pytest.param("[::]", ("--advertise=::1",), marks=needs_ipv6),
        pytest.param("[::]", (), marks=needs_ipv6),
    ],
)
def test_servers_at_all_addresses_can_be_reached(host: str, advertise: tuple[str, ...]) -> None:
    started = []
    try:
        scheduler, address = _start("scheduler", f"--address=tcp://{host}:*", *advertise)
        started.append(scheduler)
        assert "0.0.0.0" not in address
        assert "::]" not in address
        server, at = _start(
            "server", f"--scheduler={address}", f"--bind=tcp://{host}:*", *advertise
        )
        started.append(server)
        assert "0.0.0.0" not in at
        assert "::]" not in at
        with fastps.connect(address=address) as client:
            table = client.sparse_table("w")
            table.push([1], [2.0])
            assert table.pull([1]) == [2.0]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
