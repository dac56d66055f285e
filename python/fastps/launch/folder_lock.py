"""One job at a time saves in a folder of checkpoints: a lock in it that names the job.

Folders of this machine: a file that is locked for as long as the process lives, whatever ends it.
Object stores know no such lock: there a job writes every `BEAT_SECONDS` that it is alive, and its
lock is taken over once it has not for `DEAD_SECONDS`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastps.checkpoint.storage import Store
from fastps.errors import CheckpointError, FastPSError

__all__ = ["FolderLock"]

NAME = ".fastps-job.lock"
BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0
# What file systems that know no locks say of one.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderLock:
    """The lock of one job on one folder; made by one thread, which closes it as well.

    Parameters
    ----------
    uri : str
        The folder of checkpoints.

    Raises
    ------
    CheckpointError
        Another job has it; the message names that job. Or the folder cannot be written.
    """

    def __init__(self, uri: str) -> None:
        self._store = Store(uri)
        self._about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv)[:200],
            "job": secrets.token_hex(8),
        }
        self._file: int | None = None
        self._path: Path | None = None
        self._is_over = threading.Event()
        self._beats: threading.Thread | None = None
        if "://" in self._store.uri:
            self._lease()
        else:
            self._lock(Path(self._store.uri))

    def close(self) -> None:
        """Let others have the folder; one that is empty is removed."""
        self._is_over.set()
        if self._beats is not None:
            self._beats.join()
            with contextlib.suppress(FastPSError):
                if _told(self._store.read(NAME)).get("job") == self._about["job"]:
                    self._store.remove_file(NAME)
        if self._file is not None and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = None
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()

    def _lock(self, folder: Path) -> None:
        self._path = folder / NAME
        try:
            while self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    self._file = file if self._is_ours(file) else None
                finally:
                    if self._file is None:
                        os.close(file)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(self._about).encode(), 0)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self._path}: {error.strerror or error}; give a folder that may be "
                "written to"
            ) from error

    def _is_ours(self, file: int) -> bool:
        """Lock the file; False: it was removed meanwhile, so that another is to be made."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken(_told(os.pread(file, 4096, 0))) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        assert self._path is not None
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _lease(self) -> None:
        while not self._store.write_new_file(NAME, self._told_now()):
            try:
                holder = _told(self._store.read(NAME))
            except CheckpointError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    continue  # it has just ended
                raise
            if abs(time.time() - float(holder.get("alive", 0.0))) < DEAD_SECONDS:
                raise self._taken(holder)
            self._store.remove_file(NAME)
        self._beats = threading.Thread(target=self._beat, name="fastps-folder-lock", daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            with contextlib.suppress(FastPSError):
                if _told(self._store.read(NAME)).get("job") != self._about["job"]:
                    return  # we were silent for too long, and another has it
                self._store.write_file(NAME, self._told_now())

    def _told_now(self) -> bytes:
        return json.dumps({**self._about, "alive": time.time()}).encode()

    def _taken(self, holder: dict[str, Any]) -> CheckpointError:
        advice = "wait for its end, or give this job another folder"
        if "alive" in holder:
            advice += f"; one that was killed counts as ended after {DEAD_SECONDS:g} s"
        return CheckpointError(
            f"another job saves in {self._store.uri}: process {holder.get('pid', '?')} on host "
            f"{holder.get('host', '?')}, begun {holder.get('began', '?')}, "
            f"{holder.get('command', '?')!r}; {advice}"
        )


def _told(data: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        content = json.loads(data)
        if isinstance(content, dict):
            return content
    return {}
