"""Data that comes through a pipe: kept in a file, since it is read more than once."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastps.data.errors import DataError

__all__ = ["STDIN", "spooled"]

STDIN = "-"


@contextmanager
def spooled(sources: Sequence[str]) -> Iterator[list[str]]:
    """Return the sources with files in place of pipes, devices and ``-``, for a with block.

    Each is read once, to its end. Regular files, directories and what is not there stay as they
    are. The same pipe given twice is one file.

    Raises
    ------
    DataError
        One cannot be read, or the temporary folder has no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="fastps-data-") as folder:
        kept: dict[str, str] = {}
        for source in sources:
            path = Path(source)
            if source in kept:
                continue
            if source != STDIN and (not path.exists() or path.is_file() or path.is_dir()):
                kept[source] = source
                continue
            name = "stdin" if source == STDIN else path.name
            target = Path(folder, str(len(kept)), name)
            target.parent.mkdir()
            kept[source] = str(target)
            try:
                with target.open("wb") as file:
                    _copy(source, file)
            except OSError as error:
                raise DataError(
                    f"{source}: cannot be read into {folder}: {error.strerror or error}"
                ) from error
        yield [kept[source] for source in sources]


def _copy(source: str, file: BinaryIO) -> None:
    if source == STDIN:
        shutil.copyfileobj(sys.stdin.buffer, file)
        return
    with Path(source).open("rb") as pipe:
        shutil.copyfileobj(pipe, file)
