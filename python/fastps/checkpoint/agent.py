"""The part of a server that carries out the scheduler's orders: to cut shards, write, check, load.

One thread for each server; in an embedded cluster they are started by its first save or restore. It
asks the scheduler for an order, carries it out, and says with its next question how that went.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fastps.checkpoint.manifest import layout_of
from fastps.checkpoint.parts import PartWriter
from fastps.checkpoint.reading import DenseChange, Lineage
from fastps.checkpoint.storage import Store
from fastps.control import Control
from fastps.errors import (
    CheckpointError,
    ClosedError,
    ConfigError,
    FastPSError,
    FastPSTimeoutError,
    WireError,
)
from fastps.scheduler import messages as m
from fastps.scheduler import wire
from fastps.scheduler.wire import JsonDict

__all__ = ["Agent", "Shards"]

log = logging.getLogger("fastps.checkpoint")

# A question waits at the scheduler until there is an order. It is asked anew after so long.
ASK_SECONDS = 30.0
# After an error that the next question may not meet again.
PAUSE_SECONDS = 0.2
# A shard whose rounds are closed folds them at once; only a server that is very busy takes longer.
FOLD_SECONDS = 10.0
FOLD_POLL_SECONDS = 0.001
# A shard is locked while a slice of it is copied: about 0.2 ms.
SLICE_BYTES = 1 << 20
PROGRESS_SECONDS = 0.5
# Where processors are short, data threads go first: pushes meanwhile were 3 times as fast.
NICENESS = 10
# A server that ends waits no longer for a file that is being written; the save has failed anyhow.
STOP_SECONDS = 5.0


class Shards(Protocol):
    """The shards of one server, as the core shows them; see `fastps._core.Server`."""

    @property
    def begin_cut(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def read_cut(self) -> Callable[..., tuple[Any, ...]]: ...  # noqa: D102
    @property
    def drop_cut(self) -> Callable[..., None]: ...  # noqa: D102
    @property
    def reserve_rows(self) -> Callable[..., None]: ...  # noqa: D102
    @property
    def load_rows(self) -> Callable[..., None]: ...  # noqa: D102
    @property
    def load_removed(self) -> Callable[..., None]: ...  # noqa: D102
    @property
    def load_dense(self) -> Callable[..., None]: ...  # noqa: D102
    @property
    def finish_load(self) -> Callable[..., None]: ...  # noqa: D102


class CutShard(NamedTuple):
    """A shard of the cut under way: whether all rows are to be written, and how many it has."""

    table: int
    shard: int
    is_full: bool
    rows: int

    def bytes(self, definition: m.TableDefinition) -> int:
        """Return how much of it is to be written; of changed rows nobody knows: 0."""
        layout = layout_of(definition)
        if not self.is_full:
            return 0
        if layout.is_dense:
            begin, end = layout.block(self.shard, definition.num_shards or 1)
            return 4 * (end - begin) * (1 + len(layout.slots))
        return self.rows * (8 + 4 * layout.row_floats)


@dataclass(frozen=True)
class Cut:
    """The cut under way: its id, and the (table, shard) that belong to it here."""

    cut_id: bytes
    shards: list[CutShard]


@dataclass(frozen=True)
class Attempt:
    """Where the last files of a save went."""

    cut_id: str
    store: Store
    tag: str
    attempt: str


class Agent:
    """Carries out a server's orders, from the thread that calls `run`.

    Parameters
    ----------
    control : Control
        The way to the scheduler; closing it ends `run`.
    shards : Shards
        The server's.
    server_id : int
        Its number.
    boot_id : bytes
        Its process life.
    on_unknown : callable (str) -> None, optional
        Called once, with the scheduler's words, when the job goes on without this server for good.
    """

    def __init__(
        self,
        control: Control,
        shards: Shards,
        server_id: int,
        boot_id: bytes,
        on_unknown: Callable[[str], None] | None = None,
    ) -> None:
        self._control = control
        self._on_unknown = on_unknown
        self._shards = shards
        self._server_id = server_id
        self._boot_id = boot_id.hex()
        self._cut: Cut | None = None
        self._attempt: Attempt | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._said_at = 0.0

    def start(self) -> None:
        """Call `run` on a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="fastps-agent", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the control, and wait a while until what `start` started has ended."""
        self._stopped.set()
        self._control.close()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def run(self) -> None:
        """Ask for orders and carry them out until `stop`."""
        _let_others_first()
        done, result, error = 0, dict[str, Any](), ""
        while not self._stopped.is_set():
            question = m.NextOrder(self._server_id, self._boot_id, done, result, error)
            try:
                order, _ = self._control.call(question, ASK_SECONDS)
            except FastPSTimeoutError:
                # An order to write follows a cut within seconds. Without one the save is over, and
                # a scheduler that was restarted knows of no cut to drop.
                self._drop(0, {})
                continue
            except ClosedError:
                return
            except ConfigError as refused:
                if self._on_unknown is not None:
                    self._on_unknown(str(refused))
                    return
                self._stopped.wait(PAUSE_SECONDS)
                continue
            except WireError as refused:
                result, error = {}, f"the answer cannot be sent: {refused}"
                self._stopped.wait(PAUSE_SECONDS)
                continue
            except Exception as refused:
                # No thread would take another order: this one goes on, whatever it was.
                log.log(
                    logging.DEBUG if isinstance(refused, FastPSError) else logging.WARNING,
                    "no order came: %s",
                    refused,
                )
                self._stopped.wait(PAUSE_SECONDS)
                continue
            done, (result, error) = order.number, self._carry_out(order)

    def _carry_out(self, order: m.Order) -> tuple[JsonDict, str]:
        """Return what an order brought, and why it failed or nothing."""
        works = {
            "cut": self._begin_cut,
            "write": self._write,
            "drop": self._drop,
            "verify": self._verify,
            "load": self._load,
        }
        work = works.get(order.kind)
        if work is None:
            return {}, f"this server does not know orders to {order.kind!r:.50}"
        try:
            return work(order.number, order.body), ""
        except (FastPSError, OSError) as error:
            return {}, str(error)
        except Exception as error:
            # A fault of ours must fail the save, not end the server.
            log.exception("an order to %s could not be carried out", order.kind)
            return {}, f"{type(error).__name__}: {error}"

    # Saving.

    def _begin_cut(self, number: int, body: JsonDict) -> JsonDict:
        self._drop(number, {})
        cut_id, parent_id = bytes.fromhex(body["cut_id"]), bytes.fromhex(body["parent_id"])
        deadline = time.monotonic() + FOLD_SECONDS
        begun: list[CutShard] = []
        self._cut = Cut(cut_id, begun)
        answer = []
        for table, shard, view, at_round in body["shards"]:
            while True:
                cut = self._shards.begin_cut(table, shard, cut_id, parent_id, at_round, view)
                if cut is not None:
                    break
                if time.monotonic() > deadline:
                    raise CheckpointError(
                        f"shard {shard} of table {table} did not fold round {at_round} within "
                        f"{FOLD_SECONDS:g} s; the server is very busy: save again"
                    )
                time.sleep(FOLD_POLL_SECONDS)
            begun.append(CutShard(table, shard, cut["is_full"], cut["rows"]))
            answer.append(
                [
                    *(table, shard, cut["view"], cut["index"], cut["folded"], cut["rows"]),
                    *(cut["is_full"], cut["constants"]),
                ]
            )
        return {"shards": answer}

    def _write(self, number: int, body: JsonDict) -> JsonDict:
        cut = self._cut
        if cut is None or cut.cut_id.hex() != body["cut_id"]:
            raise CheckpointError(f"the cut {body['cut_id']} is not under way on this server")
        store = Store(body["uri"])
        self._attempt = Attempt(body["cut_id"], store, body["tag"], body["attempt"])
        definitions = {
            int(table): wire.from_json(m.TableDefinition, definition, "definition")
            for table, definition in body["tables"].items()
        }
        sizes = (each.bytes(definitions[each.table]) for each in cut.shards)
        progress = Progress(self, number, sum(sizes))
        parts: list[list[Any]] = []
        for table in sorted(definitions):
            shards = sorted(each for each in cut.shards if each.table == table)
            if not shards:
                continue
            writer = PartWriter(
                store, body["tag"], body["attempt"], definitions[table], self._server_id
            )
            try:
                for each in shards:
                    self._write_shard(writer, cut.cut_id, each, progress)
                parts += [[table, wire.to_json(part)] for part in writer.finish()]
            finally:
                writer.close()
        self._cut = None
        return {"parts": parts}

    def _write_shard(
        self,
        writer: PartWriter,
        cut_id: bytes,
        of_cut: CutShard,
        progress: Progress,
    ) -> None:
        table, shard, is_full, _ = of_cut
        is_finished = False
        max_rows = max(1, SLICE_BYTES // writer.row_bytes)
        while not is_finished:
            content = self._shards.read_cut(table, shard, cut_id, max_rows)
            is_finished = content[-1]
            if writer.is_dense:
                begin, end, arrays, _ = content
                if begin < end:
                    writer.add_dense(shard, begin, end, arrays)
                    progress.add(sum(each.nbytes for each in arrays))
            else:
                keys, rows, removed, _ = content
                writer.add_rows(shard, keys, rows, removed, is_full=is_full)
                progress.add(keys.nbytes + rows.nbytes + removed.nbytes)

    def _drop(self, number: int, body: JsonDict) -> JsonDict:
        cut, self._cut = self._cut, None
        if cut is not None:
            for each in cut.shards:
                self._shards.drop_cut(each.table, each.shard, cut.cut_id)
        attempt = self._attempt
        if attempt is not None and attempt.cut_id == body.get("cut_id"):
            # Who asked for the save did so as well, but maybe before the last of our files.
            self._attempt = None
            attempt.store.remove_attempt(attempt.tag, attempt.attempt)
        return {}

    # Restoring.

    def _verify(self, number: int, body: JsonDict) -> JsonDict:
        lineage = Lineage.open(Store(body["uri"]), body["tag"])
        progress = Progress(self, number, lineage.bytes // body["shares"])
        lineage.verify(body["share"], body["shares"], progress.add, finite=True)
        return {}

    def _load(self, number: int, body: JsonDict) -> JsonDict:
        lineage = Lineage.open(Store(body["uri"]), body["tag"])
        names = dict(body["tables"])
        saved = lineage.tables()
        n_shards = sum(saved[name].num_shards for name in names.values())
        progress = Progress(self, number, lineage.bytes * len(body["shards"]) // max(1, n_shards))
        for table, shard in self._in_order(lineage, names, body["shards"]):
            name = names[table]
            num_shards = saved[name].num_shards
            if saved[name].definition.kind == "sparse":
                self._shards.reserve_rows(table, shard, lineage.n_rows(name, shard, num_shards))
            for change in lineage.changes_of(name, shard, num_shards):
                if isinstance(change, DenseChange):
                    for array, begin, values in change.pieces:
                        self._shards.load_dense(table, shard, array, begin, values)
                        progress.add(values.nbytes)
                    continue
                if len(change.removed):
                    self._shards.load_removed(table, shard, change.removed)
                self._shards.load_rows(table, shard, change.keys, change.rows)
                progress.add(change.keys.nbytes + change.rows.nbytes)
            self._shards.finish_load(table, shard, list(saved[name].shards[shard].constants))
        return {}

    @staticmethod
    def _in_order(
        lineage: Lineage, names: dict[int, str], shards: list[list[int]]
    ) -> Iterator[tuple[int, int]]:
        """Yield shards in the order in which files are best read."""
        for table, name in sorted(names.items()):
            here = {shard for of, shard in shards if of == table}
            yield from ((table, shard) for shard in lineage.shards_by_file(name) if shard in here)

    def tell_progress(self, number: int, done_bytes: int, total_bytes: int) -> None:
        """Tell the scheduler that work goes on, at most every `PROGRESS_SECONDS`."""
        now = time.monotonic()
        if now - self._said_at < PROGRESS_SECONDS:
            return
        self._said_at = now
        word = m.OrderProgress(self._server_id, self._boot_id, number, done_bytes, total_bytes)
        with contextlib.suppress(FastPSTimeoutError):  # the next word says more
            self._control.call(word, PROGRESS_SECONDS)
        if self._stopped.is_set():
            raise ClosedError("the server is being stopped")


class Progress:
    """Counts the bytes of one order, and tells of them; the total is about right."""

    def __init__(self, agent: Agent, number: int, total_bytes: int) -> None:
        self._agent = agent
        self._number = number
        self._total = total_bytes
        self._done = 0

    def add(self, n_bytes: int) -> None:
        """Count further bytes."""
        self._done += n_bytes
        self._agent.tell_progress(self._number, self._done, max(self._total, self._done))


def _let_others_first() -> None:
    """Lower the priority of the calling thread, and of those it starts, where threads have one."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
