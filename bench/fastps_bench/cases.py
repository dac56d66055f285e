"""Runs one case in processes of its own, whose memory and threads belong to nothing else."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastps_bench.progress import Progress

__all__ = ["CaseError", "run_case"]

TAIL_LINES = 20
PR_SET_PDEATHSIG = 1


class CaseError(Exception):
    """A case could not be measured, or its outcome was wrong."""


def run_case(
    name: str,
    case: dict[str, Any],
    launch: Sequence[str] | None,
    progress: Progress,
    module: str = "fastps_bench.worker",
) -> dict[str, Any]:
    """Run a module, normally `fastps_bench.worker`, on a case and return what it measured.

    Parameters
    ----------
    name : str
        What an error calls the case.
    case : dict
        What the worker is to do, see there.
    launch : sequence of str or None
        Options of fastps-launch, which starts a cluster around the worker; None: no cluster.
    progress : Progress
        Shows what the worker tells.
    module : str
        Takes the path of a JSON file: the case, and where to write the result.

    Raises
    ------
    CaseError
        The worker failed.
    """
    with TemporaryDirectory(prefix="fastps-bench-") as folder:
        path, result = Path(folder) / "case.json", Path(folder) / "result.json"
        path.write_text(json.dumps({**case, "result": str(result)}))
        command = [sys.executable]
        if launch is not None:
            command += ["-m", "fastps.launch.main", "--no-prefix", *launch]
        command += ["-m", module, str(path)]
        code, tail = _watch(command, progress)
        if code != 0 or not result.exists():
            raise CaseError(f"{name}: exit code {code}\n" + "\n".join(tail))
        figures: dict[str, Any] = json.loads(result.read_text())
        return figures


def _watch(command: list[str], progress: Progress) -> tuple[int, deque[str]]:
    """Run a command that prints notes; return its exit code and the last lines that are none.

    However this process ends, the command is told to end as well.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # it only makes system calls
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith('["'):
                    progress.note(*json.loads(line))
                else:
                    tail.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    return process.returncode, tail
