"""What becomes of old checkpoints: which is the newest, which may go, and making chains short."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from contextlib import closing
from typing import Any

from fastps.checkpoint.manifest import Manifest, SavedShard, SavedTable, check_tag
from fastps.checkpoint.parts import PART_BYTES, PartWriter
from fastps.checkpoint.reading import Lineage, preference
from fastps.checkpoint.storage import Store
from fastps.errors import CheckpointError, ConfigError

__all__ = ["compact", "new_place", "retain"]

# What a save left that failed is removed after so long: another one may be writing there.
LEFTOVER_SECONDS = 3600.0


def tag_of(number: int) -> str:
    """Return the name of a checkpoint that was given none."""
    return f"{number:08d}"


def next_number(store: Store) -> int:
    """Return a number higher than those of all checkpoints; damaged ones count by their name."""
    numbers = [0]
    for tag in store.list_tags():
        if tag.isdigit():
            numbers.append(int(tag[:18]))
        try:
            numbers.append(store.read_manifest(tag).number)
        except CheckpointError:
            continue  # whoever reads that checkpoint is told
    return max(numbers) + 1


def new_place(store: Store, tag: str | None, replace: bool = False) -> tuple[int, str]:
    """Return the number of a new checkpoint, and its name: `tag`, or by its number.

    Raises
    ------
    CheckpointError
        There is a checkpoint of that name; or it is to be replaced, and others build on it.
    """
    number = next_number(store)
    if tag is None:
        return number, tag_of(number)  # nobody has it: the number is higher than such names
    if replace:
        check_replaceable(store, check_tag(tag))
    else:
        store.check_free(check_tag(tag))
    return number, tag


def check_replaceable(store: Store, tag: str) -> None:
    """Raise `CheckpointError` when there are checkpoints that build on that one."""
    for other in store.list_tags():
        parent = store.read_manifest(other).parent
        if parent is not None and parent.tag == tag:
            raise CheckpointError(
                f"checkpoint {tag!r} in {store.uri} cannot be replaced: {other!r} builds on it; "
                f"save under another tag, or make that one whole (fastps compact) and remove it"
            )


def retain(store: Store, keep: int) -> list[str]:
    """Remove all but the newest checkpoints and what they build on.

    Those with a name of their own, other than their number, stay; they count all the same. Of
    several checkpoints of one cut (see `compact`) the full one counts. What failed saves left is
    removed when it is an hour old. A crash on the way leaves checkpoints that are whole.

    Parameters
    ----------
    store : Store
        Where they are.
    keep : int
        How many, at least 1.

    Returns
    -------
    list of str
        The names of those removed.

    Raises
    ------
    ConfigError
        `keep` is less than 1.
    CheckpointError
        A manifest is damaged, so that nobody knows what is needed (then nothing was removed), or
        something cannot be removed.
    """
    if keep < 1:
        raise ConfigError(f"keep is {keep!r}; at least the newest one is kept: give 1 or more")
    manifests = {tag: store.read_manifest(tag) for tag in store.list_tags()}
    in_order = sorted(manifests.values(), key=preference)
    # Of each cut the preferred one, in order.
    of_cut = {(each.number, each.cut_id): each.tag for each in in_order}
    wanted = [
        *list(of_cut.values())[-keep:],
        *(tag for tag in manifests if _is_named(manifests[tag])),
    ]
    # Others may have saved meanwhile, on what is here.
    for tag in set(store.list_tags()) - manifests.keys():
        manifests[tag] = store.read_manifest(tag)
        wanted.append(tag)
    needed: set[str] = set()
    while wanted:
        tag = wanted.pop()
        needed.add(tag)
        parent = manifests[tag].parent if tag in manifests else None
        if parent is not None and parent.tag not in needed:
            wanted.append(parent.tag)
    # Increments before what they build on.
    removed = [each.tag for each in reversed(in_order) if each.tag not in needed]
    for tag in removed:
        store.remove(tag)
    _remove_leftovers(store, {tag: manifests[tag].attempt for tag in needed & manifests.keys()})
    return removed


def _is_named(manifest: Manifest) -> bool:
    return manifest.tag != tag_of(manifest.number)


def _remove_leftovers(store: Store, attempts: dict[str, str]) -> None:
    """Remove old attempts that belong to no checkpoint; `attempts` are those that do."""
    for tag in store.list_folders():
        if tag not in attempts and not store.has_only_attempts(tag):
            continue  # not ours
        for attempt in store.list_attempts(tag):
            if attempt == attempts.get(tag) or store.age(tag, attempt) < LEFTOVER_SECONDS:
                continue
            store.remove_attempt(tag, attempt)
        if tag not in attempts and not store.list_attempts(tag):
            store.remove(tag)  # a manifest that was being written


def compact(
    store: Store,
    tag: str,
    to: str,
    *,
    part_bytes: int = PART_BYTES,
    progress: Callable[[int], Any] | None = None,
) -> Manifest:
    """Write what a chain of increments amounts to as one full checkpoint.

    It is of the same cut and has its number, so that it counts as the same checkpoint, and
    increments that follow build on it. The chain stays, until `retain` finds it of no use.

    Parameters
    ----------
    store : Store
        Where.
    tag : str
        The checkpoint, ``latest`` for the newest.
    to : str
        The name of the new one.
    part_bytes : int
        How large its files are, about.
    progress : callable, optional
        Told how many further bytes are done.

    Raises
    ------
    CheckpointError
        A checkpoint cannot be read, or the new one not be written; then there is none.
    """
    store.check_free(check_tag(to))
    lineage = Lineage.open(store, tag)
    attempt = secrets.token_hex(8)
    try:
        tables = tuple(
            _compacted(lineage, table, to, attempt, part_bytes, progress)
            for table in lineage.newest.tables
        )
        manifest = dataclasses.replace(
            lineage.newest, tag=to, attempt=attempt, parent=None, tables=tables
        )
    except BaseException:
        store.remove_attempt(to, attempt)
        raise
    store.write_manifest(manifest)
    return manifest


def _compacted(
    lineage: Lineage,
    table: SavedTable,
    to: str,
    attempt: str,
    part_bytes: int,
    progress: Callable[[int], Any] | None,
) -> SavedTable:
    with closing(PartWriter(lineage.store, to, attempt, table.definition, 0, part_bytes)) as writer:
        n_rows = {shard.shard: shard.rows for shard in table.shards}
        for shard in lineage.shards_by_file(table.name):
            if writer.is_dense:
                begin, end = table.layout().block(shard, table.num_shards)
                arrays = lineage.final_arrays(table.name, shard, table.num_shards)
                writer.add_dense(shard, begin, end, arrays)
                if progress is not None:
                    progress(sum(array.nbytes for array in arrays))
                continue
            count = 0
            for keys, rows in lineage.final_rows(table.name, shard):
                writer.add_rows(shard, keys, rows)
                count += len(keys)
                if progress is not None:
                    progress(keys.nbytes + rows.nbytes)
            if count != n_rows[shard]:
                raise CheckpointError(
                    f"checkpoint {lineage.newest.tag!r} is damaged: with all that it builds on, "
                    f"shard {shard} of table {table.name!r} has {count} rows, its manifest says "
                    f"{n_rows[shard]}"
                )
        parts = writer.finish()
    shards = tuple(_full(shard) for shard in table.shards)
    return dataclasses.replace(table, shards=shards, parts=parts)


def _full(shard: SavedShard) -> SavedShard:
    return dataclasses.replace(shard, is_full=True)
