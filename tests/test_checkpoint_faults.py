"""Saves that cannot be written: an error that says so, training goes on, the others stay."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastps
from disks import PAGE, NotPermitted, SmallDisk, folder_of_others
from fastps import errors
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import Store
from jobs import until
from local_cluster import LocalCluster
from s3_server import S3Server

pytestmark = pytest.mark.timeout(120, method="signal")

KEYS = np.random.default_rng(5).integers(0, 2**64, 4000, dtype=np.uint64)
SAVE_SECONDS = 30.0


class Training:
    """A cluster of two servers, and a worker of which one thread pushes all the time."""

    def __init__(self, client: fastps.Client) -> None:
        self.client = client
        self.table = client.sparse_table("t")
        self.table.push(KEYS, np.ones(KEYS.size))
        self.pushed = 1
        self.failed = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self._thread.start()

    def _push(self) -> None:
        try:
            while not self._stopped.wait(0.001):
                self.table.push(KEYS, np.ones(KEYS.size))
                self.pushed += 1
        except BaseException as error:
            self.failed = f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        assert not self.failed
        assert np.all(self.table.pull(KEYS) == self.pushed)

    def must_go_on(self) -> None:
        """Require that pushes are answered."""
        before = self.pushed
        until(lambda: self.pushed > before + 2 or self.failed, 10, "further pushes")
        assert not self.failed

    def save(self, uri: Any, **options: Any) -> int:
        """Save; return how many pushes a checkpoint must have that holds all before it."""
        before = self.pushed
        self.client.save(uri, timeout=SAVE_SECONDS, **options)
        self.must_go_on()
        return before

    def try_save(self, uri: Any) -> str:
        """Save; return why that failed, or nothing."""
        try:
            self.client.save(uri, timeout=SAVE_SECONDS)
        except errors.CheckpointError as error:
            return str(error)
        return ""

    def save_fails(self, uri: Any, message: str, **options: Any) -> None:
        self.must_go_on()
        with pytest.raises(errors.CheckpointError, match=message):
            self.client.save(uri, timeout=SAVE_SECONDS, **options)
        self.must_go_on()


@pytest.fixture
def training() -> Iterator[Training]:
    with LocalCluster(servers=2) as cluster, cluster.connect() as client:
        training = Training(client)
        try:
            yield training
        finally:
            training.stop()


def must_hold(uri: Any, tag: str, at_least: int) -> None:
    """Require a checkpoint of whole shards, with at least so many pushes."""
    Lineage.open(Store(uri), tag).verify()
    with fastps.connect(embedded=True, num_servers=3) as client:
        client.restore(uri, tag)
        table = client.table("t")
        assert len(table) == KEYS.size
        assert table.pull(KEYS).min() >= at_least


def files(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "ballast"
    }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(SmallDisk(tmp_path / "disk", 1 << 20))
        except NotPermitted as error:
            pytest.skip(str(error))


# Disks.


def test_a_disk_that_is_full_at_any_byte(training: Training, disk: SmallDisk) -> None:
    """The further it comes each time, up to the manifest; the last attempt has just enough."""
    at_least = training.save(disk.folder)
    before = files(disk.folder)
    needed = sum(map(len, before.values())) + 16 * PAGE
    n_failed = 0
    for free in range(0, needed, needed // 12):
        disk.leave_free(free)
        why = training.try_save(disk.folder)
        if not why:
            break
        n_failed += 1
        assert "no space is left" in why
        assert str(disk.folder / "00000002") in why
        training.must_go_on()
        if "MANIFEST" in why:  # whether it is there nobody knows who only sees the error
            assert set(before.items()) <= set(files(disk.folder).items())
        else:
            until(lambda: files(disk.folder) == before, 5, "the files of before, and no others")
        must_hold(disk.folder, "latest", at_least)
    assert n_failed >= 4
    disk.free_all()
    at_least = training.save(disk.folder, incremental=True)
    must_hold(disk.folder, "latest", at_least)


def test_a_full_disk_fails_an_async_save(training: Training, disk: SmallDisk) -> None:
    disk.leave_free(2 * PAGE)
    future = training.client.save_async(disk.folder)
    training.must_go_on()
    with pytest.raises(errors.CheckpointError, match="no space is left"):
        future.result(SAVE_SECONDS)
    disk.free_all()
    must_hold(disk.folder, "latest", training.save(disk.folder))


def test_a_disk_that_is_read_only(training: Training, disk: SmallDisk) -> None:
    at_least = training.save(disk.folder)
    with disk.read_only():
        training.save_fails(disk.folder, r"disk/00000002.*read-only")
        must_hold(disk.folder, "latest", at_least)
    must_hold(disk.folder, "latest", training.save(disk.folder))


def test_a_folder_of_somebody_else(training: Training, tmp_path: Path) -> None:
    with folder_of_others() as folder:
        training.save_fails(folder, rf"{folder}/00000001.*no permission")
    must_hold(tmp_path, "latest", training.save(tmp_path))


def test_what_the_other_server_still_writes_goes_as_well(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server fails at once; the other one hears of it when it has written its file."""
    folder = tmp_path / "c"
    training.save(folder)
    before = files(folder)
    write_file, is_second = Store.write_file, threading.Event()

    def fail_once(store: Store, name: str, data: bytes) -> None:
        if not is_second.is_set():
            is_second.set()
            raise errors.CheckpointError("no space is left")
        time.sleep(0.3)
        write_file(store, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_file", fail_once)
        training.save_fails(folder, "no space is left")
        time.sleep(0.4)
    until(lambda: files(folder) == before, 5, "the files of before, and no others")
    until(lambda: not (folder / "00000002").exists(), 5, "no folder of what was not saved")
    must_hold(folder, "latest", training.save(folder))


# S3.


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3-log") as server:
        # As a user sets it whose store is near: by default minutes go by before it gives up.
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        import s3fs

        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
        yield server


def test_a_job_saves_to_s3(training: Training, s3: S3Server) -> None:
    uri = f"{s3.uri}/c"
    counts = [training.save(uri), training.save(uri, incremental=True)]
    manifests = Lineage.open(Store(uri), "latest").manifests
    assert [each.tag for each in manifests] == ["00000001", "00000002"]
    for number, at_least in enumerate(counts, 1):
        must_hold(uri, f"{number:08d}", at_least)
    training.stop()
    with LocalCluster(servers=2) as cluster, cluster.connect() as client:
        assert client.restore(uri, timeout=SAVE_SECONDS) == "00000002"
        values = client.table("t").pull(KEYS)
        assert counts[1] <= values.min() <= values.max() <= training.pushed
        client.table("t").push(KEYS, np.ones(KEYS.size))
        client.save(uri, timeout=SAVE_SECONDS)
        assert Store(uri).list_tags() == ["00000001", "00000002", "00000003"]


def test_s3_goes_away_in_the_middle_of_a_save(
    training: Training, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3.uri}/c"
    training.save(uri)
    write_file, n_files = Store.write_file, 0

    def kill_and_write(store: Store, name: str, data: bytes) -> None:
        nonlocal n_files
        n_files += 1
        if n_files == 2:
            s3.kill()
        write_file(store, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_file", kill_and_write)
        training.save_fails(uri, r"cannot write s3://bucket/c/00000002/")
    training.save_fails(uri, r"cannot list s3://bucket/c")
    s3.start()
    must_hold(uri, "latest", training.save(uri))
