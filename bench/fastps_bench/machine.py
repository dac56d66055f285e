"""What ran where: facts without which a figure means nothing."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import zmq

import fastps
from fastps import _core

__all__ = ["available_bytes", "commit", "describe"]


def describe() -> dict[str, Any]:
    """Return the time, the machine and the versions."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "fastps": fastps.__version__,
        "commit": commit(),
        "cpu": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(_memory("MemTotal") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "libzmq": zmq.zmq_version(),
        "kernels": _core.active_kernels(),
    }


def commit() -> str | None:
    """Return the commit of the clone of fastps that this runs in, None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    if not Path("bench/fastps_bench").is_dir():
        return None
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def available_bytes() -> int:
    """Return how much memory can be had without swapping."""
    return _memory("MemAvailable")


def _memory(name: str) -> int:
    kib = _first(rf"{name}:\s*(\d+) kB", "/proc/meminfo")
    return int(kib) * 1024 if kib else 0


def _first(pattern: str, path: str) -> str | None:
    try:
        match = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return match.group(1) if match else None
