"""What outlives a scheduler, so that the next one goes on: its address and its journal."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from pathlib import Path

__all__ = ["SchedulerPlace"]

# A scheduler is started again at once; one that ends right after its start for the second time
# after so many seconds, doubling.
RESTART_SECONDS = 0.25
RESTART_SECONDS_MAX = 5.0
LIVED_SECONDS = 2.0


class SchedulerPlace:
    """The address and the journal of a job's schedulers, one after another.

    The port is bound here, though never listened on: so no other program can get it while a
    scheduler is down, not even one of ours that connects to it and is given it as its own end.

    Parameters
    ----------
    journal : Path, optional
        Where the journal is to be, and to stay. None: in a folder of its own that `close` removes.

    Attributes
    ----------
    address : str
        Where schedulers listen.
    journal : Path
        The file.
    folder : Path or None
        What is to be removed in the end.

    Raises
    ------
    OSError
        There is no free port, or no room for the folder.
    """

    def __init__(self, journal: Path | None) -> None:
        self.folder: Path | None = None
        if journal is None:
            self.folder = Path(tempfile.mkdtemp(prefix="fastps-journal-"))
            journal = self.folder / "journal"
        self.journal = journal.absolute()
        self._held = socket.socket()
        try:
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind(("127.0.0.1", 0))
        except OSError:
            self.close()
            raise
        self.address = f"tcp://127.0.0.1:{self._held.getsockname()[1]}"
        self._wait = 0.0

    def seconds_until_restart(self, lived: float) -> float:
        """Return how long to wait before the next scheduler, after one that lived so long."""
        if lived > LIVED_SECONDS:
            self._wait = 0.0
        wait = self._wait
        self._wait = min(max(RESTART_SECONDS, 2 * wait), RESTART_SECONDS_MAX)
        return wait

    def close(self) -> None:
        """Let the port go and remove the folder. Twice is fine."""
        self._held.close()
        if self.folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.folder)
