"""A worker of ``fastps-bench checkpoint``: all push, rank 0 saves or restores, and measures.

``python -m fastps_bench.checkpoint_worker CASE.json`` under fastps-launch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fastps
from fastps.checkpoint.storage import Store
from fastps_bench.timing import Figure, percentile
from fastps_bench.worker import Notes

__all__ = ["main"]

WAIT_SECONDS = 600.0
FILL_KEYS = 65_536
CALM_SECONDS = 1.0  # at least, of pushes with no save under way
TOUCHED = 0.01
SAMPLE_KEYS = 1000
N_BATCHES = 64  # of keys, prepared
DISK_BLOCK = 8 << 20

KeyArray = npt.NDArray[np.uint64]


def main(path: Path) -> int:
    """Measure the case that the file describes; return the exit code."""
    case = json.loads(path.read_text())
    figures: dict[str, Any] = {}
    with fastps.connect(timeout=WAIT_SECONDS) as client:
        if case["what"] == "restore":
            figures = _restores(client, case)
        else:
            job = _Job(client, case)
            stop = path.with_name("stop")
            job.fill()
            client.barrier()
            if client.rank == 0:
                saves = job.saves_under_load()
                stop.touch()
            else:
                job.push_while(lambda: not stop.exists())
            np.save(path.with_name(f"pushes-{client.rank}.npy"), np.array(job.pushes))
            client.barrier()
            if client.rank == 0:
                ranks = range(client.num_workers)
                pushes = [np.load(path.with_name(f"pushes-{rank}.npy")) for rank in ranks]
                figures = {**saves.figures(pushes, case["batch"]), **job.quiet_saves()}
    if figures:
        Path(case["result"]).write_text(json.dumps(figures))
    return 0


class _Job:
    """A table under load.

    Attributes
    ----------
    pushes : list of (float, float)
        When each push of this worker began and ended, in seconds.
    """

    def __init__(self, client: fastps.Client, case: dict[str, Any]) -> None:
        self._client = client
        self._case = case
        self._note = Notes()
        self._folder = Path(case["folder"])
        self._store = Store(self._folder)
        self._table = _table_of(client, case)
        self._is_stepped = case["consistency"] == "BSP"
        self._random = np.random.default_rng(client.rank)
        self._gradients = np.full((FILL_KEYS, case["row_floats"]), 0.5, np.float32)
        self._batches = [
            self._random.integers(0, case["rows"], case["batch"], dtype=np.uint64)
            for _ in range(N_BATCHES)
        ]
        self._batch_gradients = np.full((case["batch"], case["row_floats"]), 0.5, np.float32)
        self.pushes: list[tuple[float, float]] = []

    def fill(self) -> None:
        """Push once to all rows that are this worker's to make."""
        rank, of = self._client.rank, self._client.num_workers
        n = self._case["rows"]
        self._push_all(np.arange(n * rank // of, n * (rank + 1) // of, dtype=np.uint64), "fill")

    def _push_all(self, keys: KeyArray, what: str) -> None:
        for begin in range(0, len(keys), FILL_KEYS):
            if self._client.rank == 0:
                self._note(what, begin, len(keys))
            some = keys[begin : begin + FILL_KEYS]
            self._table.push(some, self._gradients[: len(some)])
        if self._is_stepped:
            self._client.clock()

    def push_while(self, goes_on: Callable[[], bool]) -> None:
        """Push batches; under BSP each is a step."""
        while goes_on():
            keys = self._batches[len(self.pushes) % N_BATCHES]
            began = time.monotonic()
            self._table.push(keys, self._batch_gradients)
            if self._is_stepped:
                self._client.clock()
            self.pushes.append((began, time.monotonic()))

    def saves_under_load(self) -> _Saves:
        """Save again and again, and push meanwhile."""
        saves = _Saves()
        repeats = self._case["repeats"]
        calm = CALM_SECONDS
        for repeat in range(repeats):
            self._note("saves while workers push", repeat, repeats)
            began = time.monotonic()
            end = began + calm
            self.push_while(lambda end=end: time.monotonic() < end)  # type: ignore[misc]
            asked = time.monotonic()
            ended: list[float] = []
            future = self._client.save_async(self._folder)
            future.add_done_callback(lambda _, ended=ended: ended.append(time.monotonic()))  # type: ignore[misc]
            fixed = time.monotonic()
            self.push_while(lambda future=future: not future.done())  # type: ignore[misc]
            tag = future.result()
            saves.normal.append((began, asked))
            saves.saving.append((asked, ended[0]))
            saves.fixed_ms.append((fixed - asked) * 1e3)
            saves.n_bytes.append(self._store.read_manifest(tag).bytes)
            saves.disk.append(_written_in(self._folder, saves.n_bytes[-1]))
            self._store.remove(tag)
            calm = max(CALM_SECONDS, ended[0] - asked)
        return saves

    def quiet_saves(self) -> dict[str, Any]:
        """Save while nobody pushes, all rows and what changed; leave one checkpoint of all."""
        seconds, speeds, shares, incremental_seconds, incremental_shares = [], [], [], [], []
        case, repeats, n_bytes = self._case, self._case["repeats"], 0
        n_touched = max(1, round(case["rows"] * TOUCHED))
        for repeat in range(repeats):
            self._note("saves", repeat, repeats)
            began = time.monotonic()
            tag = self._client.save(self._folder)
            seconds.append(time.monotonic() - began)
            n_bytes = self._store.read_manifest(tag).bytes
            speeds.append(n_bytes / seconds[-1] / 1e6)
            shares.append(_written_in(self._folder, n_bytes) / seconds[-1])
            touched = self._random.choice(case["rows"], n_touched, replace=False)
            self._push_all(touched.astype(np.uint64), "touch rows")
            began = time.monotonic()
            increment = self._client.save(self._folder, incremental=True)
            incremental_seconds.append(time.monotonic() - began)
            incremental_shares.append(self._store.read_manifest(increment).bytes / n_bytes)
            self._store.remove(increment)
            self._store.remove(tag)
        sample = self._random.integers(0, case["rows"], SAMPLE_KEYS, dtype=np.uint64)
        np.savez(self._folder / "sample.npz", keys=sample, values=self._table.pull(sample))
        self._client.save(self._folder)
        return {
            "bytes": n_bytes,
            "save": _speed(seconds, speeds, shares),
            "increment": {
                "touched": n_touched / case["rows"],
                "s": asdict(Figure.of(incremental_seconds)),
                "bytes_share": max(incremental_shares),
            },
        }


class _Saves:
    """Saves during which workers pushed: when, and of how many bytes."""

    def __init__(self) -> None:
        self.normal: list[tuple[float, float]] = []
        self.saving: list[tuple[float, float]] = []
        self.fixed_ms: list[float] = []
        self.n_bytes: list[int] = []
        self.disk: list[float] = []  # seconds for as many bytes

    def figures(self, pushes: Sequence[npt.NDArray[np.float64]], batch: int) -> dict[str, Any]:
        """Return what pushes took; their lengths are of workers that do not save, if there are."""
        seconds = [end - begin for begin, end in self.saving]
        speeds = [n / s / 1e6 for n, s in zip(self.n_bytes, seconds, strict=True)]
        shares = [disk / s for disk, s in zip(self.disk, seconds, strict=True)]
        return {
            "normal": _of_pushes(self.normal, pushes, batch),
            "saving": _of_pushes(self.saving, pushes, batch),
            "fixed_ms": asdict(Figure.of(self.fixed_ms)),
            "save_under_load": _speed(seconds, speeds, shares),
        }


def _of_pushes(
    spans: Sequence[tuple[float, float]], pushes: Sequence[npt.NDArray[np.float64]], batch: int
) -> dict[str, Any]:
    found: dict[str, list[float]] = {"kkeys_s": [], "p50_ms": [], "p99_ms": [], "max_ms": []}
    for begin, end in spans:
        inside = [each[(each[:, 1] > begin) & (each[:, 0] < end)] for each in pushes]
        found["kkeys_s"].append(sum(map(len, inside)) * batch / (end - begin) / 1e3)
        lengths = np.concatenate([each[:, 1] - each[:, 0] for each in inside[1:] or inside]) * 1e3
        taken = lengths.tolist()
        found["p50_ms"].append(percentile(taken, 50))
        found["p99_ms"].append(percentile(taken, 99))
        found["max_ms"].append(max(taken))
    return {name: asdict(Figure.of(figures)) for name, figures in found.items()}


def _restores(client: fastps.Client, case: dict[str, Any]) -> dict[str, Any]:
    """Restore what the save case left, and check it."""
    folder, note = Path(case["folder"]), Notes()
    store = Store(folder)
    (tag,) = store.list_tags()
    n_bytes = store.read_manifest(tag).bytes
    seconds, speeds, shares = [], [], []
    for repeat in range(case["repeats"]):
        note("restores", repeat, case["repeats"])
        disk = _read_in(folder / tag)
        _forget(folder / tag)
        began = time.monotonic()
        client.restore(folder)
        seconds.append(time.monotonic() - began)
        speeds.append(n_bytes / seconds[-1] / 1e6)
        shares.append(disk / seconds[-1])
    table = _table_of(client, case)
    sample = np.load(folder / "sample.npz")
    if len(table) != case["rows"] or not np.array_equal(
        table.pull(sample["keys"]), sample["values"]
    ):
        raise SystemExit("what was restored is not what was saved")
    return {"restore": _speed(seconds, speeds, shares)}


def _table_of(client: fastps.Client, case: dict[str, Any]) -> fastps.SparseTable:
    return client.sparse_table(
        "rows",
        row_shape=(case["row_floats"],),
        optimizer=getattr(fastps.optimizers, case["optimizer"])(),
        consistency=getattr(fastps, case["consistency"])(),
    )


def _speed(
    seconds: Sequence[float], speeds: Sequence[float], shares: Sequence[float]
) -> dict[str, Any]:
    return {
        "s": asdict(Figure.of(seconds)),
        "mb_s": asdict(Figure.of(speeds)),
        "of_disk": asdict(Figure.of(shares)),
    }


# The disk's own.


def _written_in(folder: Path, n_bytes: int) -> float:
    """Return the seconds it takes to write a file of so many bytes, and fsync it."""
    block = memoryview(np.random.default_rng(0).bytes(DISK_BLOCK))
    path = folder / "disk.tmp"
    try:
        with path.open("wb", buffering=0) as file:
            began = time.monotonic()
            for at in range(0, n_bytes, DISK_BLOCK):
                file.write(block[: n_bytes - at])
            os.fsync(file.fileno())
            return time.monotonic() - began
    finally:
        path.unlink(missing_ok=True)


def _read_in(folder: Path) -> float:
    """Return the seconds it takes to read all files of a checkpoint, one after another."""
    _forget(folder)
    block = bytearray(DISK_BLOCK)
    began = time.monotonic()
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return time.monotonic() - began


def _forget(folder: Path) -> None:
    """Ask the system to forget the content of files."""
    for path in _files(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
