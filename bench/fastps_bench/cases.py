"""Runs one case in processes of its own, whose memory and threads belong to nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastps_bench import machine
from fastps_bench.progress import Progress, make_progress

__all__ = ["CaseError", "keys_that_fit", "run_case", "shown_progress"]

N_KEYS = 10_000_000
TAIL_LINES = 20
PR_SET_PDEATHSIG = 1


class CaseError(Exception):
    """A case could not be measured, or its outcome was wrong."""


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show how far a benchmark is, and nothing any more when it ends or fails."""
    progress = make_progress()
    try:
        yield progress
    finally:
        progress.close()


def keys_that_fit(given: int | None, row_bytes: float, what: str = "") -> int:
    """Return how many keys a table is to have: what was given, else 10 M or what memory allows.

    Parameters
    ----------
    given : int or None
        By the user.
    row_bytes : float
        That a key needs at the most; something is left for the rest.
    what : str
        Says more of the keys in an error.

    Raises
    ------
    CaseError
        Memory does not allow it.
    """
    available = machine.available_bytes()

    def needed(n_keys: int) -> int:
        return int(n_keys * row_bytes) + (1 << 30)

    n_keys = N_KEYS if given is None else given
    if given is None:
        while n_keys > 1000 and needed(n_keys) > available // 2:
            n_keys //= 2
    if needed(n_keys) > available:
        raise CaseError(
            f"{n_keys:,} keys{what} need about {needed(n_keys) / 2**30:.0f} GiB, "
            f"there are {available / 2**30:.0f}: give fewer --keys"
        )
    return n_keys


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
