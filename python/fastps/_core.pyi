"""The typed face of the compiled core. Its contents come from cpp/binding/."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

KeyArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float32]

# binding/ops.cc
def load_libzmq(path: str) -> None: ...
def libzmq() -> tuple[str, tuple[int, int, int]] | None: ...
def kernel_sets() -> list[str]: ...
def active_kernels() -> str: ...
def force_kernels(name: str) -> None: ...
def limits() -> dict[str, int]: ...

# binding/maps.cc
class Heartbeat:
    @property
    def role(self) -> Literal["server", "worker"]: ...
    @property
    def id(self) -> int: ...
    @property
    def boot_id(self) -> bytes: ...
    @property
    def cluster_id(self) -> int: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def map_version(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def clock(self) -> int: ...
    @property
    def busy_us(self) -> int: ...
    @property
    def heard(self) -> int: ...

def encode_clocks(
    *,
    cluster_id: int,
    session: int,
    number: int,
    clock: int,
    minimum: int,
    rounds: int,
    map_version: int,
) -> bytes: ...
def encode_rounds(
    *,
    cluster_id: int,
    map_version: int,
    first_number: int,
    entries: Sequence[tuple[int, int, Sequence[tuple[int, int]]]],
) -> bytes: ...
def encode_cluster_map(
    *,
    cluster_id: int,
    epoch: int,
    incarnation: int,
    version: int,
    highest_session: int,
    sessions: Sequence[int],
    servers: Sequence[tuple[int, bytes, bool, list[str]]],
    tables: Sequence[dict[str, Any]],
) -> bytes: ...
def decode_heartbeat(frame: bytes) -> Heartbeat | None: ...

# binding/server.cc
class Server:
    def __init__(
        self, boot_id: bytes, bind: str = "tcp://127.0.0.1:*", data_threads: int = 1
    ) -> None: ...
    @property
    def endpoints(self) -> list[str]: ...
    def start(self, server_id: int, map_blob: bytes, scheduler: str, heard: int) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def stop(self) -> None: ...

class EmbeddedCluster:
    def __init__(self, boot_ids: Sequence[bytes]) -> None: ...
    def install_map(self, map_blob: bytes) -> None: ...
    def close_rounds(self, frame: bytes) -> None: ...

# binding/client.cc
class Ticket:
    def done(self) -> bool: ...
    def result(self, timeout: float) -> Any: ...

class KeySet:
    def __init__(self, keys: KeyArray, signature: bytes) -> None: ...

# `step` says which step a call belongs to, where the servers must know: the clock plus 1, else 0.
# An asynchronous call waits for `minimum` and `rounds` of the group before it starts.
class Client:
    def __init__(
        self, session: int, boot_id: bytes, clock: int, map_blob: bytes, scheduler: str
    ) -> None: ...
    @staticmethod
    def embedded(cluster: EmbeddedCluster, session: int, map_blob: bytes) -> Client: ...
    def install_map(self, map_blob: bytes) -> None: ...
    def install_clocks(
        self, session: int, number: int, clock: int, minimum: int, rounds: int
    ) -> None: ...
    def clocks(self) -> tuple[int, int, int]: ...
    def late_pushes(self) -> int: ...
    def end_step(self, clock: int, busy_us: int) -> None: ...
    def wait_for_gate(self, minimum: int, rounds: int, timeout: float) -> bool: ...
    def wait_for_clock(self, clock: int, timeout: float) -> bool: ...
    def pull(
        self, table: int, keys: KeyArray | KeySet, timeout: float, step: int = 0
    ) -> FloatArray: ...
    def push(
        self,
        table: int,
        keys: KeyArray | KeySet,
        values: FloatArray,
        timeout: float,
        step: int = 0,
    ) -> None: ...
    def assign(
        self, table: int, keys: KeyArray, values: FloatArray, timeout: float, step: int = 0
    ) -> None: ...
    def pull_async(
        self,
        table: int,
        keys: KeyArray | KeySet,
        timeout: float,
        step: int = 0,
        minimum: int = 0,
        rounds: int = 0,
    ) -> Ticket: ...
    def push_async(
        self,
        table: int,
        keys: KeyArray | KeySet,
        values: FloatArray,
        timeout: float,
        step: int = 0,
        minimum: int = 0,
        rounds: int = 0,
    ) -> Ticket: ...
    def dense_pull(
        self, table: int, rows: KeyArray | None, timeout: float, step: int = 0
    ) -> FloatArray: ...
    def dense_push(
        self,
        table: int,
        rows: KeyArray | None,
        values: FloatArray,
        timeout: float,
        step: int = 0,
    ) -> None: ...
    def dense_assign(
        self,
        table: int,
        rows: KeyArray | None,
        values: FloatArray,
        timeout: float,
        step: int = 0,
    ) -> None: ...
    def dense_pull_async(
        self,
        table: int,
        rows: KeyArray | None,
        timeout: float,
        step: int = 0,
        minimum: int = 0,
        rounds: int = 0,
    ) -> Ticket: ...
    def dense_push_async(
        self,
        table: int,
        rows: KeyArray | None,
        values: FloatArray,
        timeout: float,
        step: int = 0,
        minimum: int = 0,
        rounds: int = 0,
    ) -> Ticket: ...
    def contains(self, table: int, keys: KeyArray, timeout: float) -> npt.NDArray[np.bool_]: ...
    def remove(self, table: int, keys: KeyArray, timeout: float, step: int = 0) -> int: ...
    def set_lr(self, table: int, lr: float, timeout: float, step: int = 0) -> None: ...
    def stats(self, table: int, timeout: float) -> list[dict[str, int]]: ...
    def scan(
        self, table: int, shard: int, cursor: int, rows_max: int, timeout: float
    ) -> tuple[KeyArray, FloatArray, int | None]: ...
    def flush(self, timeout: float) -> None: ...
    def close(self) -> None: ...

# binding/hash.cc
def hash_strings(strings: list[str], seed: int) -> KeyArray: ...

# binding/libsvm.cc
def parse_libsvm(
    data: bytes | bytearray | memoryview,
    first_line: int = 1,
    skip_bad_lines: bool = False,
    require_labels: bool = True,
) -> tuple[
    FloatArray,
    npt.NDArray[np.int64],
    KeyArray,
    FloatArray,
    int,
    tuple[int, str] | None,
]: ...
def unique_inverse(keys: KeyArray) -> tuple[KeyArray, npt.NDArray[np.int32]]: ...
def hash_ids(ids: KeyArray, bits: int) -> KeyArray: ...

class CsrMatrix:
    def __init__(
        self,
        indptr: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int32],
        values: FloatArray,
        n_columns: int,
    ) -> None: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_columns(self) -> int: ...
    @property
    def n_entries(self) -> int: ...
    def take(self, rows: npt.NDArray[np.int64]) -> tuple[CsrMatrix, npt.NDArray[np.int32]]: ...
    def margins(self, weights: FloatArray) -> FloatArray: ...
    def gradient(self, residuals: FloatArray) -> FloatArray: ...
    def column_counts(self) -> FloatArray: ...
