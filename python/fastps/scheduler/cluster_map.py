"""The scheduler's one door to the compiled core: frames for heartbeat peers, and heartbeats."""

from __future__ import annotations

from typing import Any

from fastps import _core, initializers, optimizers
from fastps.scheduler.actions import Beat, PublishClocks, PublishRounds, Report
from fastps.scheduler.facts import Facts
from fastps.scheduler.tables import Table, elements_of

__all__ = [
    "HEARTBEAT_TAG",
    "MAP_TAG",
    "REPORT_TAG",
    "decode_heartbeat",
    "decode_report",
    "encode_clocks",
    "encode_map",
    "encode_rounds",
    "map_view",
]

HEARTBEAT_TAG = b"FPH1"
MAP_TAG = b"FPM1"
REPORT_TAG = b"FPP1"


def map_view(state: Facts) -> dict[str, Any]:
    """Return the state as the keyword arguments of ``_core.encode_cluster_map``."""
    return {
        "cluster_id": state.cluster_id,
        "epoch": state.epoch,
        "incarnation": state.incarnation,
        "version": state.version,
        "highest_session": state.sessions.highest,
        "sessions": [session.session for session in state.sessions.all()],
        "servers": [
            (
                server.server_id,
                bytes.fromhex(server.boot_id),
                bool(server.lost),
                [*server.endpoints],
                [*server.chain_endpoints],
            )
            for server in state.servers.all()
        ],
        "tables": [_table_view(table, state.shape.min_copies) for table in state.tables.all()],
    }


def encode_map(state: Facts) -> bytes:
    """Return the cluster map as bytes that only the core reads."""
    return _core.encode_cluster_map(**map_view(state))


def encode_clocks(state: Facts, notice: PublishClocks) -> bytes:
    """Return a notice as the whole frame that a worker gets."""
    return _core.encode_clocks(
        cluster_id=state.cluster_id,
        session=notice.session,
        number=notice.number,
        clock=notice.clock,
        minimum=notice.minimum,
        rounds=notice.rounds,
        backup=notice.backup,
        map_version=state.version,
    )


def encode_rounds(state: Facts, rounds: PublishRounds) -> bytes:
    """Return closed rounds as the whole frame that servers get."""
    return _core.encode_rounds(
        cluster_id=state.cluster_id,
        map_version=state.version,
        first_number=rounds.first_number,
        forgotten=rounds.forgotten,
        entries=[(entry.group, entry.round, list(entry.members)) for entry in rounds.entries],
    )


def decode_heartbeat(frame: bytes) -> Beat | None:
    """Return the heartbeat in a frame that begins with `HEARTBEAT_TAG`; None: it is not one."""
    return _core.decode_heartbeat(frame)


def decode_report(frame: bytes) -> Report | None:
    """Return the report in a frame that begins with `REPORT_TAG`; None: it is not one."""
    report: Report | None = _core.decode_report(frame)
    return report


def _table_view(table: Table, min_copies: int) -> dict[str, Any]:
    definition = table.definition
    assert definition.shape is not None
    dense = definition.kind == "dense"
    return {
        "id": table.table_id,
        "name": definition.name,
        "kind": definition.kind,
        "row_width": elements_of(definition.shape[1:] if dense else definition.shape),
        "n_rows": (definition.shape or (1,))[0] if dense else 0,
        "rule": optimizers.from_json(definition.optimizer).spec(),
        "initializer": initializers.from_json(definition.initializer).spec(),
        "replication": definition.replication,
        "views": [
            (
                view.number,
                [*view.chain],
                view.sealed,
                len(view.chain) < min_copies,
                view.joiner,
            )
            for view in table.views
        ],
        "rounds": table.rounds,
    }
