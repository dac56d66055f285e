"""What the parts of the scheduler's state share: everything that it knows.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from fastps.errors import ConfigError, EpochChangedError, SessionEndedError
from fastps.scheduler.actions import JobShape
from fastps.scheduler.group import Group
from fastps.scheduler.membership import Session, Sessions
from fastps.scheduler.records import (
    EpochStarted,
    GroupStarted,
    IncarnationStarted,
    JobStarted,
    Record,
)
from fastps.scheduler.rounds import RoundLog
from fastps.scheduler.servers import Servers
from fastps.scheduler.tables import TableRegistry

__all__ = ["GROUPS_MAX", "INCARNATION_SHIFT", "Facts", "incarnation_of"]

# Numbers of maps and notices of an incarnation are higher than all of those before.
INCARNATION_SHIFT = 32
# Bounds on what strangers can make the scheduler hold.
GROUPS_MAX = 1024
GROUP_NAME_BYTES_MAX = 128


class Facts:
    """What the scheduler knows.

    Parameters
    ----------
    shape : JobShape
        What was launched.
    cluster_id : int
        Random, more than 0: messages of another cluster are refused.
    now : float
        Seconds of a steady clock.

    Attributes
    ----------
    version : int
        The map's version, (incarnation << 32) | counter: the first map of a scheduler that goes on
        from a journal is newer than anything before. A server's reported version <= version.
    evicted_since : int
        The first map without the worker that was evicted last.
    round_log : RoundLog
        Closed rounds of all groups.
    groups : dict of str to Group
        By name, in the order of their numbers.
    begun_by : str
        The id of the restore that began the epoch; empty: none did.
    ended_by_epoch : int
        Sessions up to this number were ended by the restore that began the epoch.
    former : dict of int to Session
        Of the ranks that are to rejoin after a restore, the sessions that it ended.
    is_loading : bool
        Whether the epoch's tables are not loaded yet.
    broken : str
        Why the tables cannot be used although nothing is being loaded; empty: they can.
    views_rest : bool
        Whether no shard is to be filled or moved now.
    restored : (str, int), optional
        The restore that began the epoch, once it has succeeded: its id, and the epoch.
    """

    def __init__(self, shape: JobShape, cluster_id: int, now: float) -> None:
        self.shape = shape
        self.cluster_id = cluster_id
        self.epoch = 1
        self.incarnation = 1
        self.version = _first_version(1)
        self.evicted_since = 0
        self.servers = Servers(shape.num_servers, now, shape.patience, not shape.embedded)
        self.sessions = Sessions(shape.lease)
        self.tables = TableRegistry()
        self.round_log = RoundLog()
        self.groups: dict[str, Group] = {}
        self.begun_by = ""
        self.ended_by_epoch = 0
        self.former: dict[int, Session] = {}
        self.is_loading = False
        self.broken = ""
        self.views_rest = False
        self.restored: tuple[str, int] | None = None
        self._n_groups = 0  # of all epochs
        self._records: list[Record] = [JobStarted(cluster_id, self.epoch, self.incarnation)]
        for name, num_workers in shape.groups.items():
            self._add_group(name, num_workers, now)

    def bump(self) -> None:
        """Note that the map has changed."""
        self.version += 1

    def start_incarnation(self, incarnation: int) -> None:
        """Go on from a journal under this number, which is higher than all before.

        Requires: incarnation > self.incarnation.
        """
        assert incarnation > self.incarnation
        self.incarnation = incarnation
        self.version = _first_version(incarnation)
        self.record(IncarnationStarted(incarnation))

    def record(self, record: Record) -> None:
        """Note what must be in the journal before anybody hears of this step."""
        self._records.append(record)

    def take_records(self) -> tuple[Record, ...]:
        """Return what was noted since the last call."""
        records = tuple(self._records)
        self._records.clear()
        return records

    def live_session(self, number: int) -> Session:
        """Return the live session of that number.

        Raises
        ------
        SessionEndedError
            It has ended.
        EpochChangedError
            It was ended by a restore.
        """
        session = self.sessions.find(number)
        if session is None and 0 < number <= self.ended_by_epoch:
            raise EpochChangedError(
                f"session {number} has ended: the job was restored from a checkpoint (epoch "
                f"{self.epoch}), what was under way then is void; connect again"
            )
        if session is None:
            raise SessionEndedError(
                f"session {number} has ended: the worker left, was silent for its lease of "
                f"{self.shape.lease:g} s, or its rank was taken by a newer one; connect again"
            )
        return session

    def group_of(self, name: str, now: float) -> Group:
        """Return the group of that name; the first to ask for it makes it.

        Raises
        ------
        ConfigError
            The name is not legal, or there are too many groups.
        """
        group = self.groups.get(name)
        if group is not None:
            return group
        if not 1 <= len(name.encode()) <= GROUP_NAME_BYTES_MAX:
            raise ConfigError(f"group {name!r:.50}: a name needs 1 to {GROUP_NAME_BYTES_MAX} bytes")
        if len(self.groups) >= GROUPS_MAX:
            raise ConfigError(f"there are {GROUPS_MAX} groups already, the most there may be")
        self.record(GroupStarted(name))
        return self._add_group(name, 0, now)

    def begin_epoch(self, started: EpochStarted, now: float) -> None:
        """Drop sessions, tables and groups, and begin with those groups; tables are to follow."""
        ended = [*self.former.values(), *self.sessions.all()]
        newest = {(each.group, each.rank): each for each in ended}
        rejoining = [(each.name, rank) for each in started.groups for rank in each.rejoining]
        former_sessions = [newest[key] for key in rejoining if key in newest]
        self.former = {each.session: each for each in former_sessions}
        self.epoch = started.epoch
        self.version = max(self.version, started.map_version)
        self.sessions.end_all(started.highest_session)
        self.begun_by = started.restore_id
        self.ended_by_epoch = started.highest_session
        self.tables.drop_all(started.highest_table)
        former, self.groups = self.groups, {}
        self._n_groups = started.n_groups
        notice = max((group.clocks.notice for group in former.values()), default=0)
        for each in started.groups:
            group = self._add_group(each.name, self.shape.groups.get(each.name, 0), now)
            group.begin_at(each, notice)
            if each.name in former:
                group.step_times = former[each.name].step_times
                group.staleness = former[each.name].staleness
        self.is_loading, self.broken, self.restored = True, "", None

    @property
    def n_groups(self) -> int:
        """How many groups there ever were, those that restores dropped, too."""
        return self._n_groups

    def _add_group(self, name: str, num_workers: int, now: float) -> Group:
        number = self._n_groups
        self._n_groups += 1
        group = Group(number, num_workers, now, self.shape.patience, self.round_log, self.record)
        self.groups[name] = group
        return group


def incarnation_of(version: int) -> int:
    """Return whose map has that version, or whose notice that number."""
    return version >> INCARNATION_SHIFT


def _first_version(incarnation: int) -> int:
    return (incarnation << INCARNATION_SHIFT) | 1
