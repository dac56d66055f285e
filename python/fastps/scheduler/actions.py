"""What goes into the scheduler's state besides messages, and what comes out. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fastps.scheduler.messages import Message

__all__ = ["Action", "Beat", "JobShape", "PublishMap", "Reply", "Stop"]


@dataclass(frozen=True)
class JobShape:
    """What was launched.

    Attributes
    ----------
    num_servers : int
        Tables wait until so many servers came.
    groups : mapping of str to int
        Launched workers of each group.
    lease : float
        Seconds of silence that end a worker's session; ``math.inf``: never.
    patience : float
        Seconds to wait for launched processes that do not come (FASTPS_GATE_TIMEOUT).
    embedded : bool
        All in one process: servers have no endpoints.
    """

    num_servers: int
    groups: Mapping[str, int]
    lease: float = 10.0
    patience: float = 600.0
    embedded: bool = False


@dataclass(frozen=True)
class Reply:
    """Answer `request` of `peer`; with the current map when `with_map`."""

    peer: bytes
    request: int
    message: Message
    with_map: bool = False


@dataclass(frozen=True)
class PublishMap:
    """Send the current map to these peers."""

    peers: tuple[bytes, ...]


@dataclass(frozen=True)
class Stop:
    """The job is over."""


Action = Reply | PublishMap | Stop


class Beat(Protocol):
    """A heartbeat, as the core decodes it."""

    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def boot_id(self) -> bytes: ...  # noqa: D102
    @property
    def cluster_id(self) -> int: ...  # noqa: D102
    @property
    def map_version(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def requests(self) -> int: ...  # noqa: D102
