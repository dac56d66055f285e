"""The launcher's checkpoints: resume before the workers start, save while they run and at the end.

Files and waits are the business of one thread at a time, since the supervisor's loop may not wait;
it asks `is_busy`, and gives out what is there to say.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastps.checkpoint import driver
from fastps.checkpoint.storage import Store
from fastps.config import DEFAULT_GROUP
from fastps.control import SocketControl
from fastps.errors import ClosedError, FastPSError
from fastps.scheduler.messages import GetStatus

__all__ = ["CheckpointPlan", "Checkpoints"]

LAUNCHER = (0, 0)  # as who asks for a save
# A job that was stopped ends within 5 s, though an object store may answer nothing.
CLOSE_SECONDS = 0.5
# A scheduler that is being restarted answers within seconds.
STATUS_SECONDS = 30.0


@dataclass(frozen=True)
class CheckpointPlan:
    """What checkpoints a job makes.

    Attributes
    ----------
    uri : str
        The folder.
    every_seconds : float, optional
        The time from one save to the next.
    every_steps : int, optional
        The steps of the slowest worker of the script's own group from one save to the next. One of
        the two is given.
    keep : int
        How many are kept, with what they need.
    resume : bool
        Whether to begin with the newest that is there.
    """

    uri: str
    every_seconds: float | None = 60.0
    every_steps: int | None = None
    keep: int = 3
    resume: bool = True


class Checkpoints:
    """The checkpoints of one job. The supervisor's thread uses it.

    Parameters
    ----------
    plan : CheckpointPlan
        What to do.
    address : str
        Of the scheduler.

    Attributes
    ----------
    failed : str
        Why the job cannot begin where it was; empty: it can.
    last_failed : bool
        Whether the end of the job could not be saved.
    """

    def __init__(self, plan: CheckpointPlan, address: str) -> None:
        self._plan = plan
        self._control = SocketControl(address)
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._due_at = time.monotonic() + (plan.every_seconds or 0.0)
        self._due_step = 0
        self.failed = ""
        self.last_failed = False

    @property
    def is_busy(self) -> bool:
        """Whether a save or restore is under way."""
        return self._thread is not None and self._thread.is_alive()

    def said(self) -> list[str]:
        """Return what there is to tell people since the last call."""
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._said.get_nowait())
        return lines

    def resume(self) -> None:
        """Begin to bring the job to the newest checkpoint, if there is one and it is wanted."""
        self._start(self._resume)

    def turn(self, status: dict[str, Any]) -> None:
        """Begin a save if it is time for one.

        Parameters
        ----------
        status : dict
            Of the job; scheduler/CONTROL.md lists the names.
        """
        if self.is_busy or not status["tables"]:
            return
        every, step = self._plan.every_steps, _step_of(status)
        if every is None:
            is_due = time.monotonic() >= self._due_at
        else:
            next_step = (step // every + 1) * every
            is_due = 0 < self._due_step <= step
            # Also the first time, and when a worker went back to an earlier step.
            if is_due or self._due_step == 0 or next_step < self._due_step:
                self._due_step = next_step
        if is_due:
            self._due_at = time.monotonic() + (self._plan.every_seconds or 0.0)
            self._start(self._save)

    def save_last(self) -> None:
        """Begin the save of the end of the job, if there is anything to save."""
        self._start(self._save_last)

    def save_now(self) -> None:
        """Begin a save of the job as it is now, if there is anything to save."""
        self._due_at = time.monotonic() + (self._plan.every_seconds or 0.0)
        self._start(self._save_now)

    def close(self) -> None:
        """End; what is under way fails."""
        self._control.close()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _start(self, work: Callable[[], None]) -> None:
        assert not self.is_busy
        self._thread = threading.Thread(target=work, name="fastps-checkpoints", daemon=True)
        self._thread.start()

    def _resume(self) -> None:
        began = time.monotonic()
        try:
            store = Store(self._plan.uri)
            if not self._plan.resume or not store.list_tags():
                self._said.put(f"checkpoints go to {store.uri}")
                return
            manifest = driver.restore(self._control, 0, store.uri).manifest
        except ClosedError:
            return
        except FastPSError as error:
            self.failed = f"the job cannot go on from its checkpoint: {error}"
            self._said.put(f"{self.failed}; give --no-resume to begin anew")
            return
        clocks = ", ".join(f"{group.name} at step {group.clock}" for group in manifest.groups)
        self._said.put(
            f"resumed from checkpoint {manifest.tag} of {manifest.created} ({clocks}) in "
            f"{time.monotonic() - began:.1f} s"
        )

    def _save(self) -> None:
        try:
            self._write()
        except ClosedError:
            return
        except FastPSError as error:
            self._said.put(f"no checkpoint was written: {error}")

    def _save_now(self) -> None:
        try:
            if not self._write_what_is_there():
                self._said.put("no checkpoint was written: there is no table yet")
        except ClosedError:
            return
        except FastPSError as error:
            self._said.put(f"no checkpoint was written: {error}")

    def _save_last(self) -> None:
        try:
            self._write_what_is_there()
        except ClosedError:
            return
        except Exception as error:  # whatever it was, the job is not to end as if it were saved
            self.last_failed = True
            self._said.put(f"the end of the job was not saved, so its exit code is not 0: {error}")

    def _write_what_is_there(self) -> bool:
        """Save if there are tables; what was polled may be older than those of a short job."""
        status, _ = self._control.call(GetStatus(), STATUS_SECONDS)
        if not status.status["tables"]:
            return False
        self._write()
        return True

    def _write(self) -> None:
        began = time.monotonic()
        tag = driver.save(self._control, lambda: LAUNCHER, self._plan.uri, keep=self._plan.keep)
        self._said.put(f"checkpoint {tag} was written in {time.monotonic() - began:.1f} s")


def _step_of(status: dict[str, Any]) -> int:
    """Return the steps that the slowest worker of the script's own group has ended."""
    own = [group["minimum_clock"] for group in status["groups"] if group["name"] == DEFAULT_GROUP]
    return int(own[0]) if own else 0
