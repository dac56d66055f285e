"""Writing result files: the whole new file or the old one, never a part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastps.errors import ConfigError

__all__ = ["atomic_output", "check_output", "write_json"]


@contextmanager
def atomic_output(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends well, and else is removed."""
    target = Path(path)
    # In the same directory, since a rename does not cross file systems.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON."""
    with atomic_output(path) as file:
        file.write(json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")


def check_output(option: str, path: str | None) -> None:
    """Make sure, before the work begins, that its result can be written.

    Raises
    ------
    ConfigError
        `path` names a directory, or is in a directory that does not exist or cannot be written to.
    """
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"{option} {path}: is a directory; name a file")
    if not target.parent.is_dir():
        raise ConfigError(f"{option} {path}: make the directory {target.parent} first")
    if not os.access(target.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: the directory {target.parent} cannot be written to")
