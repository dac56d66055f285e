"""Settings from the environment."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import fastps
from fastps.config import Settings, child_environment
from fastps.errors import ConfigError


def test_without_variables_everything_has_its_default() -> None:
    assert Settings.from_environment({}) == Settings()
    assert (Settings().timeout, Settings().gate_timeout, Settings().group) == (60, 600, "default")


def test_every_variable_is_read() -> None:
    given = {
        "FASTPS_SCHEDULER": "tcp://127.0.0.1:5000",
        "FASTPS_RANK": "3",
        "FASTPS_NUM_WORKERS": "4",
        "FASTPS_GROUP": "eval",
        "FASTPS_TIMEOUT": "0.5",
        "FASTPS_GATE_TIMEOUT": "inf",
        "FASTPS_LIBZMQ": "/lib/libzmq.so",
        "FASTPS_KERNELS": "baseline",
        "FASTPS_LOG": "DEBUG",
    }
    assert Settings.from_environment(given) == Settings(
        *("tcp://127.0.0.1:5000", 3, 4, "eval", 0.5, math.inf),
        *("/lib/libzmq.so", "baseline", "debug"),
    )
    assert Settings.from_environment({"FASTPS_RANK": " ", "FASTPS_SCHEDULER": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("FASTPS_RANK", value) for value in ("-1", "x", "1.0", "\u0663", str(2**30))),
        *(("FASTPS_TIMEOUT", value) for value in ("0", "-1", "nan", "soon")),
        ("FASTPS_GATE_TIMEOUT", "0"),
        ("FASTPS_NUM_WORKERS", "0"),
        ("FASTPS_SCHEDULER", "localhost:5000"),
        ("FASTPS_LOG", "loud"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*; use "):
        Settings.from_environment({name: value})


def test_a_child_does_not_inherit_our_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTPS_RANK", "7")
    monkeypatch.setenv("FASTPS_TIMEOUT", "9")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    child = child_environment({"FASTPS_GROUP": "g"}, {"OMP_NUM_THREADS": "1", "NEW": "1"})
    assert "FASTPS_RANK" not in child
    assert child["FASTPS_TIMEOUT"] == "9"
    assert (child["FASTPS_GROUP"], child["OMP_NUM_THREADS"], child["NEW"]) == ("g", "3", "1")


def test_nobody_else_reads_the_environment() -> None:
    package = Path(fastps.__path__[0])
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"os\.environ|getenv", path.read_text())
    }
    assert readers == {"config.py"}
