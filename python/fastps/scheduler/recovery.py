"""What a scheduler does first when it goes on with a job that another one began. Pure.

The journal has what must never be forgotten; how far each worker is and what it was told is known
to the workers alone. So a group stands still until each of its journalled sessions has said that
again, or has ended: by its fresh lease, its process, or its own word. Then the minimum is the
highest that any of them was told, or what their clocks give if that is more. Meanwhile no join,
barrier, chunk or new table of the group is answered, no gate opens and no round closes. Pushes and
pulls of tables that exist go on.

A word counts when its sender already works with a map of this incarnation: one from before may be
older than the last that the former scheduler told it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastps.scheduler import messages as m
from fastps.scheduler.actions import Beat, Ticket
from fastps.scheduler.clocks import CLOCK_MAX
from fastps.scheduler.facts import INCARNATION_SHIFT, Facts, incarnation_of
from fastps.scheduler.membership import Session

__all__ = ["Recovery"]

# Requests that wait for a group. Who is refused room sends again.
PARKED_MAX = 1 << 16

# What is answered even while a group stands still.
AT_ONCE = (m.Leave, m.GetStatus, m.RegisterServer, m.ProcessExited, m.Shutdown, m.LookupTable)


@dataclass
class Standing:
    """One group that stands still.

    Attributes
    ----------
    awaited : set of int
        Sessions that have not said yet where they are.
    minimum, rounds : int
        The highest that any session said it was told.
    parked : list of (ticket, request)
        In order of arrival.
    """

    awaited: set[int]
    minimum: int = 0
    rounds: int = 0
    parked: list[tuple[Ticket, m.Message]] = field(default_factory=list)


class Recovery:
    """The groups that stand still after a restart.

    Parameters
    ----------
    facts : Facts
        As replayed; shared with the other parts.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._groups: dict[str, Standing] = {}

    def begin(self) -> None:
        """Let every group with live sessions stand still."""
        for name, group in self._facts.groups.items():
            group.clocks.freeze(self._facts.incarnation << INCARNATION_SHIFT)
            self._groups[name] = Standing(set(group.live.values()))

    @property
    def is_over(self) -> bool:
        """Whether no group stands still."""
        return not self._groups

    def awaited(self) -> list[int]:
        """Return the sessions that are waited for, by number."""
        return sorted(each for standing in self._groups.values() for each in standing.awaited)

    def holds(self, ticket: Ticket, message: m.Message) -> bool:
        """Whether a request must wait; `over` gives it back. To be asked for each request."""
        if not self._groups or isinstance(message, AT_ONCE):
            return False
        session: Session | None
        if isinstance(message, m.Join):
            name = message.group
            session = self._facts.sessions.of_boot_id(name, message.boot_id)
            if name in self._groups and session is not None:
                # It asks again, so it was never answered: it knows nothing.
                self._groups[name].awaited.discard(session.session)
        else:
            session = self._facts.sessions.find(getattr(message, "session", 0))
            name = "" if session is None else session.group
        standing = self._groups.get(name)
        if standing is None:
            return False
        if len(standing.parked) < PARKED_MAX:
            standing.parked.append((ticket, message))
        return True

    def heard(self, session: Session, beat: Beat) -> None:
        """Take the word of a live session, after its clock was taken in."""
        standing = self._groups.get(session.group)
        if standing is None or incarnation_of(beat.map_version) < self._facts.incarnation:
            return
        standing.awaited.discard(session.session)
        standing.minimum = max(standing.minimum, min(beat.told_minimum, CLOCK_MAX))
        standing.rounds = max(standing.rounds, min(beat.told_rounds, CLOCK_MAX))

    def over(self) -> list[tuple[Ticket, m.Message]]:
        """Let go on the groups that everybody was heard of; return what waited for that.

        To be called at the end of each step.
        """
        released: list[tuple[Ticket, m.Message]] = []
        for name, standing in list(self._groups.items()):
            find = self._facts.sessions.find
            standing.awaited = {each for each in standing.awaited if find(each) is not None}
            if standing.awaited:
                continue
            del self._groups[name]
            self._facts.groups[name].clocks.resume(standing.minimum, standing.rounds)
            released += standing.parked
        return released
