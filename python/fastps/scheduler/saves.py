"""Checkpoints as the scheduler makes them: one at a time, through orders to servers.

Who asks while another save is under way waits for its turn, in order of arrival.

1. *waiting*: until the rounds below the caller's clock are closed, no shard is sealed and every
   server that answers for some shard is ready for an order. Then the closing of rounds is held, and
   clocks, barriers and chunk queues are noted: what they count was pushed before any shard is cut.
2. *cutting*: each server cuts the shards that it is the tail of, in the views of the map and BSP
   tables at the round of their group. Once all have, the hold is over and what the save holds is
   fixed: `CutFixed`.
3. *writing*: servers write their files: `Saved`. The caller's manifest makes it a checkpoint.

Whatever fails ends the save: the hold is over, orders are withdrawn, servers drop their cuts, and
those who ask get a CheckpointError. Earlier checkpoints are not touched. A save is not journalled:
it does not outlive the scheduler.

Pure: `now` is an argument. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastps.errors import CheckpointError
from fastps.scheduler import messages as m
from fastps.scheduler import wire
from fastps.scheduler.actions import Action, Reply, Ticket, refusal
from fastps.scheduler.clocks import GroupClocks
from fastps.scheduler.cuts import cut_of
from fastps.scheduler.facts import Facts
from fastps.scheduler.group import Group
from fastps.scheduler.orders import Answered, Orders
from fastps.scheduler.outcomes import Outcomes, check_id, check_place
from fastps.scheduler.tables import Table
from fastps.scheduler.wire import JsonDict
from fastps.scheduler.workers import Workers

__all__ = ["HOLD_SECONDS_MAX", "READY_SECONDS_MAX", "Saves"]

# No round closes while shards are being cut, so workers may wait for that. A cut takes a server
# some milliseconds; one that takes longer than this does not come.
HOLD_SECONDS_MAX = 10.0
# Seals of moves last at most 1 s, failovers some seconds, and a server that writes for a save that
# has failed stops within some seconds.
READY_SECONDS_MAX = 30.0
# Saves that wait for the one under way: a bound on what strangers can make the scheduler hold.
QUEUED_MAX = 64

ShardKey = tuple[int, int]  # table, shard
WAITING, CUTTING, WRITING = "waiting", "cutting", "writing"


@dataclass
class Save:
    """The save that is under way, or one that waits for its turn.

    Attributes
    ----------
    group : Group, optional
        The caller's, whose rounds below its clock are in; None: the launcher's save, which waits
        for no round.
    since : float
        When its phase began, in `WAITING` when all rounds were there: inf until then.
    held : list of GroupClocks
        Those that close no round for it.
    views : dict of int to dict of ShardKey to (view, round or None)
        What each server is to cut.
    tables : dict of int to JsonDict
        What is known of each table, as `Saved` has it.
    unanswered : set of int
        Servers that have not carried out the order of this phase.
    looked_at : (int, int), optional
        The map, and the changes of orders, for which the cut was found to have to wait.
    checked : int
        The map in which all shards still had the views that are being cut.
    written : int
        Bytes of files that are done.
    """

    asked: m.BeginSave
    group: Group | None
    began: float
    phase: str = WAITING
    since: float = math.inf
    begin: Ticket | None = None
    awaiting: Ticket | None = None
    held: list[GroupClocks] = field(default_factory=list)
    views: dict[int, dict[ShardKey, tuple[int, int | None]]] = field(default_factory=dict)
    tables: dict[int, JsonDict] = field(default_factory=dict)
    groups: tuple[JsonDict, ...] = ()
    unanswered: set[int] = field(default_factory=set)
    looked_at: tuple[int, int] | None = None
    checked: int = 0
    written: int = 0
    fixed: m.CutFixed | None = None


class Saves:
    """The save under way, if there is one, and how the last ones went.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts.
    orders : Orders
        To servers.
    workers : Workers
        Takes in the clock that a caller says.

    Attributes
    ----------
    last : JsonDict, optional
        The newest that is over, as status has it.
    """

    def __init__(self, facts: Facts, orders: Orders, workers: Workers) -> None:
        self._facts = facts
        self._orders = orders
        self._workers = workers
        self._save: Save | None = None
        self._queued: OrderedDict[str, Save] = OrderedDict()  # by id: they wait for their turn
        self._outcomes = Outcomes()
        self._last: tuple[JsonDict, float] | None = None

    # Requests.

    def begin(self, ticket: Ticket, asked: m.BeginSave, now: float) -> list[Action]:
        """Begin a save, unless this request already did; answered once its cut is fixed."""
        if asked.save_id in self._outcomes:
            return self._outcomes.answer(asked.save_id, ticket, 0)
        save = self._find(asked.save_id)
        if save is not None:
            if save.fixed is not None:
                return [Reply(*ticket, save.fixed, with_map=True)]
            save.begin = ticket
            return []
        self._check(asked)
        group = None
        if asked.session:
            session = self._facts.live_session(asked.session)
            group = self._workers.group_at(session, asked.clock)
        # `settle` lets it begin when no other is under way.
        self._queued[asked.save_id] = Save(asked, group, now, begin=ticket)
        return []

    def __contains__(self, save_id: str) -> bool:
        """Whether that save is known: what is asked of it begins none."""
        return save_id in self._outcomes or self._find(save_id) is not None

    def _find(self, save_id: str) -> Save | None:
        if self._save is not None and self._save.asked.save_id == save_id:
            return self._save
        return self._queued.get(save_id)

    def await_(self, ticket: Ticket, asked: m.AwaitSave, now: float) -> list[Action]:
        """Answer once all files of a save are written."""
        save = self._find(asked.save_id)
        if save is not None:
            save.awaiting = ticket
            return []
        if asked.save_id in self._outcomes:
            return self._outcomes.answer(asked.save_id, ticket, 1)
        raise CheckpointError(
            f"there is no save {asked.save_id!r:.50}: it never began, or the scheduler was "
            "restarted since, which ends a save; save again",
            again=True,
        )

    def abort(self, ticket: Ticket, asked: m.AbortSave, now: float) -> list[Action]:
        """End a save that nobody wants."""
        check_id("save_id", asked.save_id)
        actions: list[Action] = [Reply(*ticket, m.Done())]
        save = self._find(asked.save_id)
        if save is not None:
            actions += self._fail(save, "it was aborted by its caller", now)
        elif asked.save_id not in self._outcomes:
            # Its BeginSave may be on its way.
            self._outcomes.keep(asked.save_id, "the save was aborted by its caller")
        return actions

    def _check(self, asked: m.BeginSave) -> None:
        check_id("save_id", asked.save_id)
        if asked.parent_id:
            check_id("parent_id", asked.parent_id)
        check_place(asked.uri, asked.tag, asked.attempt)
        if self._facts.broken:
            raise CheckpointError(
                f"nothing can be saved: the job's tables were lost by a restore that failed: "
                f"{self._facts.broken}; restore again"
            )
        if len(self._queued) >= QUEUED_MAX:
            raise CheckpointError(
                f"{QUEUED_MAX} saves wait for their turn, the most there may be: one is made at a "
                "time; try later"
            )

    # What servers say, and what time does.

    def answered(self, answered: Answered, now: float) -> list[Action]:
        """Take what came of an order."""
        save, order = self._save, answered.order
        if save is None or order.purpose != save.asked.save_id or order.kind == "drop":
            return []
        if answered.error:
            why = f"server {order.server_id} could not {order.kind}: {answered.error}"
            # A cut: most likely a chain changed before the order came there.
            again = order.kind == "cut"
            if again and m.SAVE_AGAIN not in why:
                why += f", {m.SAVE_AGAIN}"
            return self._fail(save, why, now, again)
        try:
            if order.kind == "cut":
                self._take_cut(save, order.server_id, answered.result)
            else:
                self._take_parts(save, answered.result)
        except (KeyError, TypeError, ValueError) as error:
            return self._fail(
                save,
                f"server {order.server_id} answered the order {order.kind!r} with what cannot be "
                f"read ({type(error).__name__}: {error}): run one version of fastps in all "
                "processes of a job",
                now,
            )
        save.unanswered.discard(order.server_id)
        return []

    def tick(self) -> None:
        """Let `settle` look at everything again: silences are no event."""
        if self._save is not None:
            self._save.looked_at = None

    def settle(self, now: float, may_begin: bool, may_cut: bool) -> list[Action]:
        """Go on as far as what is known allows. To be called at the end of each step.

        Parameters
        ----------
        may_begin : bool
            Whether the next save may have its turn: no restore waits for servers.
        may_cut : bool
            Whether servers may be given orders: no restore has them.
        """
        actions: list[Action] = []
        for save in [*([self._save] if self._save is not None else []), *self._queued.values()]:
            if save.asked.session and self._facts.sessions.find(save.asked.session) is None:
                actions += self._fail(save, "the session of its caller ended", now)
        # Each turn that is over lets the next one begin.
        while True:
            if self._save is None and self._queued and may_begin:
                _, self._save = self._queued.popitem(last=False)
                self._save.began = now
            if self._save is None:
                return actions
            save = self._save
            try:
                actions += self._go_on(save, may_cut, now)
            except CheckpointError as error:
                actions += self._fail(save, str(error), now, error.again)
            if self._save is save:
                return actions

    def _go_on(self, save: Save, may_cut: bool, now: float) -> list[Action]:
        if save.phase == WAITING and not may_cut:
            save.since, save.looked_at = math.inf, None
        elif save.phase == WAITING:
            self._begin_cut(save, now)
        if save.phase == CUTTING:
            return self._fix(save, now)
        if save.phase == WRITING and not save.unanswered:
            return self._finish(save, now)
        return []

    @property
    def wants_rest(self) -> bool:
        """Whether shards are about to be cut, so that none is to be moved now."""
        save = self._save
        return save is not None and save.phase != WRITING and save.since < math.inf

    @property
    def has_orders(self) -> bool:
        """Whether servers are at work on a save."""
        return self._save is not None and self._save.phase != WAITING

    def end(self, why: str, now: float) -> list[Action]:
        """Let the save that is under way fail, and all that wait for their turn."""
        saves = [*([self._save] if self._save is not None else []), *self._queued.values()]
        return [action for save in saves for action in self._fail(save, why, now)]

    def restart_suspicion(self, now: float) -> None:
        """Start waits anew: the scheduler itself had been away."""
        if self._save is not None and self._save.since < math.inf:
            self._save.since = now

    def status(self, now: float) -> tuple[JsonDict | None, JsonDict | None]:
        """Return what is under way, and how the newest save that is over went."""
        saving = last = None
        if self._save is not None:
            save, orders = self._save, self._orders.of(self._save.asked.save_id)
            saving = {
                "tag": save.asked.tag,
                "save_id": save.asked.save_id,
                "phase": save.phase,
                "seconds": round(now - save.began, 3),
                "queued": len(self._queued),
                "bytes": save.written + sum(order.done_bytes for order in orders),
                "total_bytes": save.written + sum(order.total_bytes for order in orders) or None,
            }
        if self._last is not None:
            last = {**self._last[0], "ended_s_ago": round(now - self._last[1], 3)}
        return saving, last

    # Phases.

    def _begin_cut(self, save: Save, now: float) -> None:
        """Hold rounds, note where everybody is, and order the cuts, if all is ready for that."""
        facts = self._facts
        if any(group.clocks.is_frozen for group in facts.groups.values()):
            return  # a new scheduler does not know yet how far workers are
        if not self._has_rounds(save, now):
            return
        save.since = min(save.since, now)
        looked_at = (facts.version, self._orders.n_changes)
        if save.looked_at == looked_at:
            return
        missing = self._not_ready()
        if missing:
            save.looked_at = looked_at
            if now - save.since > READY_SECONDS_MAX:
                raise CheckpointError(f"{missing}, for {READY_SECONDS_MAX:g} s; try later")
            return
        save.phase, save.since = CUTTING, now
        for each in facts.groups.values():
            if each.clocks.keeps_rounds:
                each.clocks.hold()
                save.held.append(each.clocks)
        save.groups = tuple(wire.to_json(cut_of(*each)) for each in facts.groups.items())
        for table in facts.tables.all():
            if table.table_id not in facts.tables.unfilled:  # as if it were not made yet
                self._note_table(save, table)
        for server_id, shards in save.views.items():
            body: JsonDict = {
                "cut_id": save.asked.save_id,
                "parent_id": save.asked.parent_id,
                "shards": [[*key, *view] for key, view in shards.items()],
            }
            self._orders.give(server_id, "cut", body, save.asked.save_id, now)
        save.unanswered = set(save.views)

    def _has_rounds(self, save: Save, now: float) -> bool:
        """Whether the rounds below the caller's clock are closed, and no others.

        Raises
        ------
        CheckpointError
            Later ones are, too, or it takes too long.
        """
        if save.group is None or not save.group.clocks.keeps_rounds:
            return True
        rounds, clock = save.group.clocks.rounds, save.asked.clock
        if rounds > clock:
            # Backup workers close rounds without it, or another thread ended its steps.
            raise CheckpointError(
                f"its caller was at clock {clock}, and by now {rounds} rounds are closed: the cut "
                f"would hold later steps, too; {m.SAVE_AGAIN}",
                again=True,
            )
        if rounds < clock and now - save.began > self._facts.shape.patience:
            raise CheckpointError(
                f"not all workers ended step {clock - 1} within {self._facts.shape.patience:g} s: "
                f"{rounds} rounds are closed"
            )
        return rounds == clock

    def _not_ready(self) -> str:
        """Return what the cut must wait for.

        Raises
        ------
        CheckpointError
            A shard is lost.
        """
        facts = self._facts
        lost = {each.server_id for each in facts.servers.all() if each.lost}
        missing = ""
        tails: set[int] = set()
        for table in facts.tables.all():
            gone = [n for n, view in enumerate(table.views) if lost.issuperset(view.chain)]
            if gone:
                raise CheckpointError(
                    f"table {table.definition.name!r} cannot be saved: {len(gone)} of its shards "
                    f"are lost ({_few(gone)}); wait for their servers "
                    f"{_few(sorted({s for n in gone for s in table.views[n].chain}))}, or restore "
                    "an earlier checkpoint"
                )
            tails.update(view.chain[-1] for view in table.views)
            sealed = [n for n, view in enumerate(table.views) if view.sealed]
            if sealed:
                missing = f"shards {_few(sealed)} of table {table.definition.name!r} are changing"
        for server_id in sorted(tails):
            if facts.servers.is_suspect(server_id):
                missing = missing or f"server {server_id} is silent"
            elif not self._orders.is_ready(server_id):
                missing = missing or f"server {server_id} takes no orders"
        return missing

    def _note_table(self, save: Save, table: Table) -> None:
        round_ = None
        if table.rounds is not None:
            round_ = next(
                each.clocks.rounds
                for each in self._facts.groups.values()
                if each.number == table.rounds[0]
            )
        save.tables[table.table_id] = {
            "definition": wire.to_json(table.definition),
            "round": round_,
            "shards": [None] * len(table.views),
            "parts": [],
        }
        for shard, view in enumerate(table.views):
            of_tail = save.views.setdefault(view.chain[-1], {})
            of_tail[table.table_id, shard] = (view.number, round_)

    def _take_cut(self, save: Save, server_id: int, result: JsonDict) -> None:
        wanted = save.views[server_id]
        told: dict[ShardKey, int] = {}
        for table_id, shard, view, index, folded, rows, is_full, constants in result["shards"]:
            number, round_ = wanted[table_id, shard]
            if view != number or (round_ is not None and folded != round_):
                raise ValueError(
                    f"shard {shard} was cut in view {view} at round {folded}, asked for were "
                    f"{number} and {round_}"
                )
            told[table_id, shard] = view
            of_shard = [shard, view, index, folded, rows, is_full, list(constants)]
            save.tables[table_id]["shards"][shard] = of_shard
        if told.keys() != wanted.keys():
            raise ValueError(f"{len(told)} shards were cut, asked for were {len(wanted)}")

    def _fix(self, save: Save, now: float) -> list[Action]:
        """Let rounds close again once every shard is cut, and order the files."""
        if save.checked != self._facts.version:
            self._check_views(save)
        if save.unanswered:
            if now - save.since > HOLD_SECONDS_MAX:
                raise CheckpointError(
                    f"servers {_few(sorted(save.unanswered))} did not cut their shards within "
                    f"{HOLD_SECONDS_MAX:g} s, {m.SAVE_AGAIN}",
                    again=True,
                )
            return []
        self._release(save)
        save.phase, save.since = WRITING, now
        save.fixed = m.CutFixed(self._facts.epoch, self._facts.version)
        for server_id, shards in save.views.items():
            body: JsonDict = {
                "cut_id": save.asked.save_id,
                "uri": save.asked.uri,
                "tag": save.asked.tag,
                "attempt": save.asked.attempt,
                "server": server_id,
                "tables": {
                    str(table_id): save.tables[table_id]["definition"]
                    for table_id in sorted({table_id for table_id, _ in shards})
                },
            }
            self._orders.give(server_id, "write", body, save.asked.save_id, now)
        save.unanswered = set(save.views)
        ticket, save.begin = save.begin, None
        fixed: list[Action] = [Reply(*ticket, save.fixed, with_map=True)] if ticket else []
        return fixed if save.unanswered else [*fixed, *self._finish(save, now)]

    def _check_views(self, save: Save) -> None:
        for shards in save.views.values():
            for (table_id, shard), (number, _) in shards.items():
                table = self._facts.tables.by_id(table_id)
                if table is None or table.views[shard].number != number:
                    raise CheckpointError(
                        f"a chain changed during the save, {m.SAVE_AGAIN}", again=True
                    )
        save.checked = self._facts.version

    def _take_parts(self, save: Save, result: JsonDict) -> None:
        for table_id, part in result["parts"]:
            save.tables[table_id]["parts"].append(dict(part))
            save.written += int(part["bytes"])

    def _finish(self, save: Save, now: float) -> list[Action]:
        assert save.fixed is not None
        for table in save.tables.values():
            table["parts"].sort(key=lambda part: str(part.get("file")))
        saved = m.Saved(tuple(save.tables.values()), save.groups)
        self._over(save, (save.fixed, saved), now)
        actions: list[Action] = []
        if save.awaiting is not None:
            actions.append(Reply(*save.awaiting, saved, with_map=True))
        place = (save.asked.uri, save.asked.tag)
        for each in list(self._queued.values()):
            if (each.asked.uri, each.asked.tag) == place:
                why = f"another save took that tag meanwhile; {m.SAVE_AGAIN}"
                actions += self._fail(each, why, now, again=True)
        return actions

    def _fail(self, save: Save, why: str, now: float, again: bool = False) -> list[Action]:
        self._release(save)
        self._orders.withdraw(save.asked.save_id)
        for server_id in save.views:
            server = self._facts.servers.find(server_id)
            if server is not None and server.may_return:
                body: JsonDict = {"cut_id": save.asked.save_id}
                self._orders.give(server_id, "drop", body, save.asked.save_id, now)
        text = f"the save {save.asked.tag!r} failed: {why}. Earlier checkpoints are untouched"
        error = CheckpointError(text, again=again)
        self._over(save, error, now)
        tickets = [ticket for ticket in (save.begin, save.awaiting) if ticket is not None]
        return [refusal(ticket, error) for ticket in tickets]

    def _over(
        self, save: Save, outcome: tuple[m.Message, ...] | CheckpointError, now: float
    ) -> None:
        self._outcomes.keep(save.asked.save_id, outcome)
        if self._queued.pop(save.asked.save_id, None) is not None:
            return  # it had no turn
        self._save = None
        last: JsonDict = {
            "tag": save.asked.tag,
            "seconds": round(now - save.began, 3),
            "bytes": save.written,
            "error": str(outcome) if isinstance(outcome, CheckpointError) else "",
        }
        self._last = (last, now)

    def _release(self, save: Save) -> None:
        for clocks in save.held:
            clocks.release()
        save.held.clear()


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
