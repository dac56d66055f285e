"""The calls of a model client, in the parts that go to single shards."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.tables import TableSpec

__all__ = ["Operation", "Part"]


class Part:
    """What an operation asks of one shard. The same content goes under the same sequence."""

    __slots__ = (
        "abandoned", "done", "keys", "operation", "received", "sent_as", "sequence", "shard",
        "target", "values", "view",
    )  # fmt: skip

    def __init__(
        self,
        operation: Operation,
        shard: int,
        sequence: int,
        keys: Sequence[int],
        values: Sequence[float],
    ) -> None:
        self.operation = operation
        self.shard = shard
        self.sequence = sequence
        self.keys = keys
        self.values = values
        self.sent_as = 0  # request id of the transmission that counts; 0: it is to be sent
        self.target = -1  # the server that it was sent to, in this view
        self.view = 0
        self.done = False
        self.abandoned = False  # every copy is lost: nobody waits for it, but it stays queued
        self.received: tuple[float, ...] = ()


class Operation:
    """One call of a client."""

    __slots__ = ("clock", "kind", "parts", "session", "spec", "started")

    def __init__(self, kind: int, spec: TableSpec, session: int, clock: int, started: int) -> None:
        self.kind = kind
        self.spec = spec
        self.session = session
        self.clock = clock
        self.started = started
        self.parts: list[Part] = []

    @property
    def ended(self) -> bool:
        """Whether its caller has an answer."""
        return all(part.done or part.abandoned for part in self.parts)

    @property
    def lost(self) -> bool:
        """Whether that answer is that a shard is lost."""
        return any(part.abandoned and not part.done for part in self.parts)
