"""The files of checkpoints: written, read by any number of shards, chained, damaged, removed."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import checkpoint_writer as cw
import reference
from checkpoint_writer import Dense, Rows, Sparse, definition, merged, replay, replay_dense, save
from fastps import _core, errors
from fastps.checkpoint import retention, storage
from fastps.checkpoint.manifest import MANIFEST, Manifest, Part, check_tag, decode, encode
from fastps.checkpoint.parts import decode_part
from fastps.checkpoint.reading import Lineage, newest
from fastps.checkpoint.storage import Store
from s3_server import S3Server

GOLDEN = Path(__file__).parent / "golden" / "checkpoint-v1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "checkpoints")


def same_bits(a: Rows, b: Rows) -> bool:
    def bits(rows: Rows) -> dict[int, bytes]:
        return {key: np.array(row, np.float32).tobytes() for key, row in rows.items()}

    return bits(a) == bits(b)


# The names of the state.


@pytest.mark.parametrize("name", cw.OPTIMIZERS)
def test_every_slot_has_a_name(name: str) -> None:
    rule = cw.OPTIMIZERS[name]
    assert len(rule.slots) == reference.n_slots(rule)
    assert len(rule.row_slots) == reference.n_row_slots(rule)


# Hashes.


def test_xxh64_takes_any_contiguous_buffer() -> None:
    # Of the xxHash specification: the empty input, and "abc" as in every implementation's tests.
    assert _core.xxh64(b"") == 0xEF46DB3751D8E999
    assert _core.xxh64(b"abc") == 0x44BC2CF5AD770999
    floats = np.arange(6, dtype=np.float32).reshape(2, 3)
    for buffer in (bytearray(floats.tobytes()), memoryview(floats.tobytes()), floats):
        assert _core.xxh64(buffer) == _core.xxh64(floats.tobytes())
    with pytest.raises((ValueError, BufferError, TypeError)):
        _core.xxh64(floats[:, ::2])
    with pytest.raises(TypeError):
        _core.xxh64("text")  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(1, 2**32 - 1))
def test_shards_of_keys(keys: list[int], num_shards: int) -> None:
    mixed = reference._mix(np.array(keys, np.uint64))
    expected = [int(each) * num_shards >> 64 for each in mixed]
    assert _core.shards_of_keys(np.array(keys, np.uint64), num_shards).tolist() == expected


# Round trips.


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("optimizer", cw.OPTIMIZERS)
def test_sparse_rows_come_back(optimizer: str, shape: tuple[int, ...], store: Store) -> None:
    table = definition("w", shape=shape, optimizer=optimizer)
    rows = cw.some_rows(cw.some_keys(300), table)
    rows[5] = tuple([math.inf, -math.inf, math.nan, *rows[0]][: len(rows[0])])
    save(store, [Sparse(table, rows)], part_bytes=1000)
    lineage = Lineage.open(store, "latest")
    assert len(lineage.newest.tables[0].parts) > 2
    lineage.verify()
    for num_shards in (4, 1, 3, 16):
        shards = replay(lineage, "w", num_shards)
        assert same_bits(merged(shards), rows)
        for shard, there in enumerate(shards):
            assert {cw.shard_of(key, num_shards) for key in there} <= {shard}


@pytest.mark.parametrize("shape", [(), (1,), (37,), (11, 5), (3, 4, 2)], ids=str)
@pytest.mark.parametrize("optimizer", ["SGD", "AdaGrad", "FTRL", "Adam"])
def test_dense_blocks_come_back(optimizer: str, shape: tuple[int, ...], store: Store) -> None:
    n = math.prod(shape)
    for saved in {1, min(3, n), min(7, n)}:
        table = definition(f"d{saved}", "dense", shape, optimizer, saved)
        arrays = cw.dense_arrays(table, saved)
        save(store, [Dense(table, arrays)], saved, part_bytes=100)
        lineage = Lineage.open(store, f"{saved:08d}")
        lineage.verify()
        for restored in {1, min(2, n), min(7, n), n}:
            found = replay_dense(lineage, table.name, restored)
            for array, expected in zip(found, arrays, strict=True):
                assert array[: len(expected)].tobytes() == expected.tobytes()


def test_parts_share_and_span(store: Store) -> None:
    table = definition(num_shards=64)
    save(store, [Sparse(table, cw.some_rows(cw.some_keys(100), table))], servers=1)
    (part,) = newest(store).tables[0].parts  # type: ignore[union-attr]
    assert len(part.shards) > 30
    one = definition("one", num_shards=1)
    save(store, [Sparse(one, cw.some_rows(range(1000), one))], 2, part_bytes=1200)
    parts = newest(store).tables[0].parts  # type: ignore[union-attr]
    assert [part.rows for part in parts] == [100] * 10
    assert all(part.bytes < 1200 + 1000 for part in parts)


def test_anybody_can_read_the_parts(store: Store) -> None:
    table = definition("emb", shape=(2, 3), optimizer="Adam", num_shards=1)
    rows = cw.some_rows([3, 4], table)
    save(store, [Sparse(table, rows)], servers=1)
    (path,) = Path(store.uri).glob("*/*/*.safetensors")
    assert path.name == "emb-s0-0000.safetensors"
    tensors = safetensors.numpy.load_file(path)
    names = "values slot.m slot.v row_slot.c1 row_slot.c2 keys removed"
    assert set(tensors) == set(names.split())
    assert tensors["values"].shape == (2, 2, 3)
    assert tensors["keys"].dtype == np.uint64
    (begin,) = np.flatnonzero(tensors["keys"] == 3)
    flat = [tensors[name][begin].reshape(-1) for name in names.split()[:5]]
    assert np.concatenate(flat).tolist() == list(rows[3])


@pytest.mark.parametrize("name", ["a/b", "../x", "ä" * 200, ".hidden", "W 1", "-x", "x" * 512])
def test_any_name_of_a_table(name: str, store: Store) -> None:
    tables = [definition(each, num_shards=1) for each in (name, name[:-1] + "%")]
    save(store, [Sparse(table, cw.some_rows([1], table, i)) for i, table in enumerate(tables)])
    lineage = Lineage.open(store, "latest")
    lineage.verify()
    for i, table in enumerate(tables):
        assert merged(replay(lineage, table.name, 1)) == cw.some_rows([1], table, i)


@pytest.mark.parametrize("optimizer", cw.OPTIMIZERS)
def test_a_golden_checkpoint_stays_readable(optimizer: str) -> None:
    lineage = Lineage.open(Store(GOLDEN), "two")
    lineage.verify()
    assert [manifest.tag for manifest in lineage.manifests] == ["one", "two"]
    one, two, dense = golden_tables(optimizer)
    expected = {key: row for key, row in {**one, **two}.items() if key not in (1, 2)}
    assert merged(replay(lineage, f"sparse-{optimizer}", 5)) == expected
    found = replay_dense(lineage, f"dense-{optimizer}", 4)
    for array, each in zip(found, dense, strict=True):
        assert array[: len(each)].tobytes() == each.tobytes()
    (group,) = lineage.newest.groups
    assert (group.name, group.clock, group.passes[0].done) == ("default", 5, ((0, 3), (5, 6)))


def golden_tables(optimizer: str) -> tuple[Rows, Rows, Any]:
    sparse = definition(f"sparse-{optimizer}", "sparse", (2,), optimizer, 3)
    dense = definition(f"dense-{optimizer}", "dense", (3, 4), optimizer, 2)
    keys = [*range(8), 2**63, 2**64 - 1]
    changed = cw.some_rows([0, 5, 77], sparse, 2)
    return cw.some_rows(keys, sparse, 1), changed, cw.dense_arrays(dense, 3)


def write_golden() -> None:
    """Run by hand, once for each format: python -c 'import test_checkpoint_files as t; ...'."""
    store = Store(GOLDEN)
    one: list[Any] = []
    two: list[Any] = []
    for name in cw.OPTIMIZERS:
        sparse = definition(f"sparse-{name}", "sparse", (2,), name, 3)
        dense = definition(f"dense-{name}", "dense", (3, 4), name, 2)
        first, changed, arrays = golden_tables(name)
        after = {k: v for k, v in {**first, **changed}.items() if k not in (1, 2)}
        one += [Sparse(sparse, first), Dense(dense, arrays)]
        two += [Sparse(sparse, changed, {1, 2}, False, set(), after), Dense(dense, None)]
    base = save(store, one, 1, tag="one", servers=1)
    save(store, two, 2, base, tag="two", servers=1)


# Increments.


def chain(store: Store, optimizer: str = "AdaGrad", n: int = 4) -> list[Rows]:
    """Save a base and increments with changes, removals and returns; return all rows after each."""
    table = definition("w", shape=(2,), optimizer=optimizer)
    dense = definition("d", "dense", (6, 3), optimizer, 4)
    rows = cw.some_rows(cw.some_keys(60), table)
    arrays = cw.dense_arrays(dense)
    manifest = save(store, [Sparse(table, rows), Dense(dense, arrays)], part_bytes=400)
    states = [rows]
    for number in range(2, n + 1):
        keys = sorted(rows)
        gone = set(keys[number::7])
        again = set(sorted(gone)[::2])
        changed = cw.some_rows([*keys[::5], *again, 1000 + number], table, number)
        changed = {key: row for key, row in changed.items() if key not in gone or key in again}
        rows = {key: row for key, row in rows.items() if key not in gone} | changed
        full = {number % 4}
        sparse = Sparse(table, changed, gone, False, full, rows)
        tables = [sparse, Dense(dense, cw.dense_arrays(dense, 3) if number == 3 else None)]
        manifest = save(store, tables, number, manifest, part_bytes=400)
        states.append(rows)
    return states


@pytest.mark.parametrize("num_shards", [1, 3, 4, 9])
def test_a_chain_of_increments(num_shards: int, store: Store) -> None:
    states = chain(store)
    for number, rows in enumerate(states, 1):
        lineage = Lineage.open(store, f"{number:08d}")
        lineage.verify()
        assert len(lineage.manifests) == number
        assert same_bits(merged(replay(lineage, "w", num_shards)), rows)
    expected = cw.dense_arrays(definition("d", "dense", (6, 3), "AdaGrad", 4), 3)
    for array, each in zip(replay_dense(lineage, "d", num_shards), expected, strict=True):
        assert array[: len(each)].tobytes() == each.tobytes()


steps = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 30), st.integers(0, 99), max_size=12),  # set
        st.sets(st.integers(0, 30), max_size=8),  # removed before that
        st.sets(st.integers(0, 3)),  # full shards
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(steps, st.integers(1, 6), st.integers(10, 200), st.integers(1, 3))
def test_a_chain_is_what_a_dict_is(
    changes: Any, num_shards: int, part_bytes: int, servers: int
) -> None:
    store = Store(f"memory://dict/{time.monotonic_ns()}")
    table = definition("w", optimizer="Accumulate")
    rows: Rows = {}
    manifest = None
    for number, (values, removed, full) in enumerate(changes, 1):
        changed = {key: (float(value),) for key, value in values.items()}
        rows = {key: row for key, row in rows.items() if key not in removed} | changed
        sparse = Sparse(table, changed, removed, False, full, rows)
        if manifest is None:
            sparse = Sparse(table, rows)
        manifest = save(store, [sparse], number, manifest, servers=servers, part_bytes=part_bytes)
    lineage = Lineage.open(store, "latest")
    assert merged(replay(lineage, "w", num_shards)) == rows
    retention.compact(store, "latest", "full", part_bytes=part_bytes)
    assert merged(replay(Lineage.open(store, "full"), "w", num_shards)) == rows


def test_a_table_that_is_new_in_an_increment(store: Store) -> None:
    old, new = definition("old"), definition("new")
    base = save(store, [Sparse(old, cw.some_rows([1], old))])
    save(store, [Sparse(new, cw.some_rows([2], new))], 2, base)
    lineage = Lineage.open(store, "latest")
    assert set(lineage.tables()) == {"new"}
    assert merged(replay(lineage, "new", 2)) == cw.some_rows([2], new)
    with pytest.raises(errors.CheckpointError, match="has no table 'old'; its tables: 'new'"):
        lineage.changes_of("old", 0, 1)


def test_gaps_and_wrong_order(store: Store, tmp_path: Path) -> None:
    chain(store)
    root = Path(store.uri)
    shutil.move(root / "00000002", tmp_path / "away")
    assert Lineage.open(store, "00000001")
    with pytest.raises(errors.CheckpointError, match=r"'00000003' holds what changed since '0.*2'"):
        Lineage.open(store, "latest")
    # Another checkpoint in its place: same name, other content.
    table = definition("w", shape=(2,), optimizer="AdaGrad")
    other = save(store, [Sparse(table, cw.some_rows([1], table))], 2)
    with pytest.raises(errors.CheckpointError, match="it was replaced"):
        Lineage.open(store, "latest")
    assert other.tag == "00000002"
    # One increment under another's name.
    shutil.rmtree(root / "00000002")
    shutil.copytree(root / "00000003", root / "00000002")
    with pytest.raises(errors.CheckpointError, match="cannot be renamed"):
        Lineage.open(store, "00000004")


def test_an_increment_on_a_later_one(store: Store) -> None:
    table = definition()
    base = save(store, [Sparse(table, cw.some_rows([1], table))], 5)
    save(store, [Sparse(table, {}, set(), False, set(), {1: (0.0,)})], 4, base)
    with pytest.raises(errors.CheckpointError, match="is not older"):
        Lineage.open(store, "00000004")


def test_an_increment_of_a_table_that_was_not_there(store: Store) -> None:
    one, two = definition("one"), definition("two")
    base = save(store, [Sparse(one, cw.some_rows([1], one))])
    save(store, [Sparse(two, cw.some_rows([1], two), set(), False)], 2, base)
    with pytest.raises(errors.CheckpointError, match="nothing before it has that shard"):
        Lineage.open(store, "latest").verify()


# Damage.


def small(store: Store) -> None:
    table = definition("w", optimizer="Adam", num_shards=1)
    dense = definition("d", "dense", (3,), "SGD", 1)
    tables = [Sparse(table, cw.some_rows([1, 2], table)), Dense(dense, cw.dense_arrays(dense))]
    base = save(store, tables, servers=1)
    save(
        store, [Sparse(table, {}, {1}, False, set(), cw.some_rows([2], table))], 2, base, servers=1
    )


def read_all(store: Store, tag: str = "00000002") -> None:
    Lineage.open(store, tag).verify()


def files(store: Store) -> list[Path]:
    return sorted(path for path in Path(store.uri).rglob("*") if path.is_file())


def test_each_flipped_byte_is_found(store: Store) -> None:
    small(store)
    read_all(store)
    n = 0
    for path in files(store):
        whole = path.read_bytes()
        for at in range(len(whole)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at + n) % 8
            path.write_bytes(damaged)
            with pytest.raises(errors.CheckpointError) as caught:
                read_all(store, path.relative_to(store.uri).parts[0])
            assert path.name in str(caught.value)
        n += len(whole)
        path.write_bytes(whole)
    read_all(store)
    assert n > 3000


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, -1, -8])
def test_each_truncated_file_is_found(size: int, store: Store) -> None:
    small(store)
    for path in files(store):
        whole = path.read_bytes()
        for damaged in (whole[:size], whole + b"\0", whole + b"\n"):
            path.write_bytes(damaged)
            with pytest.raises(errors.CheckpointError, match=path.name):
                read_all(store)
        path.unlink()
        with pytest.raises(errors.CheckpointError, match=r"00000002|it does not exist"):
            read_all(store)
        path.write_bytes(whole)
    read_all(store)


def test_swapped_files_are_found(store: Store) -> None:
    chain(store)
    parts = [path for path in files(store) if path.name != MANIFEST]
    for one, other in itertools.pairwise(parts):
        contents = one.read_bytes(), other.read_bytes()
        assert contents[0] != contents[1]
        one.write_bytes(contents[1])
        other.write_bytes(contents[0])
        with pytest.raises(errors.CheckpointError, match="is damaged"):
            Lineage.open(store, "latest").verify()
        one.write_bytes(contents[0])
        other.write_bytes(contents[1])


def forge(store: Store, change: Any) -> None:
    """Change the one part of a checkpoint and make its checksum right again."""
    manifest = store.read_manifest("00000001")
    (part,) = manifest.tables[0].parts
    path = Path(store.uri) / manifest.tag / part.file
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = {k: v.copy() for k, v in safetensors.numpy.load(data).items()}
    change(tensors, metadata)
    data = safetensors.numpy.save(tensors, metadata=metadata)
    path.write_bytes(data)
    changed = replace(part, bytes=len(data), checksum=f"{_core.xxh64(data):016x}")
    table = replace(manifest.tables[0], parts=(changed,))
    (path.parents[1] / MANIFEST).write_bytes(encode(replace(manifest, tables=(table,))))


def set_tensor(name: str, value: Any) -> Any:
    return lambda tensors, metadata: tensors.__setitem__(name, value)


def set_segments(value: Any) -> Any:
    return lambda tensors, metadata: metadata.__setitem__("segments", json.dumps(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_tensor("keys", np.array([1, 1, 3], np.uint64)), "key 1 of table 'w' is there twice"),
        (set_tensor("keys", np.array([1, 2], np.uint64)), "keys|values"),
        (set_tensor("keys", np.array([1, 2, 3], np.int64)), "not legal"),
        (set_tensor("values", np.zeros((3, 2), np.float32)), "values is float32"),
        (set_tensor("slot.z", np.zeros(3, np.float32)), "tensors"),
        (set_segments([[0, 0, 2, 0, 0, 1]]), "segments are of 2 rows"),
        (set_segments([[0, 0, 1, 0, 0, 1], [0, 2, 3, 0, 0, 1]]), "does not follow"),
        (set_segments([[1, 0, 3, 0, 0, 1]]), "does not belong"),
        (set_segments([[0, 0, 3, 0, 0, 0]]), "full"),
        (set_segments([[0, 0, 3]]), "six numbers"),
        (set_segments([[0, -1, 3, 0, 0, 1]]), "lists of numbers"),
        (set_segments("x"), "lists of numbers"),
        (lambda tensors, metadata: metadata.update(table="v"), "is of table 'v'"),
        (lambda tensors, metadata: metadata.update(fastps="checkpoint part 2"), "part 1"),
        (lambda tensors, metadata: tensors.pop("removed"), "tensors"),
    ],
)
def test_content_is_not_trusted(change: Any, message: str, store: Store) -> None:
    table = definition(num_shards=1)
    save(store, [Sparse(table, cw.some_rows([1, 2, 3], table))], servers=1)
    forge(store, change)
    with pytest.raises(errors.CheckpointError, match=message) as caught:
        replay(Lineage.open(store, "latest"), "w", 1)
    assert "w-s0-0000.safetensors" in str(caught.value)


def test_a_full_shard_has_all_of_its_rows(store: Store) -> None:
    table = definition(num_shards=1)
    manifest = save(store, [Sparse(table, cw.some_rows([1, 2], table))])
    saved = manifest.tables[0]
    shard = replace(saved.shards[0], rows=3)
    path = Path(store.uri) / manifest.tag / MANIFEST
    path.write_bytes(encode(replace(manifest, tables=(replace(saved, shards=(shard,)),))))
    with pytest.raises(errors.CheckpointError, match="2 rows in its files, its manifest says 3"):
        replay(Lineage.open(store, "latest"), "w", 1)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.data())
def test_any_bytes_are_no_part(noise: bytes, is_dense: bool, data: Any) -> None:
    layout = cw.layout_of(definition(kind="dense" if is_dense else "sparse", shape=(3,)))
    header = data.draw(
        st.one_of(
            st.binary(max_size=40),
            st.recursive(
                st.one_of(st.none(), st.integers(-5, 2**70), st.text(max_size=5)),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=4),
                    st.dictionaries(
                        st.sampled_from(
                            ["keys", "values", "removed", "__metadata__", "shape", "dtype"]
                        ),
                        inner,
                        max_size=4,
                    ),
                ),
            ).map(lambda value: json.dumps(value).encode()),
        )
    )
    with pytest.raises(ValueError):  # noqa: PT011
        decode_part(len(header).to_bytes(8, "little") + header + noise, layout, 4)


# Manifests.


def example() -> Manifest:
    table = definition()
    store = Store(f"memory://example/{time.monotonic_ns()}")
    return save(store, [Sparse(table, cw.some_rows([1, 2], table))])


def test_a_manifest_is_canonical() -> None:
    manifest = example()
    data = encode(manifest)
    assert decode(data, "here") == manifest
    assert encode(decode(data, "here")) == data
    content = json.loads(data)
    assert data == json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def resealed(**changed: Any) -> bytes:
    content = {**json.loads(encode(example())), **changed, "checksum": "0" * 16}
    data = json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"
    seal = f'"checksum": "{_core.xxh64(data):016x}"'.encode()
    return data.replace(b'"checksum": "' + b"0" * 16 + b'"', seal, 1)


def test_an_unknown_version() -> None:
    with pytest.raises(errors.CheckpointError, match="of format version 2; this fastps reads"):
        decode(resealed(format=2, version="9.9"), "c/MANIFEST.json")


@pytest.mark.parametrize(
    "changed",
    [
        {"tag": "../x"},
        {"tag": "latest"},
        {"attempt": "x"},
        {"number": -1},
        {"number": 1.5},
        {"extra": 1},
        {"parent": {"tag": "00000001", "cut_id": "0", "checksum": "0"}},
        {"tables": [{}]},
        {"groups": 5},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_together(changed: dict[str, Any]) -> None:
    with pytest.raises(errors.CheckpointError, match=r"c/MANIFEST.json is damaged"):
        decode(resealed(**changed), "c/MANIFEST.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: replace(t, shards=t.shards[:-1]),
        lambda t: replace(t, shards=(replace(t.shards[0], is_full=False), *t.shards[1:])),
        lambda t: replace(t, parts=(replace(t.parts[0], file="../../etc/passwd"),)),
        lambda t: replace(t, parts=(replace(t.parts[0], file="0" * 16 + "/../x.safetensors"),)),
        lambda t: replace(t, parts=(t.parts[0], t.parts[0])),
        lambda t: replace(t, parts=(replace(t.parts[0], shards=(9,)),)),
        lambda t: replace(t, definition=replace(t.definition, optimizer={"name": "Lion"})),
        lambda t: replace(t, definition=replace(t.definition, shape=None)),
        lambda t: replace(t, definition=replace(t.definition, shape=(0,))),
        lambda t: replace(t, definition=replace(t.definition, kind="odd")),
        lambda t: replace(t, shards=(replace(t.shards[0], constants=(math.nan,)), *t.shards[1:])),
    ],
)
def test_a_manifest_that_does_not_fit_is_not_written(change: Any) -> None:
    manifest = example()
    with pytest.raises(errors.CheckpointError, match="cannot be written"):
        encode(replace(manifest, tables=(change(manifest.tables[0]),)))


@pytest.mark.parametrize("tag", ["", "latest", ".x", "a/b", "a" * 101, "ä", "a b", "..", None, 5])
def test_tags_that_are_not(tag: Any) -> None:
    with pytest.raises(errors.ConfigError, match="tag is"):
        check_tag(tag)


# Retention and compaction.


def tags(store: Store) -> list[str]:
    return store.list_tags()


def test_retention_keeps_what_is_needed(store: Store) -> None:
    chain(store)  # 1 <- 2 <- 3 <- 4
    table = definition()
    save(store, [Sparse(table, cw.some_rows([1], table))], 5)
    save(store, [Sparse(table, cw.some_rows([1], table))], 6, tag="named")
    assert retention.next_number(store) == 7
    assert newest(store).tag == "named"  # type: ignore[union-attr]
    assert retention.retain(store, 3) == []
    Lineage.open(store, "00000004").verify()
    assert retention.retain(store, 2) == ["00000004", "00000003", "00000002", "00000001"]
    assert tags(store) == ["00000005", "named"]
    assert sorted(path.name for path in Path(store.uri).iterdir()) == tags(store)
    with pytest.raises(errors.ConfigError, match="keep is 0"):
        retention.retain(store, 0)


def test_retention_when_nobody_knows_what_is_needed(store: Store) -> None:
    chain(store)
    before = files(store)
    path = Path(store.uri) / "00000002" / MANIFEST
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(errors.CheckpointError, match=r"00000002/MANIFEST.json is damaged"):
        retention.retain(store, 1)
    assert files(store) == before
    assert retention.next_number(store) == 5


def test_leftovers_go_after_an_hour(store: Store) -> None:
    table = definition()
    save(store, [Sparse(table, cw.some_rows([1], table))])
    root = Path(store.uri)
    leftovers = ["00000002/" + "a" * 16, "00000001/" + "b" * 16, "x/" + "c" * 16]
    for folder in leftovers:
        (root / folder).mkdir(parents=True)
        (root / folder / "w-s0-0000.safetensors").write_bytes(b"x")
    (root / "00000002" / f".{MANIFEST}.0{storage.PARTIAL}").write_bytes(b"x")
    others = [
        "mine/data.txt",
        "mine2/" + "d" * 16 + "/data.txt",
        "file",
        "mine3/" + "e" * 16 + "/f/g",
    ]
    for name in others:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "empty").mkdir()
    retention.retain(store, 1)
    assert all((root / folder).exists() for folder in leftovers)
    for path in root.rglob("*"):
        os.utime(path, (time.time() - 4000,) * 2)
    retention.retain(store, 1)
    assert not any((root / folder).exists() for folder in leftovers)
    assert not (root / "00000002").exists()
    assert all((root / name).exists() for name in [*others, "empty"])
    Lineage.open(store, "latest").verify()


def test_compaction_is_the_replay(store: Store) -> None:
    states = chain(store)
    before = {path: path.read_bytes() for path in files(store)}
    manifest = retention.compact(store, "latest", "full", part_bytes=500)
    assert {path: path.read_bytes() for path in before} == before
    assert manifest.number == 4
    lineage = Lineage.open(store, "full")
    assert len(lineage.manifests) == 1
    lineage.verify()
    chained = Lineage.open(store, "00000004")
    for num_shards in (1, 4, 5):
        assert same_bits(merged(replay(lineage, "w", num_shards)), states[-1])
        for a, b in zip(
            replay_dense(lineage, "d", num_shards),
            replay_dense(chained, "d", num_shards),
            strict=True,
        ):
            assert a.tobytes() == b.tobytes()
    # It is preferred to the chain, which is of no use any more.
    assert newest(store) == manifest
    assert retention.retain(store, 1) == [f"{n:08d}" for n in (4, 3, 2, 1)]
    lineage.verify()
    with pytest.raises(errors.CheckpointError, match="there is a checkpoint 'full'"):
        retention.compact(store, "latest", "full")


def test_compaction_of_a_damaged_chain_leaves_nothing(store: Store) -> None:
    chain(store)
    before = files(store)
    part = next(path for path in before if "00000004" in path.parts and path.name != MANIFEST)
    part.write_bytes(part.read_bytes()[:-1] + bytes([part.read_bytes()[-1] ^ 1]))
    with pytest.raises(errors.CheckpointError, match="is damaged"):
        retention.compact(store, "latest", "full")
    assert files(store) == before
    assert not (Path(store.uri) / "full").exists()


# Stores.


@pytest.fixture(params=["path", "file", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_bucket") + f"/{time.monotonic_ns()}")
    return Store(
        {
            "path": str(tmp_path / "c"),
            "file": f"file://{tmp_path}/c",
            "memory": f"memory://c/{time.monotonic_ns()}",
        }[request.param]
    )


@pytest.fixture(scope="session")
def s3_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 server in a process of its own."""
    with S3Server(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server.uri


def test_any_store(any_store: Store) -> None:
    store = any_store
    assert tags(store) == []
    assert newest(store) is None
    states = chain(store)
    assert tags(store) == [f"{n:08d}" for n in (1, 2, 3, 4)]
    lineage = Lineage.open(store, "latest")
    lineage.verify()
    assert same_bits(merged(replay(lineage, "w", 3)), states[-1])
    with pytest.raises(errors.CheckpointError, match=r"there is a checkpoint '00000004'.*already"):
        store.write_manifest(replace(lineage.newest, number=9))
    store.write_manifest(lineage.newest)  # a put that is repeated
    Lineage.open(store, "latest").verify()
    table = definition()
    store.write_file("00000004/" + "f" * 16 + "/w-s0-0000.safetensors", b"x")
    assert store.list_attempts("00000004") == ["0" * 15 + "4", "f" * 16]
    store.remove_attempt("00000004", "f" * 16)
    store.remove_attempt("none", "f" * 16)
    save(store, [Sparse(table, cw.some_rows([1], table))], 5)
    retention.retain(store, 1)
    assert store.list_folders() == tags(store) == ["00000005"]
    with pytest.raises(errors.CheckpointError, match="no complete checkpoint '00000001'"):
        Lineage.open(store, "00000001")
    store.remove("00000005")
    assert store.list_folders() == []
    with pytest.raises(errors.CheckpointError, match="no complete checkpoint in"):
        Lineage.open(store, "latest")
    with pytest.raises(errors.CheckpointError, match="x/y: it does not exist"):
        store.read("x/y")


def test_two_writers_of_a_tag(any_store: Store) -> None:
    """Both pass every check before; the store itself decides."""
    table = definition()
    save(any_store, [Sparse(table, cw.some_rows([1], table))])
    first = newest(any_store)
    with pytest.raises(errors.CheckpointError, match="none is overwritten"):
        save(any_store, [Sparse(table, cw.some_rows([2], table))], 2, tag="00000001")
    assert newest(any_store) == first
    Lineage.open(any_store, "latest").verify()


def test_s3_without_a_bucket(s3_bucket: str) -> None:
    store = Store("s3://no-such-bucket/c")
    with pytest.raises(errors.CheckpointError, match=r"s3://no-such-bucket/c/x.*does not exist"):
        store.write_file("x", b"x")


def test_s3_without_a_server(monkeypatch: pytest.MonkeyPatch, s3_bucket: str) -> None:
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(errors.CheckpointError, match=r"cannot list s3://bucket/c"):
            Store("s3://bucket/c").list_tags()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("uri", ["odd://x", "", 5])
def test_no_such_store(uri: Any) -> None:
    with pytest.raises((errors.ConfigError, TypeError)):
        Store(uri)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'fastps\[checkpoint\]'"):
        Store("s3://x/y")


def test_relative_paths_mean_the_same_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("c").uri == str(tmp_path / "c")
    assert Store(Path("c")).uri == Store("file://" + str(tmp_path / "c")).uri
    assert Store("~/c").uri == str(Path.home() / "c")
    assert Store("memory://a/b/").uri == "memory://a/b"


# Failures of the file system.


def fails_and_leaves_the_rest(store: Store, message: str) -> None:
    """A further save fails, and what was there is untouched."""
    before = {path: path.read_bytes() for path in files(store)}
    table = definition(num_shards=1)
    with pytest.raises(errors.CheckpointError, match=message):
        save(store, [Sparse(table, cw.some_rows(range(60_000), table))], 9, servers=1)
    assert {path: path.read_bytes() for path in files(store)} == before
    assert tags(store) == ["00000001", "00000002"]
    read_all(store)


def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        store = Store(folder)
        small(store)
        fails_and_leaves_the_rest(store, "no space is left: free some, or save elsewhere")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_that_is_too_large(store: Store) -> None:
    small(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        fails_and_leaves_the_rest(store, "larger than allowed here")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "link", "write"])
def test_whatever_call_fails(
    call: str, number: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(store)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    if call == "write":
        monkeypatch.setattr(storage, "_write_synced", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    table = definition(num_shards=1)
    with pytest.raises(errors.CheckpointError, match=r"cannot write .*00000009/"):
        save(store, [Sparse(table, cw.some_rows([1], table))], 9, servers=1)
    monkeypatch.undo()
    assert tags(store) == ["00000001", "00000002"]
    assert not [path for path in files(store) if path.name.endswith(storage.PARTIAL)]
    read_all(store)


def test_a_file_system_without_links(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", fail)
    small(store)
    read_all(store)
    with pytest.raises(errors.CheckpointError, match="already"):
        store.write_manifest(replace(store.read_manifest("00000002"), number=7))
    read_all(store)


def test_no_permission(store: Store) -> None:
    small(store)
    if os.geteuid() == 0:  # root may do anything: another user in a process of its own
        program = (
            "import os, sys\n"
            "from fastps.checkpoint.storage import Store\n"
            "from fastps.errors import CheckpointError\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try: Store(sys.argv[1]).write_file('t/x', b'x')\n"
            "except CheckpointError as error: print(error)\n"
        )
        shown = subprocess.run(
            [sys.executable, "-c", program, store.uri],
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        assert "no permission" in shown.stdout
        assert f"{store.uri}/t/x" in shown.stdout
    else:
        Path(store.uri).chmod(0o500)
        try:
            with pytest.raises(errors.CheckpointError, match="no permission"):
                store.write_file("t/x", b"x")
        finally:
            Path(store.uri).chmod(0o700)


def test_parts_are_listed_as_they_are(store: Store) -> None:
    small(store)
    manifest = store.read_manifest("00000001")
    for table in manifest.tables:
        for part in table.parts:
            assert isinstance(part, Part)
            path = Path(store.uri) / manifest.tag / part.file
            assert path.stat().st_size == part.bytes
    assert Lineage.open(store, "00000002").bytes == sum(
        path.stat().st_size for path in files(store) if path.name != MANIFEST
    )
