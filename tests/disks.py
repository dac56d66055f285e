"""Disks that tests may fill or write-protect, and folders that nobody may write to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096  # tmpfs gives out whole pages
NOBODY = 65534


class NotPermitted(Exception):
    """File systems cannot be mounted here."""


class SmallDisk:
    """A tmpfs of so many bytes, with a file that takes up what shall not be free.

    A context manager that unmounts it.

    Attributes
    ----------
    folder : Path
        Its root.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self._size = folder, size
        self._ballast = folder / "ballast"

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir()
        try:
            _mount("-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.folder))
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise NotPermitted(f"a small tmpfs cannot be mounted here: {said.strip()}") from error
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)

    def leave_free(self, n_bytes: int) -> None:
        """Let the ballast take up all but so much, about."""
        self._ballast.unlink(missing_ok=True)
        there = os.statvfs(self.folder)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, there.f_bavail * there.f_bsize - n_bytes))

    def free_all(self) -> None:
        self._ballast.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        _mount("-o", "remount,ro", str(self.folder))
        try:
            yield
        finally:
            _mount("-o", "remount,rw", str(self.folder))


@contextlib.contextmanager
def folder_of_others() -> Iterator[Path]:
    """A folder that all may read and nobody in this process may write to, for a with block."""
    with tempfile.TemporaryDirectory(prefix="fastps-others-") as name:
        folder = Path(name)
        folder.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:  # who may do anything
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], capture_output=True, text=True, check=True)
