"""A journal without what later records make superfluous, so that replaying stays quick. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fastps.scheduler import records as r
from fastps.scheduler.passes import Passes

__all__ = ["condense"]

# What a restore leaves as it is.
OF_ALL_EPOCHS = (
    *(r.JobStarted, r.IncarnationStarted, r.ServerRegistered, r.ServerExited, r.ServersScaled),
    r.ServersForgotten,
    *(r.RoundClosed, r.RoundsForgotten),
)


def condense(journalled: Sequence[r.Record], forgotten: int) -> list[r.Record]:
    """Return fewer records that `replay` makes the same state of.

    Of each item of a pass the newest word stays, of a finished pass only that it is, of forgotten
    ones their numbers; of barriers,
    incarnations and the views of a shard the newest; of closed rounds those that somebody may still
    need. What was before a restore goes, but for servers and closed rounds.

    Parameters
    ----------
    journalled : sequence of Record
        All records of a job, oldest first.
    forgotten : int
        Entries of the round log up to this number are needed by nobody.
    """
    kept = _newest_only(
        _without_finished(_without_forgotten(_without_servers(_of_epoch(journalled))))
    )
    return _without_rounds(kept, forgotten)


def _of_epoch(journalled: Sequence[r.Record]) -> Sequence[r.Record]:
    """Leave out the sessions, groups and tables that a restore dropped."""
    begins = [n for n, record in enumerate(journalled) if isinstance(record, r.EpochStarted)]
    if not begins:
        return journalled
    before = [record for record in journalled[: begins[-1]] if isinstance(record, OF_ALL_EPOCHS)]
    return [*before, *journalled[begins[-1] :]]


def _without_servers(journalled: Sequence[r.Record]) -> Sequence[r.Record]:
    """Leave out forgotten servers, for which the newest record stands: others are numbered."""
    ends = [n for n, record in enumerate(journalled) if isinstance(record, r.ServersForgotten)]
    if not ends:
        return journalled
    came: dict[int, r.ServerRegistered] = {}
    exits: dict[int, r.ServerExited] = {}
    next_id = 0
    for record in journalled[: ends[-1] + 1]:
        if isinstance(record, r.ServerRegistered):
            number = next_id if record.server_id is None else record.server_id
            came[number] = dataclasses.replace(record, server_id=number)
            next_id = number + 1
        elif isinstance(record, r.ServerExited):
            for number in reversed(came):
                it = came[number]
                is_meant = it.boot_id == record.boot_id if record.boot_id else it.pid == record.pid
                if is_meant and number not in exits:
                    exits[number] = dataclasses.replace(record, boot_id=it.boot_id)
                    break
        elif isinstance(record, r.ServersForgotten):
            for number in record.servers:
                came.pop(number, None)
            next_id = record.next_id
    of_servers = (r.ServerRegistered, r.ServerExited, r.ServersForgotten)
    kept: list[r.Record] = []
    for n, record in enumerate(journalled):
        if n > ends[-1] or not isinstance(record, of_servers):
            kept.append(record)
        elif isinstance(record, r.ServerRegistered):
            known = [each for each in came.values() if each.boot_id == record.boot_id]
            kept += known[:1]
        elif n == ends[-1] and isinstance(record, r.ServersForgotten):
            kept += [exits[number] for number in came if number in exits]
            kept.append(dataclasses.replace(record, servers=()))
    return kept


def _without_forgotten(journalled: Sequence[r.Record]) -> list[r.Record]:
    """Leave out forgotten passes, for which one record of each group stands."""
    passes: dict[int, Passes] = {}
    for record in journalled:
        if isinstance(record, r.PassesForgotten):
            of_group = passes.setdefault(record.group, Passes())
            of_group.forget((first, last) for first, last in record.passes)
    kept: list[r.Record] = []
    told: set[int] = set()
    for record in journalled:
        if isinstance(record, r.PassesForgotten):
            if record.group not in told:
                told.add(record.group)
                forgotten = passes[record.group].forgotten
                kept.append(r.PassesForgotten(record.group, tuple(forgotten)))
        elif (
            not isinstance(record, (r.PassStarted, r.ChunkMoved))
            or record.group not in passes
            or not passes[record.group].is_forgotten(record.number)
        ):
            kept.append(record)
    return kept


def _without_finished(journalled: Sequence[r.Record]) -> list[r.Record]:
    """Leave out the items of passes that are done, with all that was pushed for them."""
    closed: dict[int, int] = {}
    for record in journalled:
        if isinstance(record, r.RoundClosed):
            closed[record.group] = record.round + 1
        elif isinstance(record, r.RoundsForgotten):
            closed.update((group, below) for group, below in record.rounds)
    n_done: dict[tuple[int, int], int] = {}
    for record in journalled:
        if isinstance(record, r.PassStarted):
            n_done[record.group, record.number] = sum(last - first for first, last in record.done)
        elif isinstance(record, r.ChunkMoved) and record.is_done:
            pass_ = (record.group, record.number)
            n_done[pass_] += record.needed <= closed.get(record.group, 0)
    finished = {
        (each.group, each.number)
        for each in journalled
        if isinstance(each, r.PassStarted)
        and n_done.get((each.group, each.number), 0) == each.n_items
    }
    kept: list[r.Record] = []
    for record in journalled:
        if isinstance(record, r.PassStarted) and (record.group, record.number) in finished:
            kept.append(
                r.PassStarted(
                    record.group, record.number, record.n_items, record.deterministic, True
                )
            )
        elif not isinstance(record, r.ChunkMoved) or (record.group, record.number) not in finished:
            kept.append(record)
    return kept


def _newest_only(journalled: Sequence[r.Record]) -> list[r.Record]:
    """Leave out what a later record of the same thing replaces."""
    seen: set[object] = set()
    kept: list[r.Record] = []
    for journalled_record in reversed(journalled):
        record = journalled_record
        thing: object = None
        if isinstance(record, r.ChunkMoved):
            thing = (r.ChunkMoved, record.group, record.number, record.item)
        elif isinstance(record, r.BarrierPassed):
            thing = (r.BarrierPassed, record.group)
        elif isinstance(record, r.IncarnationStarted):
            thing = r.IncarnationStarted
        elif isinstance(record, r.ViewsChanged):
            views = [view for view in record.shards if (record.table_id, view[0]) not in seen]
            if not views:
                continue
            seen.update((record.table_id, view[0]) for view in views)
            record = r.ViewsChanged(record.table_id, tuple(views))
        if thing is None or thing not in seen:
            kept.append(record)
        seen.add(thing)
    return kept[::-1]


def _without_rounds(journalled: Sequence[r.Record], forgotten: int) -> list[r.Record]:
    """Let one record stand for the closed rounds that are not needed."""
    number = 0
    rounds: dict[int, int] = {}
    kept: list[r.Record] = []
    last = -1  # where in `kept` the one record stands
    for record in journalled:
        if isinstance(record, r.RoundsForgotten):
            number = record.newest
            rounds.update((group, below) for group, below in record.rounds)
        elif isinstance(record, r.RoundClosed) and number < forgotten:
            number += 1
            rounds[record.group] = record.round + 1
        else:
            kept.append(record)
            continue
        if last >= 0:
            del kept[last]
        last = len(kept)
        kept.append(r.RoundsForgotten(number, tuple(sorted(rounds.items()))))
    return kept
