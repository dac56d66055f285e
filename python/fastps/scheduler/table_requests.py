"""The part of the scheduler's state that answers requests for tables.

Pure: no thread, no socket, no clock. Not thread-safe; the scheduler's one thread uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastps.consistency import BSP
from fastps.errors import CheckpointError, ConfigError, FastPSError, ServerLostError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import Action, Reply, Ticket, refusal
from fastps.scheduler.facts import Facts
from fastps.scheduler.records import TableCreated, TableFilled, TableFilling
from fastps.scheduler.ring import place_chains
from fastps.scheduler.tables import Table, check_replication, complete, consistency_of

__all__ = ["SHARDS_MAX", "TableRequests"]

# The map has 10 to 22 bytes for each shard and must fit one frame of 64 MiB.
SHARDS_MAX = 1 << 21
PARKED_MAX = 64  # table requests of one session that wait


@dataclass(frozen=True)
class ParkedTable:
    """A CreateTable or LookupTable that waits until the servers are ready for its answer."""

    ticket: Ticket
    asked: m.CreateTable | m.LookupTable


class TableRequests:
    """Requests for tables, which wait until all servers came and know the table.

    Parameters
    ----------
    facts : Facts
        Shared with the other parts.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._parked: list[ParkedTable] = []

    def ask(self, ticket: Ticket, asked: m.CreateTable | m.LookupTable, now: float) -> list[Action]:
        """Take a request; `serve` answers it."""
        self._facts.live_session(asked.session)
        # A request sent again waits again, and its first answer finds nobody: forget the oldest.
        of_session = [each for each in self._parked if each.asked.session == asked.session]
        if len(of_session) >= PARKED_MAX:
            self._parked.remove(of_session[0])
        self._parked.append(ParkedTable(ticket, asked))
        return []

    def refuse_session(self, session: int, error: FastPSError) -> list[Action]:
        """Refuse what a session that ends waits for."""
        refused = [each for each in self._parked if each.asked.session == session]
        self._parked = [each for each in self._parked if each not in refused]
        return [refusal(each.ticket, error) for each in refused]

    def refuse_all(self, error: FastPSError) -> list[Action]:
        """Refuse whatever waits."""
        refused, self._parked = self._parked, []
        return [refusal(each.ticket, error) for each in refused]

    def serve(self) -> list[Action]:
        """Answer the requests that can be answered, in order of arrival."""
        actions: list[Action] = []
        for parked in list(self._parked):
            try:
                info = self._info(parked.asked)
            except FastPSError as error:
                answer = refusal(parked.ticket, error)
            else:
                if info is None:
                    continue
                answer = Reply(*parked.ticket, info, with_map=True)
            self._parked.remove(parked)
            actions.append(answer)
        return actions

    def _info(self, asked: m.CreateTable | m.LookupTable) -> m.TableInfo | None:
        """Return the answer; None while servers are still to come or to hear of the table."""
        if self._facts.broken:
            raise CheckpointError(
                f"the job's tables were lost by a restore that failed: {self._facts.broken}; "
                "restore again"
            )
        if isinstance(asked, m.LookupTable):
            table = self._facts.tables.lookup(asked.name)
        else:
            found = self._facts.tables.find(asked.definition)
            if found is None:
                found = self._make(asked)
                if found is not None and asked.fill:
                    self._let_fill(found, asked.session)
            if found is None:
                return None
            table = found
        if not self._may_have(table, asked):
            return None
        members = table.members()
        for server in self._facts.servers.alive():
            if server.server_id in members and server.map_version < table.map_version:
                return None
        is_filled = table.table_id not in self._facts.tables.unfilled
        return m.TableInfo(table.table_id, table.definition, not is_filled)

    def end_fill(self, ticket: Ticket, asked: m.EndFill, now: float) -> list[Action]:
        """Take the word that first values are written, or will not be by that session."""
        self._facts.live_session(asked.session)
        tables = self._facts.tables
        if tables.unfilled.get(asked.table_id) == asked.session:
            if asked.done:
                del tables.unfilled[asked.table_id]
                self._facts.record(TableFilled(asked.table_id))
            else:
                tables.unfilled[asked.table_id] = 0
                self._facts.record(TableFilling(asked.table_id, 0))
        return [Reply(*ticket, m.Done())]

    def _may_have(self, table: Table, asked: m.CreateTable | m.LookupTable) -> bool:
        """Whether the session has not to wait for first values.

        Those of a session that ended before it wrote all are written by the next that has some.
        """
        filler = self._facts.tables.unfilled.get(table.table_id)
        if filler is None or filler == asked.session:
            return True
        if isinstance(asked, m.LookupTable) or not asked.fill:
            return False
        if self._facts.sessions.find(filler) is not None:
            return False
        self._let_fill(table, asked.session)
        return True

    def _let_fill(self, table: Table, session: int) -> None:
        self._facts.tables.unfilled[table.table_id] = session
        self._facts.record(TableFilling(table.table_id, session))

    def _make(self, asked: m.CreateTable) -> Table | None:
        facts, wanted = self._facts, asked.definition
        group = facts.live_session(asked.session).group
        facts.tables.check_room()
        servers = facts.servers.fit() or [each.server_id for each in facts.servers.alive()]
        definition = complete(wanted, max(1, len(servers)), group, facts.shape.replication)
        check_replication(definition, facts.shape, max(facts.servers.wanted, len(servers)))
        facts.tables.check_backup(definition)
        if facts.servers.outstanding:
            return None
        if not servers:
            lost = [each.server_id for each in facts.servers.all()]
            raise ServerLostError(
                f"table {wanted.name!r} cannot be made: "
                + (f"all servers are lost ({lost})" if lost else "the job has no servers")
                + "; start one with: fastps server --scheduler ADDRESS",
                lost,
                wanted.name,
            )
        assert definition.num_shards is not None
        there = sum(len(table.views) for table in facts.tables.all())
        if there + definition.num_shards > SHARDS_MAX:
            raise ConfigError(
                f"table {wanted.name!r} has {definition.num_shards} shards; the job has {there} "
                f"and may have {SHARDS_MAX}: give a smaller num_shards"
            )
        assert definition.replication is not None
        return self.add(definition, servers, definition.replication)

    def add(self, definition: m.TableDefinition, servers: Sequence[int], copies: int) -> Table:
        """Make a table, each shard with so many copies on these servers to begin with.

        Requires: `definition` is complete and may be made.
        """
        facts = self._facts
        assert definition.num_shards is not None
        chains = place_chains(definition.name, definition.num_shards, servers, copies)
        facts.bump()
        rounds = self._first_round(definition)
        facts.record(
            TableCreated(definition, tuple(chains), facts.version, rounds[1] if rounds else None)
        )
        return facts.tables.add(definition, chains, facts.version, rounds)

    def _first_round(self, definition: m.TableDefinition) -> tuple[int, int] | None:
        """Return a BSP table's group number and first round, with its rounds kept from now on."""
        consistency = consistency_of(definition.consistency)
        if not isinstance(consistency, BSP):
            return None
        assert definition.group is not None
        group = self._facts.groups[definition.group]
        group.clocks.keep_rounds(consistency.backup)
        return group.number, group.clocks.rounds
