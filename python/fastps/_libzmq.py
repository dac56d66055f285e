"""Finds libzmq for the core: the copy that pyzmq brought, so that a process has only one."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

from fastps import _core
from fastps.config import Settings
from fastps.errors import ConfigError

__all__ = ["describe", "load"]


def load() -> None:
    """Make the core find libzmq. Later calls do nothing.

    Looked for in this order: ``FASTPS_LIBZMQ``, the library that came with pyzmq, the system's.

    Raises
    ------
    ConfigError
        None can be opened, or it is older than 4.3; the message says what to install.
    """
    if _core.libzmq() is not None:
        return
    forced = Settings.from_environment().libzmq
    if forced is not None:
        _core.load_libzmq(forced)
        return
    problems = []
    for candidate in [*_of_pyzmq(), ctypes.util.find_library("zmq") or "libzmq.so.5"]:
        try:
            _core.load_libzmq(candidate)
        except ConfigError as problem:
            problems.append(str(problem))
        else:
            return
    raise ConfigError("; ".join(problems))


def describe() -> tuple[str, tuple[int, int, int]]:
    """Return the path and the version of the libzmq in use, loading it if need be."""
    load()
    found = _core.libzmq()
    assert found is not None
    return found


def _of_pyzmq() -> list[str]:
    # Wheels keep bundled libraries beside the package, under a name with a hash.
    import zmq

    package = Path(zmq.__file__).parent
    places = [package.parent / "pyzmq.libs", package / ".libs", package]
    return [str(path) for place in places for path in sorted(place.glob("libzmq*.so*"))]
