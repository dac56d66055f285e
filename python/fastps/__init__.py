"""fastps: a parameter server for large sparse machine learning. numpy in and out."""

from fastps import initializers, optimizers
from fastps._version import __version__
from fastps.client import Client
from fastps.connection import connect
from fastps.consistency import ASP, BSP, SSP
from fastps.errors import (
    AuthenticationError,
    CheckpointError,
    ClosedError,
    ConfigError,
    DTypeError,
    EpochChangedError,
    FastPSError,
    FastPSTimeoutError,
    KeyTypeError,
    ServerLostError,
    SessionEndedError,
    ShapeError,
    StalePullError,
    TableMismatchError,
    TableNotFoundError,
    ValueRangeError,
    WireError,
)
from fastps.futures import Future
from fastps.keys import KeySet, hash_ids, hash_keys
from fastps.tables import DenseTable, SparseTable

__all__ = [
    "ASP",
    "BSP",
    "SSP",
    "AuthenticationError",
    "CheckpointError",
    "Client",
    "ClosedError",
    "ConfigError",
    "DTypeError",
    "DenseTable",
    "EpochChangedError",
    "FastPSError",
    "FastPSTimeoutError",
    "Future",
    "KeySet",
    "KeyTypeError",
    "ServerLostError",
    "SessionEndedError",
    "ShapeError",
    "SparseTable",
    "StalePullError",
    "TableMismatchError",
    "TableNotFoundError",
    "ValueRangeError",
    "WireError",
    "__version__",
    "connect",
    "hash_ids",
    "hash_keys",
    "initializers",
    "optimizers",
]
