"""Short runs of the stress program and the fuzzer, built beside the test module.

`make tsan`, `make asan` and `make fuzz` run them longer and with sanitizers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastps
from fastps import _libzmq

ROOT = Path(__file__).parent.parent
SECONDS = "3"


def program(folder: str, name: str) -> str:
    """Return the path of a program from the build that the imported fastps came from."""
    beside = Path(fastps.__file__).parents[2] / "cmake"  # build/asan/{site,cmake}
    build = beside if beside.is_dir() else ROOT / "build" / "test"
    path = build / "cpp" / folder / name
    if not path.exists():
        pytest.skip(f"{path} was not built: run `make test`")
    return str(path)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_threads_sessions_and_tables_embedded() -> None:
    assert ", 0 failures" in run(program("stress", "fastps_stress"), "--seconds", SECONDS)


@pytest.mark.processes
def test_threads_sessions_and_tables_over_sockets() -> None:
    path, _ = _libzmq.describe()
    stress = program("stress", "fastps_stress")
    assert ", 0 failures" in run(stress, "--seconds", SECONDS, "--libzmq", path)


def test_bytes_from_strangers(tmp_path: Path) -> None:
    fuzz = program("fuzz", "fastps_fuzz")
    golden = ROOT / "tests" / "golden" / "wire_v1"
    run(sys.executable, str(ROOT / "cpp" / "fuzz" / "seeds.py"), str(golden), str(tmp_path))
    assert "inputs in" in run(fuzz, SECONDS, str(tmp_path))
