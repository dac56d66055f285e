"""``fastps doctor``: what fastps finds on this machine, and what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable, Iterator

__all__ = ["add_parser", "findings"]

# Each extra's packages, to say which commands can run.
EXTRAS = {
    "train": ("scipy", "rich", "matplotlib", "zstandard"),
    "checkpoint": ("safetensors", "fsspec", "rich"),
    "s3": ("s3fs",),
    "parquet": ("pyarrow",),
}

# A server has a file per connection, and each worker has some; the usual limit of 1,024 is enough
# for a few hundred workers.
OPEN_FILES_GOOD = 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        description="Show the kernel sets, the libzmq, addresses, limits and extras that fastps "
        "finds here. Exit code 1 when something needed is missing.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 when one of them is a fault."""
    healthy = True
    for name, ok, text in findings():
        healthy = healthy and ok
        print(f"{'' if ok else '!! '}{name:12} {text}")
    return 0 if healthy else 1


def findings() -> Iterator[tuple[str, bool, str]]:
    """Yield what there is: a name, whether it is in order, and what was found."""
    yield "python", True, f"{platform.python_version()} at {sys.executable}"
    yield "machine", True, f"{platform.machine()}, {_n_cpus()} CPUs, {platform.platform()}"
    yield _checked("kernels", _kernels)
    yield _checked("libzmq", _libzmq)
    yield _checked("settings", _settings)
    yield "addresses", True, _addresses()
    yield from _limits()
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        text = f"missing {', '.join(missing)}: pip install 'fastps[{extra}]'" if missing else "here"
        yield f"extra {extra}", True, text


def _checked(name: str, find: Callable[[], str]) -> tuple[str, bool, str]:
    """Turn any failure into a finding: this command exists for broken installations."""
    try:
        return name, True, find()
    except Exception as error:
        return name, False, f"{type(error).__name__}: {error}"


def _kernels() -> str:
    from fastps import _core

    active = _core.active_kernels()
    names = ", ".join(
        f"{each} (active)" if each == active else each for each in _core.kernel_sets()
    )
    return f"{names}; FASTPS_KERNELS forces one"


def _libzmq() -> str:
    from fastps import _libzmq

    path, version = _libzmq.describe()
    return f"{'.'.join(map(str, version))} at {path}"


def _settings() -> str:
    from fastps.config import Settings

    settings = Settings.from_environment()
    return (
        f"timeout {settings.timeout:g} s, gate timeout {settings.gate_timeout:g} s, scheduler "
        f"{settings.scheduler or 'none: an embedded cluster'}"
    )


def _addresses() -> str:
    host = socket.gethostname()
    try:
        found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
    except OSError:
        found = []
    return f"{host}: {', '.join(found) or 'its name has no address'}"


def _limits() -> Iterator[tuple[str, bool, str]]:
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = open_files == resource.RLIM_INFINITY or open_files >= OPEN_FILES_GOOD
    advice = "" if enough else f"; raise it with: ulimit -n {OPEN_FILES_GOOD}"
    yield "open files", enough, f"{open_files}{advice}"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield "memory", True, f"{memory / 2**30:.1f} GiB"


def _n_cpus() -> int:
    return len(os.sched_getaffinity(0))
