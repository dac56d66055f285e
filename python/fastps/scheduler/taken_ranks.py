"""Joins for ranks that have a live session: they wait until it is plain whether somebody is there.

A worker that was killed and started again by hand comes while its former session still has its
lease. A process that a worker started comes too, for it inherits the worker's environment: it must
not take the worker's place. What tells them apart is whether the session is heard of after the
join.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastps.errors import ConfigError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action, Ticket, refusal
from fastps.scheduler.membership import Session, Sessions

__all__ = ["TakenRanks"]

# What was under way when the join came may still be the last words of a process that is gone.
LAST_WORDS_SECONDS = 0.5
# A request is sent again after 16 s at most: who is silent for longer has given up.
GIVEN_UP_SECONDS = 20.0
WAITING_MAX = 1024


@dataclass
class WaitingJoin:
    """A join that waits.

    Attributes
    ----------
    ticket : Ticket
        Of the newest copy.
    since, asked_at : float
        When the first and the newest copy came.
    """

    ticket: Ticket
    asked: m.Join
    since: float
    asked_at: float


class TakenRanks:
    """The joins that wait.

    Parameters
    ----------
    sessions : Sessions
        The live ones.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: dict[tuple[str, str], WaitingJoin] = {}  # by group and boot_id

    def wait(self, ticket: Ticket, asked: m.Join, now: float) -> None:
        """Let a join wait, or take in that it was sent again."""
        key = asked.group, asked.boot_id
        there = self._waiting.get(key)
        if there is not None:
            there.ticket, there.asked_at = ticket, now
            return
        if len(self._waiting) >= WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[key] = WaitingJoin(ticket, asked, now, now)

    def judge(self, now: float) -> tuple[list[WaitingJoin], list[Action]]:
        """Return the joins whose ranks are free by now, which wait no more, and refuse others."""
        free: list[WaitingJoin] = []
        refused: list[Action] = []
        for key, waiting in list(self._waiting.items()):
            asked = waiting.asked
            assert asked.rank is not None
            if now - waiting.asked_at > GIVEN_UP_SECONDS:
                del self._waiting[key]
                continue
            holder = self._sessions.of_rank(asked.group, asked.rank)
            if holder is None:
                free.append(waiting)
            elif holder.heard_at > waiting.since + LAST_WORDS_SECONDS:
                refused.append(refusal(waiting.ticket, _error(asked, holder)))
            else:
                continue
            del self._waiting[key]
        return free, refused


def _error(asked: m.Join, holder: Session) -> ConfigError:
    return ConfigError(
        f"rank {holder.rank} of group {holder.group!r} is taken: process {holder.pid} (session "
        f"{holder.session}) has it and is at work; process {asked.pid} asked for it. A process "
        "that a worker starts inherits its FASTPS_RANK, and a process has one client for all its "
        "threads: use the worker's own client, or join under another group, as in "
        "connect(group='helpers', rank=0); to take the worker's place, end its process first"
    )
