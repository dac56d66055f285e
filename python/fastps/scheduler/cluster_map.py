"""The scheduler's one door to the compiled core: maps to bytes, heartbeats from bytes."""

from __future__ import annotations

from typing import Any

from fastps import _core, initializers, optimizers
from fastps.scheduler.state import Beat, SchedulerState
from fastps.scheduler.tables import Table, elements_of

__all__ = ["HEARTBEAT_TAG", "MAP_TAG", "decode_heartbeat", "encode_map", "map_view"]

HEARTBEAT_TAG = b"FPH1"
MAP_TAG = b"FPM1"


def map_view(state: SchedulerState) -> dict[str, Any]:
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
            )
            for server in state.servers.all()
        ],
        "tables": [_table_view(table) for table in state.tables.all()],
    }


def encode_map(state: SchedulerState) -> bytes:
    """Return the cluster map as bytes that only the core reads."""
    return _core.encode_cluster_map(**map_view(state))


def decode_heartbeat(frame: bytes) -> Beat | None:
    """Return the heartbeat in a frame that begins with `HEARTBEAT_TAG`; None: it is not one."""
    return _core.decode_heartbeat(frame)


def _table_view(table: Table) -> dict[str, Any]:
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
        "placement": list(table.placement),
        "views": [1] * len(table.placement),
    }
