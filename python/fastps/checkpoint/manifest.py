"""The manifest of a checkpoint: what was saved, in which files, and what these must be.

Frozen values and their canonical JSON, which FORMAT.md, beside this file, describes. Whoever reads
one trusts nothing: each byte counts for the checksum, and the content must fit together. Any
thread.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastps import _core, optimizers
from fastps.errors import CheckpointError, ConfigError, FastPSError, WireError
from fastps.scheduler import wire
from fastps.scheduler.cuts import CutGroup as SavedGroup
from fastps.scheduler.cuts import CutPass as SavedPass
from fastps.scheduler.messages import ATTEMPT, TAG, TableDefinition
from fastps.scheduler.wire import JsonDict

__all__ = [
    "ATTEMPT",
    "FORMAT",
    "LATEST",
    "MANIFEST",
    "TAG",
    "Layout",
    "Manifest",
    "Parent",
    "Part",
    "SavedGroup",
    "SavedPass",
    "SavedShard",
    "SavedTable",
    "check_tag",
    "checksum",
    "decode",
    "encode",
]

FORMAT = 1
MANIFEST = "MANIFEST.json"
LATEST = "latest"

SHARDS_PER_TABLE_MAX = 1 << 16  # cpp/base/limits.h: kShardsPerTableMax
ROW_FLOATS_MAX = 1 << 22  # kRowWidthMax
DENSE_ELEMENTS_MAX = 1 << 40  # kDenseElementsMax
NAME_BYTES_MAX = 512  # kNameBytesMax
CONSTANTS_MAX = 8  # cpp/routing/table_spec.h: kRuleConstantsMax

CUT_ID = re.compile(r"[0-9a-f]{32}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.~-]{0,119}\.safetensors")

# The line of a manifest that has its checksum. Strings in JSON have no line ends, and all deeper
# lines begin with two spaces: there is no other.
SEAL = re.compile(rb'\n "checksum": "([0-9a-f]{16})",\n')
NO_SEAL = b"0" * 16


def checksum(data: bytes | memoryview) -> str:
    """Return the XXH64 (seed 0) of some bytes as 16 hex digits."""
    return f"{_core.xxh64(data):016x}"


def check_tag(tag: str) -> str:
    """Return `tag` if a checkpoint may be called so.

    Raises
    ------
    ConfigError
        It may not.
    """
    if not isinstance(tag, str) or not TAG.fullmatch(tag) or tag == LATEST:
        raise ConfigError(
            f"tag is {tag!r:.120}; needed are 1 to 100 of the characters A-Z a-z 0-9 . _ -, the "
            f"first a letter or digit, and not {LATEST!r}, which means the newest"
        )
    return tag


@dataclass(frozen=True)
class Layout:
    """Of what the rows of a table consist.

    Attributes
    ----------
    is_dense : bool
        Whether the table is.
    shape : tuple of int
        Of one row of a sparse table, or of all of a dense one.
    slots, row_slots : tuple of str
        The optimizer's state of each value, and of each row.
    """

    is_dense: bool
    shape: tuple[int, ...]
    slots: tuple[str, ...]
    row_slots: tuple[str, ...]

    @property
    def width(self) -> int:
        """The floats of a row's values."""
        return math.prod(self.shape[1:] if self.is_dense else self.shape)

    @property
    def row_floats(self) -> int:
        """The floats of a row with its state: [value | slot 0 | slot 1 | row slots]."""
        return self.width * (1 + len(self.slots)) + len(self.row_slots)

    @property
    def n_elements(self) -> int:
        """The values of a dense table."""
        return math.prod(self.shape)

    def block(self, shard: int, num_shards: int) -> tuple[int, int]:
        """Return which elements, [begin, end), a shard of a dense table holds."""
        shorter, longer = divmod(self.n_elements, num_shards)  # cluster_map.cc: DenseShardRange
        begin = shard * shorter + min(shard, longer)
        return begin, begin + shorter + (shard < longer)

    def rows_of(self, begin: int, end: int) -> tuple[int, int]:
        """Return the rows that the elements [begin, end) touch, as [begin, end)."""
        if begin == end:
            return begin // self.width, begin // self.width
        return begin // self.width, -(-end // self.width)


@dataclass(frozen=True)
class Parent:
    """The checkpoint on which an incremental one builds: its name, cut and checksum."""

    tag: str
    cut_id: str
    checksum: str


@dataclass(frozen=True)
class SavedShard:
    """A shard at the cut.

    Attributes
    ----------
    shard : int
        Its number.
    view, index, folded : int
        Of its chain: the view's number, the applied entries, the folded rounds.
    rows : int
        How many rows it had, also when only the changed ones were written.
    is_full : bool
        Whether all of it was written. False: what changed since the parent.
    constants : tuple of float
        The constants of the update rule in force.
    """

    shard: int
    view: int
    index: int
    folded: int
    rows: int
    is_full: bool
    constants: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """A file.

    Attributes
    ----------
    file : str
        Its name, relative to the checkpoint's folder.
    bytes : int
        Its size.
    checksum : str
        Its XXH64.
    shards : tuple of int
        Of which shards something is in it, rising.
    rows, removed : int
        How many rows (dense: values) and how many removed keys.
    """

    file: str
    bytes: int
    checksum: str
    shards: tuple[int, ...]
    rows: int
    removed: int


@dataclass(frozen=True)
class SavedTable:
    """A table: what it is, its shards in order, and its files. BSP: the round it was cut at."""

    definition: TableDefinition
    round: int | None
    shards: tuple[SavedShard, ...]
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The table's."""
        return self.definition.name

    @property
    def num_shards(self) -> int:
        """Of how many shards it was saved."""
        return len(self.shards)

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return sum(part.bytes for part in self.parts)

    @property
    def rows(self) -> int:
        """How many rows it had."""
        return sum(shard.rows for shard in self.shards)

    def layout(self) -> Layout:
        """Return of what its rows consist."""
        return layout_of(self.definition)


@dataclass(frozen=True)
class Manifest:
    """A checkpoint.

    Attributes
    ----------
    number : int
        The newest checkpoint of a folder has the highest.
    tag : str
        Its name.
    created : str
        When, in ISO 8601.
    version : str
        Of the fastps that wrote it.
    attempt : str
        16 hex digits: the folder of its files.
    cut_id : str
        32 hex digits: which cut of the job it holds.
    parent : Parent, optional
        What it builds on. None: it is full.
    epoch, map_version : int
        Of the job at the cut.
    tables, groups : tuple
        What was saved.
    format : int
        The version of this format.
    """

    number: int
    tag: str
    created: str
    version: str
    attempt: str
    cut_id: str
    parent: Parent | None
    epoch: int
    map_version: int
    tables: tuple[SavedTable, ...]
    groups: tuple[SavedGroup, ...]
    format: int = FORMAT

    @property
    def is_incremental(self) -> bool:
        """Whether it builds on another."""
        return self.parent is not None

    @functools.cached_property
    def checksum(self) -> str:
        """The checksum of its file, by which an increment on it knows it."""
        return checksum(encode(self))

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return sum(table.bytes for table in self.tables)

    def table(self, name: str) -> SavedTable | None:
        """Return the table of that name."""
        return next((table for table in self.tables if table.name == name), None)


def layout_of(definition: TableDefinition) -> Layout:
    """Return of what the rows of a table consist.

    Raises
    ------
    ConfigError, ValueRangeError
        Its optimizer is not known.
    """
    rule = optimizers.from_json(definition.optimizer)
    shape = definition.shape
    assert shape is not None
    return Layout(definition.kind == "dense", shape, rule.slots, rule.row_slots)


def encode(manifest: Manifest) -> bytes:
    """Return a manifest as the bytes of its file.

    Raises
    ------
    CheckpointError
        It does not fit together; it would not be readable.
    """
    try:
        content = wire.to_json(manifest)
        wire.from_json(Manifest, content, "manifest")
        _check(manifest)
        return _sealed(_plain_floats(content))
    except (WireError, ValueError) as error:
        raise CheckpointError(
            f"the manifest of checkpoint {manifest.tag!r:.120} cannot be written: {error}"
        ) from error


def decode(data: bytes, where: str) -> Manifest:
    """Return the manifest in the bytes of a file.

    Parameters
    ----------
    data : bytes
        From anywhere.
    where : str
        The file's name, for messages.

    Raises
    ------
    CheckpointError
        It is damaged, or of another version.
    """
    said = SEAL.search(data)
    if said is None:
        raise CheckpointError(_damaged(where, "it is no manifest: it has no line of its checksum"))
    found = _seal_of(data)
    if said[1] != found:
        raise CheckpointError(
            _damaged(where, f"its checksum is {found.decode()}, it says {said[1].decode()}")
        )
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_damaged(where, f"it is not JSON: {error}")) from error
    if not isinstance(content, dict):
        raise CheckpointError(_damaged(where, "it is no JSON object"))
    content.pop("checksum")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{where} is of format version {content.get('format')!r:.50}; this fastps reads "
            f"version {FORMAT}: use a fastps at least as new as the one that wrote it, "
            f"{content.get('version')!r:.50}"
        )
    try:
        manifest: Manifest = wire.from_json(Manifest, content, "manifest")
        _check(manifest)
    except (FastPSError, ValueError) as error:
        raise CheckpointError(_damaged(where, str(error))) from error
    manifest.__dict__["checksum"] = checksum(data)  # known already
    return manifest


def _damaged(where: str, why: str) -> str:
    return f"{where} is damaged: {why}; restore another checkpoint"


def _sealed(content: JsonDict) -> bytes:
    """Return canonical JSON with its checksum."""
    content = {**content, "checksum": NO_SEAL.decode()}
    text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True)
    data = text.encode() + b"\n"
    return _with_seal(data, _seal_of(data))


def _seal_of(data: bytes) -> bytes:
    """Return the checksum of all bytes, those of the checksum itself taken as zeros."""
    return checksum(_with_seal(data, NO_SEAL)).encode()


def _with_seal(data: bytes, seal: bytes) -> bytes:
    there = SEAL.search(data)
    assert there is not None
    return data[: there.start(1)] + seal + data[there.end(1) :]


def _plain_floats(content: JsonDict) -> JsonDict:
    """Write the constants as floats, so that reading and writing again gives the same bytes."""
    for table in content["tables"]:
        for shard in table["shards"]:
            shard["constants"] = [float(constant) for constant in shard["constants"]]
    return content


def _check(manifest: Manifest) -> None:
    """Raise ValueError, or another error, unless the manifest fits together."""
    _need(bool(TAG.fullmatch(manifest.tag)) and manifest.tag != LATEST, "tag", manifest.tag)
    _need(bool(ATTEMPT.fullmatch(manifest.attempt)), "attempt", manifest.attempt)
    _need(bool(CUT_ID.fullmatch(manifest.cut_id)), "cut_id", manifest.cut_id)
    _need(manifest.format == FORMAT, "format", manifest.format)
    parent = manifest.parent
    if parent is not None:
        _need(bool(TAG.fullmatch(parent.tag)) and parent.tag != manifest.tag, "parent", parent)
    for what, names in (
        ("table", [table.name for table in manifest.tables]),
        ("group", [group.name for group in manifest.groups]),
        ("file", [part.file for table in manifest.tables for part in table.parts]),
    ):
        _need(len(set(names)) == len(names), f"a {what} is there twice:", names)
    for table in manifest.tables:
        try:
            _check_table(manifest, table)
        except (ConfigError, ValueError) as error:
            raise ValueError(f"table {table.name!r:.100}: {error}") from error
    for group in manifest.groups:
        for each in group.passes:
            ends = [end for interval in each.done for end in interval]
            _need(all(len(interval) == 2 for interval in each.done), "done", each.done)
            _need(_is_rising(ends) and all(end <= each.n_items for end in ends), "done", ends)
        over = [number for interval in group.passes_over for number in interval]
        _need(all(len(interval) == 2 for interval in group.passes_over), "passes_over", over)
        _need(_is_rising(over), "passes_over", over)


def _check_table(manifest: Manifest, table: SavedTable) -> None:
    definition = table.definition
    for field in dataclasses.fields(definition):
        _need(getattr(definition, field.name) is not None, f"without {field.name}", definition)
    _need(definition.kind in ("sparse", "dense"), "kind", definition.kind)
    layout = layout_of(definition)
    _need(1 <= len(definition.name.encode()) <= NAME_BYTES_MAX, "name", definition.name)
    _need(all(dimension > 0 for dimension in layout.shape), "shape", layout.shape)
    floats = layout.n_elements if layout.is_dense else layout.row_floats
    most = DENSE_ELEMENTS_MAX if layout.is_dense else 3 * ROW_FLOATS_MAX
    _need(1 <= floats <= most, "shape", definition.shape)
    num_shards = definition.num_shards
    assert num_shards is not None
    _need(1 <= num_shards <= SHARDS_PER_TABLE_MAX, "num_shards", num_shards)
    numbers = [shard.shard for shard in table.shards]
    _need(numbers == list(range(num_shards)), "shards", numbers)
    for shard in table.shards:
        _need(shard.is_full or manifest.is_incremental, "a partly written shard", shard.shard)
        _need(len(shard.constants) <= CONSTANTS_MAX, "constants", shard.constants)
    for part in table.parts:
        folder, _, name = part.file.partition("/")
        is_named = folder == manifest.attempt and bool(FILE_NAME.fullmatch(name))
        _need(is_named, "file", part.file)
        _need(bool(ATTEMPT.fullmatch(part.checksum)), f"{part.file}: checksum", part.checksum)
        is_sorted = _is_rising(part.shards, strictly=True)
        _need(is_sorted and all(shard < num_shards for shard in part.shards), "shards", part.shards)


def _is_rising(numbers: Sequence[int], *, strictly: bool = False) -> bool:
    pairs = itertools.pairwise(numbers)
    return all(a < b or (a == b and not strictly) for a, b in pairs)


def _need(holds: bool, what: str, given: object) -> None:
    if not holds:
        raise ValueError(f"{what} {given!r:.200} is not legal")
