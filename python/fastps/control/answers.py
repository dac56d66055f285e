"""What every control does with the answer to a request. Any thread."""

from __future__ import annotations

import os
from typing import TypeVar, cast

from fastps import errors
from fastps.errors import (
    CheckpointError,
    ClosedError,
    FastPSError,
    ServerLostError,
    WireError,
)
from fastps.scheduler import messages as m

__all__ = ["WAIT_SLICE_SECONDS", "ReplyT", "asked", "check_open", "checked"]

ReplyT = TypeVar("ReplyT", bound=m.Message)

# Ctrl-C must interrupt any call within 0.5 s.
WAIT_SLICE_SECONDS = 0.1


def check_open(pid: int, closed: bool) -> None:
    """Raise `ClosedError` in a child of the process that made the control, or after its end."""
    if os.getpid() != pid:
        raise ClosedError(
            "this client was made before the process forked and cannot be used in the child: call "
            "fastps.connect() in the child, or start it with the spawn method"
        )
    if closed:
        raise ClosedError("the client was closed; call fastps.connect() for a new one")


def asked(message: m.Message) -> str:
    """Return what a request waits for, in words."""
    if isinstance(message, (m.CreateTable, m.LookupTable)):
        name = message.name if isinstance(message, m.LookupTable) else message.definition.name
        return f"{type(message).__name__} of table {name!r}"
    if isinstance(message, m.Barrier):
        return f"Barrier number {message.number}"
    if isinstance(message, m.NextChunk):
        return f"NextChunk of pass {message.pass_number}"
    if isinstance(message, m.Join) and message.rank is not None:
        return (
            f"Join as rank {message.rank} of group {message.group!r} (a rank whose worker died is "
            "free once its lease ended, 10 s unless --lease says otherwise)"
        )
    return type(message).__name__


def checked(message: m.Request[ReplyT], reply: m.Message) -> ReplyT:
    """Return the reply if it is of the class that the request names; raise what it refuses with."""
    if isinstance(reply, m.Error):
        raise _error(reply)
    if not isinstance(reply, message.reply):
        raise WireError(
            f"the scheduler answered {type(message).__name__} with {type(reply).__name__}, not "
            f"{message.reply.__name__}"
        )
    return cast(ReplyT, reply)


def _error(refusal: m.Error) -> FastPSError:
    kind = getattr(errors, refusal.kind, None) if refusal.kind in errors.__all__ else None
    if kind is None:
        return WireError(f"the scheduler refused with {refusal.kind!r:.50}: {refusal.message}")
    if kind is ServerLostError:
        return ServerLostError(refusal.message, refusal.servers, refusal.table, refusal.shards)
    if kind is CheckpointError:
        return CheckpointError(refusal.message, again=refusal.again)
    return cast(FastPSError, kind(refusal.message))
