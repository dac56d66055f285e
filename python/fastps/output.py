"""Writing result files: the whole new file or the old one, never a part.

What is there is respected: a link stays one and its file is replaced, a pipe or device is written
to and stays what it is, ``-`` is standard output.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastps.errors import ConfigError, FastPSError

__all__ = ["atomic_output", "check_output", "check_picture", "is_stdout", "write_json"]

STDOUT = "-"
# Other names of the process's own open files; to rename over one would part it from its readers.
_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|(stdin|stdout|stderr))|/proc/(?:self|\d+)/fd/(\d+)")
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")


def is_stdout(path: str | Path) -> bool:
    """Return whether `path` means standard output."""
    return str(path) == STDOUT or _descriptor(path) == 1


@contextmanager
def atomic_output(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file whose content takes the place of `path` when the block ends well.

    Until then `path` is as it was. A new file that replaces one has its permissions. Into what is
    no regular file (a pipe, a device) and into standard output the content is copied at the end.

    Raises
    ------
    FastPSError
        It cannot be written; the message says why.
    """
    try:
        with _spooled(path) if _is_special(path) else _replacing(path) as file:
            yield file
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise FastPSError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _replacing(path: str | Path) -> Iterator[BinaryIO]:
    target = Path(path).resolve()
    partial = _beside(target)
    try:
        with partial.open("wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _beside(target: Path) -> Path:
    """Return a name in the same directory, since a rename does not cross file systems."""
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


@contextmanager
def _spooled(path: str | Path) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as spool:
        yield spool
        spool.seek(0)
        number = 1 if str(path) == STDOUT else _descriptor(path)
        if number == 1:
            sys.stdout.flush()  # what was printed before comes before
        with open(path if number is None else os.dup(number), "wb") as file:  # noqa: PTH123
            shutil.copyfileobj(spool, file)


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON."""
    with atomic_output(path) as file:
        file.write(json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")


def check_output(option: str, path: str | Path | None, inputs: Sequence[str | Path] = ()) -> None:
    """Make sure, before the work begins, that its result can be written.

    Parameters
    ----------
    option : str
        That named `path`, for messages.
    path : str or Path, optional
        None: nothing is to be written.
    inputs : sequence of str or Path
        Files that are read meanwhile.

    Raises
    ------
    ConfigError
        `path` names a directory, a socket, one of the inputs, what may not be written, or something
        in a directory that does not exist or may not be written to.
    """
    if path is None or str(path) == STDOUT:
        return
    target = Path(path)
    if not str(path) or str(path).endswith("/") or target.is_dir():
        raise ConfigError(f"{option} {path}: is a directory; name a file")
    if target.is_socket():
        raise ConfigError(f"{option} {path}: is a socket, which cannot be written; name a file")
    for source in inputs:
        if _is_same_file(target, Path(source)):
            raise ConfigError(
                f"{option} {path}: is {source}, which is read; name another file to write"
            )
    if target.exists() and not os.access(target, os.W_OK):
        raise ConfigError(f"{option} {path}: may not be written; change its permissions")
    try:
        number = _descriptor(path)
        if number is not None and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise ConfigError(f"{option} {path}: is open for reading only; name a file")
        if _is_special(path):
            return
        resolved = target.resolve()
        if not resolved.parent.is_dir():
            raise ConfigError(
                f"{option} {path}: its folder does not exist; make the directory "
                f"{resolved.parent} first"
            )
        os.close(os.open(_beside(resolved), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _beside(resolved).unlink()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ConfigError(
            f"{option} {path}: cannot be written: {getattr(error, 'strerror', '') or error}"
        ) from error


def check_picture(option: str, path: str | Path | None, inputs: Sequence[str | Path] = ()) -> None:
    """Make sure that a picture can be written to `path`, as `check_output` does.

    Raises
    ------
    ConfigError
        Also when its ending is not that of a picture.
    """
    check_output(option, path, inputs)
    if path is None or _is_special(path):
        return  # a PNG
    if Path(path).suffix.lower() not in PICTURE_SUFFIXES:
        raise ConfigError(f"{option} {path}: name a file that ends in .png, .pdf or .svg")


def _descriptor(path: str | Path) -> int | None:
    """Return the number of the open file that a path is another name of, if it is."""
    found = _DESCRIPTOR.fullmatch(os.path.abspath(path))  # noqa: PTH100  # follows no link
    if found is None:
        return None
    return _STANDARD[found[2]] if found[2] else int(found[1] or found[3])


def _is_special(path: str | Path) -> bool:
    """Return whether `path` is to be opened and written, not replaced."""
    if str(path) == STDOUT or _descriptor(path) is not None:
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def _is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths name one regular file, or one is in the other, a folder."""
    try:
        if other.is_dir():
            return Path(os.path.realpath(one)).is_relative_to(Path(os.path.realpath(other)))
        return one.is_file() and one.samefile(other)
    except OSError:
        return False
