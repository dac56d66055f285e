"""The job file: which processes a running job has, for other tools to find them.

JSON: ``{"scheduler": "tcp://...", "processes": [{"role", "rank", "group", "pid", "address"}]}``.
Only processes that run are listed. A reader sees a whole file or none.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastps.errors import ConfigError
from fastps.output import check_output

__all__ = ["JobFile", "ProcessEntry", "check_job_file", "read_job_file"]


@dataclass(frozen=True)
class ProcessEntry:
    """One running process. ``group`` and ``address`` are None where the role has none."""

    role: str
    rank: int
    group: str | None
    pid: int
    address: str | None


class JobFile:
    """Writes one job file. One thread uses it.

    Parameters
    ----------
    path : Path
        Where; replaced if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link stays, its file comes and goes

    def write(self, scheduler: str | None, processes: Sequence[ProcessEntry]) -> None:
        """Replace the file at once.

        Raises
        ------
        OSError
            It cannot be written.
        """
        content = {"scheduler": scheduler, "processes": [asdict(each) for each in processes]}
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            beside.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def check_job_file(option: str, path: Path | None) -> None:
    """Make sure that a job file can be kept at `path`.

    Raises
    ------
    ConfigError
        As `check_output`, or what is there is no job file: it would be replaced, and removed at the
        end.
    """
    if path is None:
        return
    check_output(option, path)
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"{option} {path}: is no regular file; name a file")
    if path.stat().st_size:
        try:
            read_job_file(path)
        except ConfigError:
            raise ConfigError(
                f"{option} {path}: holds something else than a job file, which would be lost; "
                "name another file, or remove it first"
            ) from None


def read_job_file(path: Path) -> dict[str, Any]:
    """Return the content of a job file.

    Raises
    ------
    ConfigError
        There is no such file, or it is not a job file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the job file {str(path)!r}: {error.strerror}; give the file that "
            "fastps-launch --job-file wrote (it is removed when the job ends)"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is not a job file: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("processes"), list):
        raise ConfigError(f"{str(path)!r} is not a job file: it has no list of processes")
    return content
