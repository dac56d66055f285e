"""Going back to a checkpoint: the whole job, in a new epoch.

1. *waiting*: until the servers that were launched are here, each is ready for an order, and none
   is at work on a save.
2. *verifying*: each server checks its share of the files. Up to here nothing is changed.
3. The epoch begins, in one step: saves that have not begun fail; all sessions end; groups begin
   anew, under new numbers, at the clocks of the checkpoint; all tables are dropped and made anew,
   under new numbers, every shard with one member.
4. *loading*: each server loads its shards. Joins wait, and no shard is filled or moved. Once all
   have loaded, the job goes on; copies are made as after a failure.

A failure in 4, or the end of the scheduler, leaves the job *broken*: it has no tables until a
restore succeeds.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from fastps.consistency import BSP
from fastps.errors import CheckpointError, EpochChangedError, FastPSError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action, PublishMap, Reply, Ticket, refusal
from fastps.scheduler.cuts import CutGroup, CutTable, groups_from_json, tables_from_json
from fastps.scheduler.facts import Facts
from fastps.scheduler.orders import Answered, Orders
from fastps.scheduler.outcomes import Outcomes, check_id, check_place
from fastps.scheduler.passes import intervals_of
from fastps.scheduler.publishing import Publisher
from fastps.scheduler.records import (
    EpochGroup,
    EpochStarted,
    PassesForgotten,
    PassStarted,
    RestoreEnded,
)
from fastps.scheduler.saves import Saves
from fastps.scheduler.table_requests import SHARDS_MAX, TableRequests
from fastps.scheduler.tables import TABLES_MAX, complete, consistency_of
from fastps.scheduler.views import Views
from fastps.scheduler.wire import JsonDict

__all__ = ["READY_SECONDS_MAX", "Restores"]

# Longer than a server that writes for a save needs to hear that nobody wants that any more.
READY_SECONDS_MAX = 60.0
# Joins that wait for the tables. Who is refused room sends again.
PARKED_MAX = 1 << 16

WAITING, VERIFYING, LOADING = "waiting", "verifying", "loading"


@dataclass
class UnderWay:
    """The restore that is under way.

    Attributes
    ----------
    tables : list of CutTable
        Their definitions as they will be: with no more copies than the job has servers.
    other_copies : dict of str to int
        As `Restored` has them.
    since : float
        When its phase began; in `WAITING`, when the last launched server came.
    unanswered : set of int
        Servers that have not carried out the order of this phase.
    """

    asked: m.Restore
    tables: list[CutTable]
    groups: list[CutGroup]
    began: float
    since: float
    phase: str = WAITING
    ticket: Ticket | None = None
    unanswered: set[int] = field(default_factory=set)
    other_copies: dict[str, int] = field(default_factory=dict)


class Restores:
    """The restore under way, if there is one, and how the last ones went.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts, as are those that follow: what they hold ends with an epoch.
    """

    def __init__(
        self,
        facts: Facts,
        orders: Orders,
        saves: Saves,
        tables: TableRequests,
        publisher: Publisher,
        views: Views,
    ) -> None:
        self._facts = facts
        self._orders = orders
        self._saves = saves
        self._tables = tables
        self._publisher = publisher
        self._views = views
        self._restore: UnderWay | None = None
        self._outcomes = Outcomes()
        self._last: tuple[JsonDict, float] | None = None
        self._parked: list[tuple[Ticket, m.Join]] = []

    # Requests.

    def restore(self, ticket: Ticket, asked: m.Restore, now: float) -> list[Action]:
        """Begin a restore, unless this request already did; answered when it is over."""
        facts, restore = self._facts, self._restore
        if asked.restore_id in self._outcomes:
            return self._outcomes.answer(asked.restore_id, ticket)
        if facts.restored is not None and facts.restored[0] == asked.restore_id:
            copies = _other_copies(facts, asked, [each.definition for each in facts.tables.all()])
            return [Reply(*ticket, m.Restored(facts.restored[1], copies), with_map=True)]
        if restore is not None and restore.asked.restore_id == asked.restore_id:
            restore.ticket = ticket
            return []
        if restore is not None:
            raise CheckpointError(
                f"a restore of {restore.asked.tag!r} ({restore.asked.restore_id}) is under way: "
                "wait for it, then restore again"
            )
        check_id("restore_id", asked.restore_id)
        check_place(asked.uri, asked.tag)
        if facts.broken and facts.begun_by == asked.restore_id:
            # A former scheduler began the epoch, which ended the session of who asks, and was gone
            # before all was loaded.
            asked = dataclasses.replace(asked, session=0)
        if asked.session:
            facts.live_session(asked.session)
        tables, groups = tables_from_json(asked.tables), groups_from_json(asked.groups)
        groups = _with_all_groups(tables, groups)
        _check_same(facts, asked, tables)
        self._restore = UnderWay(asked, tables, groups, now, now, ticket=ticket)
        return []

    @property
    def is_under_way(self) -> bool:
        """Whether no save is to begin."""
        return self._restore is not None

    @property
    def has_orders(self) -> bool:
        """Whether servers are at work on it."""
        return self._restore is not None and self._restore.phase != WAITING

    def check_none(self) -> None:
        """Raise `CheckpointError` while a restore is under way."""
        if self._restore is not None:
            raise CheckpointError(
                f"a restore of {self._restore.asked.tag!r} is under way: save when it is over"
            )

    def holds(self, ticket: Ticket, message: m.Message) -> bool:
        """Whether a request must wait for the tables; `released` gives it back."""
        if not self._facts.is_loading or not isinstance(message, m.Join):
            return False
        # Who asks again waits for the newer answer only.
        of_others = [each for each in self._parked if each[1].boot_id != message.boot_id]
        self._parked = [*of_others, (ticket, message)][:PARKED_MAX]
        return True

    def released(self) -> list[tuple[Ticket, m.Join]]:
        """Return the requests that waited and need not any more."""
        if self._facts.is_loading:
            return []
        released, self._parked = self._parked, []
        return released

    # What servers say, and what time does.

    def answered(self, answered: Answered, now: float) -> list[Action]:
        """Take what came of an order."""
        restore, order = self._restore, answered.order
        if restore is None or order.purpose != restore.asked.restore_id:
            return []
        if answered.error:
            return self._fail(
                f"server {order.server_id} could not {order.kind}: {answered.error}", now
            )
        restore.unanswered.discard(order.server_id)
        return []

    def settle(self, now: float) -> list[Action]:
        """Go on as far as what is known allows. To be called at the end of each step."""
        restore, facts = self._restore, self._facts
        if restore is None:
            return []
        try:
            if restore.phase != LOADING and restore.asked.session:
                facts.live_session(restore.asked.session)
            if restore.phase == WAITING:
                self._verify(restore, now)
            if restore.phase == VERIFYING and not restore.unanswered:
                return self._begin_epoch(restore, now)
            if restore.phase == LOADING:
                return self._end(restore, now)
        except FastPSError as error:
            return self._fail(str(error), now)
        return []

    def restart_suspicion(self, now: float) -> None:
        """Start waits anew: the scheduler itself had been away."""
        if self._restore is not None:
            self._restore.since = now

    def status(self, now: float) -> tuple[JsonDict | None, JsonDict | None]:
        """Return what is under way, and how the newest restore that is over went."""
        restoring = last = None
        if self._restore is not None:
            restore, orders = self._restore, self._orders.of(self._restore.asked.restore_id)
            restoring = {
                "tag": restore.asked.tag,
                "phase": restore.phase,
                "seconds": round(now - restore.began, 3),
                "bytes": sum(order.done_bytes for order in orders),
                "total_bytes": sum(order.total_bytes for order in orders) or None,
            }
        if self._last is not None:
            last = {**self._last[0], "ended_s_ago": round(now - self._last[1], 3)}
        return restoring, last

    # Phases.

    def _verify(self, restore: UnderWay, now: float) -> None:
        """Let every server check its share of the files, once all are ready for that."""
        servers = self._facts.servers
        frozen = any(group.clocks.is_frozen for group in self._facts.groups.values())
        if servers.outstanding or frozen or self._saves.has_orders:
            restore.since = now
            return
        fit = servers.fit()
        missing = [each for each in fit if not self._orders.is_ready(each)]
        if missing or not fit:
            if now - restore.since > READY_SECONDS_MAX:
                raise CheckpointError(
                    f"servers {missing!r:.100} take no orders" if fit else "the job has no servers"
                )
            return
        restore.tables = _fitted(self._facts, restore.tables, len(fit))
        definitions = [each.definition for each in restore.tables]
        restore.other_copies = _other_copies(self._facts, restore.asked, definitions)
        restore.phase = VERIFYING
        restore.unanswered = set(fit)
        for share, server_id in enumerate(fit):
            body: JsonDict = {
                "uri": restore.asked.uri,
                "tag": restore.asked.tag,
                "share": share,
                "shares": len(fit),
            }
            self._orders.give(server_id, "verify", body, restore.asked.restore_id, now)

    def _begin_epoch(self, restore: UnderWay, now: float) -> list[Action]:
        """End all that was; make groups and tables anew, and order the loads."""
        facts = self._facts
        fit = facts.servers.fit()
        if not fit:
            raise CheckpointError("no server is left to load the tables")
        # Tables may have been made since it was asked for.
        _check_same(facts, restore.asked, restore.tables)
        gone = EpochChangedError(
            f"the job was restored from the checkpoint {restore.asked.tag!r}: what was under way "
            "is void"
        )
        waits = [ticket for group in facts.groups.values() for ticket in group.waits()]
        actions: list[Action] = [refusal(ticket, gone) for ticket in waits]
        actions += self._saves.end(f"a restore of {restore.asked.tag!r} began", now)
        actions += self._tables.refuse_all(gone)
        actions += self._publisher.refuse_held(gone)
        peers = tuple(each.peer for each in facts.sessions.all() if each.peer is not None)
        actions.append(PublishMap(peers))
        self._views.forget_tables(now)
        facts.bump()
        started = EpochStarted(
            restore_id=restore.asked.restore_id,
            epoch=facts.epoch + 1,
            map_version=facts.version,
            highest_session=facts.sessions.highest,
            highest_table=facts.tables.highest,
            n_groups=facts.n_groups,
            groups=self._groups_of_epoch(restore.groups),
        )
        facts.record(started)
        facts.begin_epoch(started, now)
        # Nobody begins before every server has the map without the sessions of before.
        facts.evicted_since = facts.version
        self._make_passes(restore.groups)
        loads = self._make_tables(restore.tables, fit)
        restore.phase, restore.since = LOADING, now
        restore.unanswered = set(loads)
        for server_id, body in loads.items():
            body.update(uri=restore.asked.uri, tag=restore.asked.tag)
            self._orders.give(server_id, "load", body, restore.asked.restore_id, now)
        return [*actions, *self._end(restore, now)]

    def _groups_of_epoch(self, groups: list[CutGroup]) -> tuple[EpochGroup, ...]:
        """Return the groups of the checkpoint, and those that have workers here."""
        facts = self._facts
        cuts = {group.name: group for group in groups}
        here = [name for name, group in facts.groups.items() if group.live or group.expected]
        begun = []
        for name in dict.fromkeys((*facts.shape.groups, *cuts, *here)):
            group, cut = facts.groups.get(name), cuts.get(name)
            live = {} if group is None else group.live
            expected = {} if group is None else group.expected
            rejoining = set() if group is None else group.rejoining
            begun.append(
                EpochGroup(
                    name=name,
                    clock=0 if cut is None else cut.clock,
                    barriers=0 if cut is None else cut.barriers,
                    rejoining=tuple(sorted({*live, *rejoining})),
                    expected=tuple(sorted(expected.keys() - rejoining)),
                )
            )
        return tuple(begun)

    def _make_passes(self, groups: list[CutGroup]) -> None:
        for cut in groups:
            group = self._facts.groups[cut.name]
            over = [(first, last) for first, last in cut.passes_over]
            over += intervals_of(each.number for each in cut.passes if each.is_finished)
            if over:
                self._facts.record(PassesForgotten(group.number, tuple(over)))
                group.forget_passes(over)
            for each in cut.passes:
                if each.is_finished:
                    continue
                started = PassStarted(
                    group.number,
                    each.number,
                    each.n_items,
                    each.deterministic,
                    False,
                    each.done,
                )
                self._facts.record(started)
                group.restore_pass(started)

    def _make_tables(self, tables: list[CutTable], fit: list[int]) -> dict[int, JsonDict]:
        """Make the tables, every shard on one server; return what each server is to load."""
        loads: dict[int, JsonDict] = {}
        for cut in tables:
            table = self._tables.add(cut.definition, fit, 1)
            for shard, view in enumerate(table.views):
                (server_id,) = view.chain
                body = loads.setdefault(server_id, {"tables": {}, "shards": []})
                body["tables"][table.table_id] = cut.definition.name
                body["shards"].append([table.table_id, shard])
        for body in loads.values():
            body["tables"] = [[number, name] for number, name in body["tables"].items()]
        return loads

    def _end(self, restore: UnderWay, now: float) -> list[Action]:
        """End the restore once all is loaded.

        Raises
        ------
        CheckpointError
            A server with shards is lost.
        """
        facts = self._facts
        for server in facts.servers.all():
            if server.lost and facts.tables.shares.member[server.server_id] > 0:
                raise CheckpointError(
                    f"server {server.server_id} is lost ({server.lost}) with what it loaded"
                )
        if restore.unanswered:
            return []
        facts.record(RestoreEnded(restore.asked.restore_id))
        facts.restored = (restore.asked.restore_id, facts.epoch)
        restored = m.Restored(facts.epoch, restore.other_copies)
        self._over(restore, (restored,), now)
        self._views.planner.look_again()
        return [Reply(*restore.ticket, restored, with_map=True)] if restore.ticket else []

    def _fail(self, why: str, now: float) -> list[Action]:
        restore = self._restore
        assert restore is not None
        self._orders.withdraw(restore.asked.restore_id)
        text = f"the restore of {restore.asked.tag!r} failed: {why}. "
        if restore.phase == LOADING:
            self._facts.broken = f"{restore.asked.tag!r}: {why}"
            text += "The job's tables are lost until a restore succeeds: restore again"
        else:
            text += "Nothing was changed"
        self._over(restore, text, now)
        error = CheckpointError(text)
        return [refusal(restore.ticket, error)] if restore.ticket is not None else []

    def _over(self, restore: UnderWay, outcome: tuple[m.Message, ...] | str, now: float) -> None:
        self._restore = None
        self._outcomes.keep(restore.asked.restore_id, outcome)
        if self._facts.is_loading:
            self._facts.is_loading = False
            for group in self._facts.groups.values():
                group.expect_until(now, self._facts.shape.lease)
        last: JsonDict = {
            "tag": restore.asked.tag,
            "seconds": round(now - restore.began, 3),
            "epoch": self._facts.epoch,
            "other_copies": restore.other_copies,
            "error": outcome if isinstance(outcome, str) else "",
        }
        self._last = (last, now)


def _with_all_groups(tables: list[CutTable], groups: list[CutGroup]) -> list[CutGroup]:
    """Return the groups, and those that tables are of.

    Raises
    ------
    CheckpointError
        A table's rounds are not those of its group.
    """
    by_name = {group.name: group for group in groups}
    for table in tables:
        name = table.definition.group
        if name is None:
            raise CheckpointError(f"table {table.definition.name!r} of the checkpoint has no group")
        is_bsp = isinstance(consistency_of(table.definition.consistency), BSP)
        if is_bsp != (table.round is not None):
            raise CheckpointError(
                f"table {table.definition.name!r} of the checkpoint has round {table.round} under "
                f"{table.definition.consistency}"
            )
        group = by_name.setdefault(name, CutGroup(name, table.round or 0, 0, 0, ()))
        if is_bsp and table.round != group.clock:
            raise CheckpointError(
                f"table {table.definition.name!r} of the checkpoint is of round {table.round}, its "
                f"group {name!r} of {group.clock}"
            )
    return list(by_name.values())


def _check_same(facts: Facts, asked: m.Restore, tables: list[CutTable]) -> None:
    """Raise `TableMismatchError` when `asked` is strict and the job has other tables."""
    if not asked.strict or facts.broken:
        return
    for table in tables:
        facts.tables.find(dataclasses.replace(table.definition, num_shards=None, replication=None))


def _other_copies(
    facts: Facts, asked: m.Restore, definitions: list[m.TableDefinition]
) -> dict[str, int]:
    """Return the tables with other copies than were saved, or fewer than the job asks for."""
    saved = {each["definition"]["name"]: each["definition"]["replication"] for each in asked.tables}
    copies: dict[str, int] = {}
    for each in definitions:
        assert each.replication is not None
        if each.name in saved and (
            each.replication != saved[each.name] or each.replication < facts.shape.replication
        ):
            copies[each.name] = each.replication
    return copies


def _fitted(facts: Facts, tables: list[CutTable], n_servers: int) -> list[CutTable]:
    """Return the tables with the copies that were saved or that the job asks for, all else checked.

    They get the higher of both numbers, but no more than the job has servers.

    Raises
    ------
    ConfigError, ValueRangeError, CheckpointError
        The job cannot have these tables.
    """
    shape = facts.shape
    most = 1 if shape.embedded else max(facts.servers.wanted, n_servers)
    if shape.min_copies > most:
        raise CheckpointError(
            f"the job has {most} servers and min_copies={shape.min_copies}: its tables would never "
            f"take a push; start it with --servers {shape.min_copies}"
        )
    n_shards = sum(table.definition.num_shards or 1 for table in tables)
    if len(tables) > TABLES_MAX or n_shards > SHARDS_MAX:
        raise CheckpointError(
            f"the checkpoint has {len(tables)} tables of {n_shards} shards; a job may have "
            f"{TABLES_MAX} of {SHARDS_MAX}"
        )
    fitted = []
    backups: dict[str, object] = {}
    for table in tables:
        group = table.definition.group
        assert group is not None
        definition = complete(table.definition, n_servers, group, shape.replication)
        assert definition.replication is not None
        copies = min(max(definition.replication, shape.replication, shape.min_copies), most)
        consistency = consistency_of(definition.consistency)
        if isinstance(consistency, BSP) and backups.setdefault(group, consistency) != consistency:
            raise CheckpointError(
                f"BSP tables of group {group!r} in the checkpoint have different backup workers"
            )
        definition = dataclasses.replace(definition, replication=copies)
        fitted.append(CutTable(definition, table.round))
    return fitted
