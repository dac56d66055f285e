"""The part of a client that saves and restores."""

from __future__ import annotations

import abc
import concurrent.futures
import dataclasses
import os
import threading
import time

from fastps.arguments import checked_path, checked_seconds, checked_text
from fastps.checkpoint import driver
from fastps.checkpoint.manifest import LATEST, SavedTable
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import Store
from fastps.embedded import EmbeddedCluster
from fastps.errors import CheckpointError, ConfigError, TableMismatchError, TableNotFoundError
from fastps.life import Life
from fastps.lives import Lives
from fastps.scheduler import messages as m
from fastps.tables import DenseTable, SparseTable

__all__ = ["Saving"]


class Saving(abc.ABC):
    """Checkpoints of the job that a client is in. Base of `Client`."""

    _lives: Lives
    _cluster: EmbeddedCluster | None

    def __init__(self) -> None:
        super().__init__()
        self._saves: list[concurrent.futures.Future[str]] = []
        self._saves_lock = threading.Lock()

    @abc.abstractmethod
    def _flush(
        self, life: Life, seconds: float, timeout: float | None, pulls: bool = False
    ) -> None: ...

    @abc.abstractmethod
    def _found(self, name: str, timeout: float | None) -> SparseTable | DenseTable: ...

    @abc.abstractmethod
    def _made(
        self, definition: m.TableDefinition, timeout: float | None
    ) -> SparseTable | DenseTable: ...

    def save(
        self,
        uri: str | os.PathLike[str],
        tag: str | None = None,
        incremental: bool = False,
        *,
        replace: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Write a checkpoint of the whole job: all tables with optimizer state, clocks, chunks.

        Any one worker may call it; the others need not know, and train on while files are written.
        Of tables under BSP it holds exactly the steps before this worker's `clock_value`; of others
        every push acknowledged before, and maybe later ones, each row and shard whole.

        Parameters
        ----------
        uri : str or path
            The folder of checkpoints: a path that all servers see, or a URL that fsspec knows
            (s3://, gs://, hdfs://, ...).
        tag : str, optional
            A name: letters, digits, ``._-``. None: the checkpoint's number, with eight digits.
        incremental : bool, default False
            Write only what changed since the newest checkpoint there.
        replace : bool, default False
            Let it take the place of a checkpoint of that name, once all of it is there; until then
            the former one stays. One that increments build on is not replaced.
        timeout : float, optional
            Seconds. None: as long as something moves; a save in which nothing does fails after a
            minute.

        Returns
        -------
        str
            The tag. The checkpoint is durable.

        Raises
        ------
        CheckpointError
            The tag exists, a file cannot be written (no space, no
            permission), or a server was lost meanwhile. Earlier checkpoints stay as they are.
        ConfigError
            A package that this needs is not installed; the message has the pip line.

        Examples
        --------
        >>> import tempfile
        >>> import fastps
        >>> folder = tempfile.TemporaryDirectory()
        >>> with fastps.connect(embedded=True) as client:
        ...     table = client.sparse_table("w")
        ...     table.push([7], [1.0])
        ...     tag = client.save(folder.name)
        ...     table.push([7], [1.0])
        ...     _ = client.restore(folder.name)
        ...     table.pull([7])
        array([1.], dtype=float32)
        """
        uri, tag = checked_path("uri", uri), _checked_tag(tag)
        replace = _checked_replace(replace, tag)
        life, timeout = self._lives.open(timeout)
        began = time.monotonic()
        with life:
            self._get_ready_to_save(life, timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - began))
            control = self._lives.control
            return driver.save(
                *(control, life.who, uri, tag, incremental, timeout),
                replace=replace,
                is_shown=True,
            )

    def save_async(
        self,
        uri: str | os.PathLike[str],
        tag: str | None = None,
        incremental: bool = False,
        *,
        replace: bool = False,
        timeout: float | None = None,
    ) -> concurrent.futures.Future[str]:
        """Fix what a checkpoint holds, and write it while this worker goes on.

        Parameters
        ----------
        uri, tag, incremental, replace
            As for `save`.
        timeout : float, optional
            Seconds until the cut must be fixed.

        Returns
        -------
        concurrent.futures.Future
            Its result is the tag, once the checkpoint is durable. `close` waits for it.

        Raises
        ------
        CheckpointError, ConfigError
            As for `save`; what goes wrong later is raised by the future.
        """
        uri, tag = checked_path("uri", uri), _checked_tag(tag)
        replace = _checked_replace(replace, tag)
        life, timeout = self._lives.open(timeout)
        with life:
            self._get_ready_to_save(life, timeout)
            control = self._lives.control
            pending = driver.begin_save(
                control, life.who, uri, tag, incremental, timeout, replace=replace
            )
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def finish() -> None:
            try:
                future.set_result(pending.finish())
            except BaseException as error:
                future.set_exception(error)

        with self._saves_lock:
            self._saves = [each for each in self._saves if not each.done()] + [future]
        threading.Thread(target=finish, name="fastps-save", daemon=True).start()
        return future

    def _get_ready_to_save(self, life: Life, timeout: float | None) -> None:
        self._flush(life, self._lives.seconds(timeout), timeout)
        if self._cluster is not None:
            self._cluster.start_agents()

    def restore(
        self,
        uri: str | os.PathLike[str],
        tag: str = LATEST,
        *,
        strict: bool = True,
        values_only: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Bring the whole job to what a checkpoint holds, on the servers that it has now.

        All of it is read and checked first; then every table, clock and queue of chunks is as it
        was saved, missing tables are made, and tables that are not in the checkpoint are gone.
        Whatever other workers have open raises `EpochChangedError`; they rejoin with their next
        call, at the `clock_value` that was saved.

        Parameters
        ----------
        uri : str or path
            The folder of checkpoints.
        tag : str, default "latest"
            Which; ``latest``: that with the highest number.
        strict : bool, default True
            Refuse when a table of the job has other settings than the checkpoint's of that name.
            False: the checkpoint's are taken.
        values_only : bool, default False
            A warm start: only assign the values to the job's tables, whatever their optimizers;
            tables that are missing are made. Clocks and chunks stay, nobody's session ends.
        timeout : float, optional
            Seconds. None: as long as something moves.

        Returns
        -------
        str
            The tag.

        Raises
        ------
        CheckpointError
            It is missing, damaged or of an unknown version: then nothing was changed. Or a server
            was lost while it was loaded: then tables answer so until a restore succeeds.
        TableMismatchError
            A table has other settings; the message names them.

        See Also
        --------
        The command ``fastps import`` makes a checkpoint of keys and values from elsewhere.
        """
        uri, tag = checked_path("uri", uri), checked_text("tag", tag)
        if timeout is not None:
            timeout = checked_seconds("timeout", timeout)
        if values_only:
            return self._assign_saved(Lineage.open(Store(uri), tag), timeout)
        life, timeout = self._lives.open(timeout)
        if self._cluster is not None:
            self._cluster.start_agents()
        with life:
            try:
                restored = driver.restore(
                    self._lives.control,
                    life.session,
                    uri,
                    tag,
                    strict=strict,
                    timeout=timeout,
                    is_shown=True,
                )
            except CheckpointError:
                if self._lives.is_epoch_over(life):  # half of it: the error says so
                    life.end()
                    life.was_told = True
                raise
        self._lives.rejoin(restored.epoch, timeout)
        return restored.manifest.tag

    def _assign_saved(self, lineage: Lineage, timeout: float | None) -> str:
        """Assign the values of a checkpoint, once all of it was checked; return its tag."""
        ends = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            """Return what all that follows may take."""
            return None if ends is None else max(0.0, ends - time.monotonic())

        lineage.verify()
        tables = [(self._like(saved, left()), saved) for saved in lineage.tables().values()]
        for table, saved in tables:
            layout = saved.layout()
            if isinstance(table, DenseTable):
                values, *_ = lineage.final_arrays(saved.name, 0, 1)
                table.assign(values.reshape(table.shape), timeout=left())
                continue
            for shard in lineage.shards_by_file(saved.name):
                for keys, rows in lineage.final_rows(saved.name, shard):
                    values = rows[:, : layout.width].reshape(len(keys), *table.row_shape)
                    table.assign(keys, values, timeout=left())
        return lineage.newest.tag

    def _like(self, saved: SavedTable, timeout: float | None) -> SparseTable | DenseTable:
        """Return the job's table of that name, made if it is missing."""
        definition = saved.definition
        try:
            table = self._found(saved.name, timeout)
        except TableNotFoundError:
            wanted = dataclasses.replace(definition, group=None, num_shards=None, replication=None)
            return self._made(wanted, timeout)
        is_dense = isinstance(table, DenseTable)
        shape = table.shape if isinstance(table, DenseTable) else table.row_shape
        if (definition.kind == "dense", definition.shape) != (is_dense, shape):
            kind = "dense" if is_dense else "sparse"
            raise TableMismatchError(
                f"table {saved.name!r} is {kind} with shape {shape}, in the checkpoint it is "
                f"{definition.kind} with shape {definition.shape}: its values cannot be assigned"
            )
        return table


def _checked_tag(tag: str | None) -> str | None:
    return None if tag is None else checked_text("tag", tag)


def _checked_replace(replace: bool, tag: str | None) -> bool:
    if not isinstance(replace, bool) or (replace and tag is None):
        needed = "needed is True or False" if tag is not None else "a tag says which: tag='best'"
        raise ConfigError(f"replace is {replace!r:.100}; {needed}")
    return replace
