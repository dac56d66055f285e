"""Waits for calls that somebody wants to hear of, on one thread for a whole session."""

from __future__ import annotations

import threading
from typing import Protocol

from fastps import _core

__all__ = ["Watched", "Watcher"]

# How long a call that is watched from now on may wait for its place among those waited for.
SLICE_SECONDS = 0.02


class Watched(Protocol):
    """A call, and what is to be done once it has ended."""

    _ticket: _core.Ticket

    def _settle(self) -> None: ...


class Watcher:
    """Tells futures that their calls have ended. Thread-safe.

    Its thread runs while there is something to wait for. It is a daemon: the process may end while
    a call is open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, Watched] = {}  # by id; what is in here stays alive
        self._thread: threading.Thread | None = None

    def watch(self, future: Watched) -> None:
        """Settle `future` on another thread, once its call has ended."""
        with self._lock:
            self._watched[id(future)] = future
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="fastps-callbacks", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                watched = list(self._watched.values())
                if not watched:
                    self._thread = None
                    return
            ended = [each for each in watched if each._ticket.done()]
            if not ended:
                _core.Ticket.wait_for_any([each._ticket for each in watched], SLICE_SECONDS)
                continue
            with self._lock:
                for each in ended:
                    del self._watched[id(each)]
            for each in ended:
                each._settle()
