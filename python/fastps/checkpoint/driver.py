"""Saving and restoring, as who asks for it sees it: a client, or the launcher.

The scheduler lets the servers cut their shards and write them; who asked writes the manifest, last.
Until that is there nothing has been saved, and whatever fails leaves the checkpoints before as they
were.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from fastps._version import __version__
from fastps.checkpoint import retention
from fastps.checkpoint.manifest import (
    LATEST,
    Manifest,
    Parent,
    Part,
    SavedGroup,
    SavedShard,
    SavedTable,
)
from fastps.checkpoint.progress import Progress, make_progress
from fastps.checkpoint.reading import Lineage, newest
from fastps.checkpoint.storage import Store
from fastps.control import Control
from fastps.errors import CheckpointError, FastPSError, FastPSTimeoutError
from fastps.scheduler import messages as m
from fastps.scheduler import wire

__all__ = ["PendingSave", "Restored", "begin_save", "restore", "save"]

T = TypeVar("T")

logger = logging.getLogger("fastps")

# A question that waits at the scheduler is asked anew after so long.
ASK_SECONDS = 30.0
PROGRESS_SECONDS = 0.25
LAST_WORD_SECONDS = 2.0
# The scheduler fails a save by itself when nothing moves for a minute. So long is enough to know
# that it is gone itself, and that nobody starts another.
SILENCE_SECONDS = 60.0
# A chain of more increments is slow to read and keeps old files: the next save is a whole one.
INCREMENTS_MAX = 32
# A failover takes about a second.
ATTEMPTS = 4
AGAIN_SECONDS = 0.5


@dataclass
class PendingSave:
    """A save whose cut is fixed. `finish` waits until it is durable."""

    control: Control
    store: Store
    manifest: Manifest  # without what the servers wrote
    keep: int | None
    replace: bool = False

    @property
    def tag(self) -> str:
        """The name of the checkpoint."""
        return self.manifest.tag

    def finish(self, timeout: float | None = None, *, is_shown: bool = False) -> str:
        """Wait until the servers wrote their files, write the manifest, and return the tag.

        Parameters
        ----------
        timeout : float, optional
            Seconds. None: as long as something moves.
        is_shown : bool
            Whether to show a progress bar on a terminal.

        Raises
        ------
        CheckpointError, FastPSTimeoutError
            The message says why. Nothing was saved, unless the last file, the manifest, was being
            written when the store failed.
        """
        manifest, store = self.manifest, self.store
        try:
            with _shown(self.control, f"saving {manifest.tag}", is_shown):
                saved = _asked(self.control, m.AwaitSave(manifest.cut_id), timeout)
            manifest = _completed(manifest, saved)
            store.check_parts(manifest)
        except BaseException:
            with contextlib.suppress(FastPSError):
                self.control.call(m.AbortSave(manifest.cut_id), LAST_WORD_SECONDS)
            with contextlib.suppress(FastPSError):
                store.remove_attempt(manifest.tag, manifest.attempt)
            raise
        # From here on an error does not say whether the manifest is there, so no file is removed:
        # `retain` knows what is of no use.
        if self.replace:
            retention.check_replaceable(store, manifest.tag)  # others may have saved meanwhile
            store.replace_manifest(manifest)
        else:
            store.write_manifest(manifest)
        if manifest.parent is not None:
            try:
                Lineage.open(store, manifest.tag)
            except CheckpointError as error:
                store.remove(manifest.tag)
                raise CheckpointError(
                    f"another job or worker removed {manifest.parent.tag!r} while what changed "
                    f"since was being written ({error}): {m.SAVE_AGAIN}",
                    again=True,
                ) from error
        if self.keep is not None:
            try:
                retention.retain(self.store, self.keep)
            except CheckpointError as error:
                logger.warning("fastps: old checkpoints were not removed: %s", error)
        return manifest.tag


def save(
    control: Control,
    who: Callable[[], tuple[int, int]],
    uri: str,
    tag: str | None = None,
    incremental: bool = False,
    timeout: float | None = None,
    keep: int | None = None,
    *,
    replace: bool = False,
    is_shown: bool = False,
) -> str:
    """Write a checkpoint and return its tag.

    Parameters, Raises
    ------------------
    As for `begin_save` and `PendingSave.finish`; `timeout` is for all of it.
    """

    def save_once(left: float | None) -> str:
        began = time.monotonic()
        pending = _begin_save(control, who(), uri, tag, incremental, left, keep, replace)
        if left is not None:
            left = max(0.0, left - (time.monotonic() - began))
        return pending.finish(left, is_shown=is_shown)

    return _some_times(save_once, timeout)


def _some_times(attempt: Callable[[float | None], T], timeout: float | None) -> T:
    """Call `attempt` with the seconds that are left, again when it fails though nothing is wrong.

    So a save does when a chain changes meanwhile, as when a server dies.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    for n in itertools.count(1):
        left = None if timeout is None else max(0.0, deadline - time.monotonic())
        try:
            return attempt(left)
        except CheckpointError as error:
            pause = AGAIN_SECONDS * n
            if not error.again or n == ATTEMPTS or time.monotonic() + pause > deadline:
                raise
            logger.info("fastps: the save is made anew: %s", error)
            time.sleep(pause)
    raise AssertionError


def begin_save(
    control: Control,
    who: Callable[[], tuple[int, int]],
    uri: str,
    tag: str | None = None,
    incremental: bool = False,
    timeout: float | None = None,
    keep: int | None = None,
    *,
    replace: bool = False,
) -> PendingSave:
    """Fix the cut of a new checkpoint. Saves that others asked for before come first.

    Parameters
    ----------
    control : Control
        The way to the scheduler.
    who : callable () -> (int, int)
        The session and the clock, at that moment, of who asks; (0, 0): the launcher.
    uri : str
        The folder of checkpoints: a path, or any URL that fsspec knows.
    tag : str, optional
        The checkpoint's name; None: its number, with eight digits.
    incremental : bool
        Write only what changed since the newest checkpoint there, if there is one.
    timeout : float, optional
        Seconds until the cut must be fixed.
    keep : int, optional
        After the save, remove all but so many checkpoints and what they need.
    replace : bool
        Let it take the place of a checkpoint of that tag when it is finished.

    Raises
    ------
    CheckpointError
        The tag exists, or a server cannot cut.
    """
    return _some_times(
        lambda left: _begin_save(control, who(), uri, tag, incremental, left, keep, replace),
        timeout,
    )


def _begin_save(
    control: Control,
    worker: tuple[int, int],
    uri: str,
    tag: str | None,
    incremental: bool,
    timeout: float | None,
    keep: int | None,
    replace: bool,
) -> PendingSave:
    store = Store(uri)
    # The parent's number is taken when ours is chosen. What goes cannot be built on.
    parent = _parent(store, tag if replace else None) if incremental else None
    number, tag = retention.new_place(store, tag, replace)
    cut_id, attempt = secrets.token_hex(16), secrets.token_hex(8)
    session, clock = worker
    parent_id = "" if parent is None else parent.cut_id
    asked = m.BeginSave(session, cut_id, store.uri, tag, attempt, parent_id, clock)
    try:
        fixed = _asked(control, asked, timeout)
    except BaseException:
        with contextlib.suppress(FastPSError):
            control.call(m.AbortSave(cut_id), LAST_WORD_SECONDS)
        raise
    manifest = Manifest(
        number=number,
        tag=tag,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        attempt=attempt,
        cut_id=cut_id,
        parent=parent,
        epoch=fixed.epoch,
        map_version=fixed.map_version,
        tables=(),
        groups=(),
    )
    return PendingSave(control, store, manifest, keep, replace)


@dataclass(frozen=True)
class Restored:
    """What a restore brought: which checkpoint, and the job's epoch since then."""

    manifest: Manifest
    epoch: int


def restore(
    control: Control,
    session: int,
    uri: str,
    tag: str = LATEST,
    *,
    strict: bool = True,
    timeout: float | None = None,
    is_shown: bool = False,
) -> Restored:
    """Bring the whole job to what a checkpoint holds.

    Parameters
    ----------
    control, uri, timeout, is_shown
        As for `begin_save` and `PendingSave.finish`.
    session : int
        Of the worker that asks; 0: nobody's.
    tag : str
        Which; ``latest``: that with the highest number.
    strict : bool
        Refuse when a table of the job has other settings than the checkpoint's of that name. False:
        the checkpoint's are taken.

    Raises
    ------
    CheckpointError
        It is missing, damaged, or of an unknown version; nothing was changed unless the message
        says so.
    TableMismatchError
        A table exists with other settings; the message names them.
    """
    store = Store(uri)
    lineage = Lineage.open(store, tag)
    tag = lineage.newest.tag
    asked = m.Restore(
        session,
        secrets.token_hex(16),
        store.uri,
        tag,
        strict,
        tuple(
            {"definition": wire.to_json(table.definition), "round": table.round}
            for table in lineage.tables().values()
        ),
        tuple(wire.to_json(group) for group in lineage.newest.groups),
    )
    with _shown(control, f"restoring {tag}", is_shown):
        restored = _asked(control, asked, timeout)
    for table, copies in restored.other_copies.items():
        logger.warning(
            "fastps: after the restore table %r has %d copies of each shard: see the job's "
            "--replication and the number of its servers",
            table,
            copies,
        )
    return Restored(lineage.newest, restored.epoch)


def _parent(store: Store, replaced: str | None) -> Parent | None:
    """Return the checkpoint that an increment builds on; None: there is none, or none to use."""
    try:
        parent = newest(store)
        if parent is None:
            return None
        chain = Lineage.open(store, parent.tag).manifests
        if len(chain) > INCREMENTS_MAX or any(each.tag == replaced for each in chain):
            return None
    except CheckpointError as error:
        logger.warning("fastps: a whole checkpoint is written, not an increment: %s", error)
        return None
    return Parent(parent.tag, parent.cut_id, parent.checksum)


def _asked(control: Control, message: m.Request[m.ReplyT], timeout: float | None) -> m.ReplyT:
    """Ask until there is an answer, which may take long, as long as the scheduler is there."""
    heard_at = time.monotonic()
    deadline = math.inf if timeout is None else heard_at + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            return control.call(message, max(0.0, min(ASK_SECONDS, left)))[0]
        except FastPSTimeoutError:
            if left <= ASK_SECONDS:
                raise
        try:
            control.call(m.GetStatus(), LAST_WORD_SECONDS)
            heard_at = time.monotonic()
        except FastPSTimeoutError:
            if time.monotonic() - heard_at > SILENCE_SECONDS:
                raise


def _completed(manifest: Manifest, saved: m.Saved) -> Manifest:
    tables = [
        SavedTable(
            wire.from_json(m.TableDefinition, table["definition"], "definition"),
            table["round"],
            tuple(_shard(each) for each in sorted(table["shards"])),
            tuple(wire.from_json(Part, part, "part") for part in table["parts"]),
        )
        for table in saved.tables
    ]
    groups = tuple(wire.from_json(SavedGroup, group, "group") for group in saved.groups)
    if all(shard.is_full for table in tables for shard in table.shards):
        manifest = dataclasses.replace(manifest, parent=None)  # it needs none
    return dataclasses.replace(manifest, tables=tuple(tables), groups=groups)


def _shard(each: Sequence[Any]) -> SavedShard:
    shard, view, index, folded, rows, is_full, constants = each
    return SavedShard(shard, view, index, folded, rows, is_full, tuple(constants))


@contextlib.contextmanager
def _shown(control: Control, title: str, is_shown: bool) -> Iterator[None]:
    """Show how many bytes are done while the block waits."""
    progress = make_progress(title) if is_shown else None
    if progress is None:
        yield
        return
    is_over = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(control, progress, is_over), name="fastps-progress", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _watch(control: Control, progress: Progress, is_over: threading.Event) -> None:
    with progress:
        while not is_over.wait(PROGRESS_SECONDS):
            with contextlib.suppress(FastPSError):
                status = control.call(m.GetStatus(), LAST_WORD_SECONDS)[0].status
                checkpoint = status["checkpoint"]
                under_way = checkpoint["saving"] or checkpoint["restoring"]
                if under_way is not None:
                    progress.show(under_way["bytes"], under_way["total_bytes"] or None)
