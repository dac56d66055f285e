"""All exceptions of fastps.

::

    FastPSError
    |-- ConfigError            a setting is wrong, or a feature is not there
    |-- TableNotFoundError     no table of that name
    |-- TableMismatchError     the table exists with other settings
    |-- KeyTypeError           keys are not integers (TypeError)
    |-- DTypeError             values are of a dtype that cannot be used (TypeError)
    |-- ShapeError             an array has the wrong shape (ValueError)
    |-- ValueRangeError        NaN, Inf, or a number outside its range (ValueError)
    |-- FastPSTimeoutError     a call did not end by its deadline (TimeoutError)
    |   `-- StalePullError     a consistency gate did not open
    |-- ServerLostError        every copy of a shard is lost
    |-- SessionEndedError      the scheduler ended this client's session
    |-- EpochChangedError      the job was restored from a checkpoint
    |-- ClosedError            the client was closed
    |-- AuthenticationError    a peer's key is not accepted
    |-- CheckpointError        a checkpoint is missing, damaged or does not fit
    `-- WireError              bytes from outside are not a fastps message
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AuthenticationError",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "DTypeError",
    "EpochChangedError",
    "FastPSError",
    "FastPSTimeoutError",
    "KeyTypeError",
    "ServerLostError",
    "SessionEndedError",
    "ShapeError",
    "StalePullError",
    "TableMismatchError",
    "TableNotFoundError",
    "ValueRangeError",
    "WireError",
]


class FastPSError(Exception):
    """Base of every error that fastps raises."""


class ConfigError(FastPSError):
    """A setting is wrong, something needed is not installed, or a feature is not there."""


class TableNotFoundError(FastPSError):
    """No table of that name exists."""


class TableMismatchError(FastPSError):
    """The table exists, with settings other than those given."""


class KeyTypeError(FastPSError, TypeError):
    """Keys are not non-negative integers."""


class DTypeError(FastPSError, TypeError):
    """Values are of a dtype that cannot become float32."""


class ShapeError(FastPSError, ValueError):
    """An array does not have the shape that the table and the keys ask for."""


class ValueRangeError(FastPSError, ValueError):
    """A value is NaN or infinite, or a row number is out of range."""


class FastPSTimeoutError(FastPSError, TimeoutError):
    """A call did not end by its deadline. What it sent may still take effect; see flush()."""


class StalePullError(FastPSTimeoutError):
    """A consistency gate did not open by its deadline."""


class ServerLostError(FastPSError):
    """Every copy of some shards is lost.

    Attributes
    ----------
    servers : tuple of int
        The servers that held the last copies.
    table : str
        The table asked for; empty when the call was about no single table.
    shards : tuple of int
        The shards of the call that are lost, sorted.
    """

    def __init__(
        self,
        message: str,
        servers: Sequence[int] = (),
        table: str = "",
        shards: Sequence[int] = (),
    ) -> None:
        super().__init__(message)
        self.servers = tuple(servers)
        self.table = table
        self.shards = tuple(shards)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.servers, self.table, self.shards)


class SessionEndedError(FastPSError):
    """The scheduler ended this client's session; connect again to go on."""


class EpochChangedError(FastPSError):
    """The job was restored from a checkpoint; the client goes on from that with its next call."""


class ClosedError(FastPSError):
    """The client was closed, or is used in a forked child."""


class AuthenticationError(FastPSError):
    """A peer's key is not accepted."""


class CheckpointError(FastPSError):
    """A checkpoint is missing, damaged, or does not fit.

    Attributes
    ----------
    again : bool
        Whether the same save, made anew, is likely to go through.
    """

    def __init__(self, message: str = "", *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class WireError(FastPSError):
    """Bytes from outside are not a fastps message of this version."""
