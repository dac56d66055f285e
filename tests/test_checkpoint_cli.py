"""inspect, export, import and compact: what people and other programs see of checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import checkpoint_writer as cw
import reference
from checkpoint_writer import Dense, Sparse, definition, save
from fastps import optimizers
from fastps.checkpoint.manifest import MANIFEST
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import Store
from fastps.checkpoint.warm import assigned_rows
from fastps.cli.main import main

FORMATS = ["npz", "safetensors", "parquet", "text"]
Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``fastps ...``, expect an exit code, and return what it said."""

    def call(*arguments: object, code: int = 0) -> str:
        try:
            ended = main([str(argument) for argument in arguments])
        except SystemExit as error:
            ended = int(error.code or 0)
        said = capsys.readouterr()
        assert ended == code, said.err
        return said.err if code else said.out

    return call


@pytest.fixture
def saved(tmp_path: Path) -> Store:
    """A base and an increment, of vectors under Adam, of scalars, and of a dense table."""
    store = Store(tmp_path / "c")
    vectors = definition("vectors", shape=(2, 2), optimizer="Adam")
    scalars = definition("scalars")
    dense = definition("dense", "dense", (5, 3), "FTRL", 3)
    one = [
        Sparse(vectors, cw.some_rows(range(50), vectors)),
        Sparse(scalars, cw.some_rows(cw.some_keys(30), scalars)),
        Dense(dense, cw.dense_arrays(dense)),
    ]
    base = save(store, one)  # type: ignore[arg-type]
    changed = cw.some_rows([7, 2**64 - 1], vectors, 5)
    after = {**cw.some_rows(range(50), vectors), **changed}
    del after[3]
    two = [
        Sparse(vectors, changed, {3}, False, set(), after),
        Sparse(scalars, {}, set(), False, set(), one[1].rows),  # type: ignore[union-attr]
        Dense(dense, None),
    ]
    save(store, two, 2, base)  # type: ignore[arg-type]
    return store


def test_inspect(saved: Store, run: Run) -> None:
    said = run("inspect", saved.uri)
    assert "00000001" in said
    assert said.rstrip().endswith("00000001")  # the newest last, and what it builds on
    said = run("inspect", saved.uri, "--verify")
    assert "all files are as they were written" in said
    said = run("inspect", saved.uri, "--tag", "latest", "--verify")
    for part in (
        "increments 00000001 <- 00000002",
        "table 'vectors': sparse, shape (2, 2), 50 rows in 4 shards; state: m, v, c1, c2",
        "written: 2 rows, 1 removed keys",
        "optimizer: Adam(lr=0.5",
        "entries applied: 10 to 13 a shard; views 3",
        "table 'dense': dense, shape (5, 3), 15 elements in 3 shards; state: z, n",
        "all files are as they were written",
        "1: 4 of 10",
    ):
        assert part in said
    content = json.loads(run("inspect", saved.uri, "--json"))
    assert [each["tag"] for each in content["checkpoints"]] == ["00000001", "00000002"]
    one = json.loads(run("inspect", saved.uri, "--json", "--tag", "00000002"))
    assert one["chain"] == ["00000001", "00000002"]
    assert one["tables"][0]["shards"][0]["view"] == 3
    assert one["groups"][0]["clock"] == 5


def test_inspect_of_damage(saved: Store, run: Run, tmp_path: Path) -> None:
    part = next(Path(saved.uri).glob("00000002/*/*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    run("inspect", saved.uri)
    assert f"00000002: {part} is damaged" in run("inspect", saved.uri, "--verify", code=1)
    assert str(part) in run("inspect", saved.uri, "--verify", "--tag", "00000002", code=1)
    run("inspect", saved.uri, "--verify", "--tag", "00000001")
    (Path(saved.uri) / "00000002" / MANIFEST).write_bytes(b"{}")
    assert "MANIFEST.json is damaged" in run("inspect", saved.uri, code=1)
    assert "no complete checkpoint" in run("inspect", tmp_path / "none", code=1)
    assert "no complete checkpoint 'x'" in run("inspect", saved.uri, "--tag", "x", code=1)
    assert "tag is 'a/b'" in run("inspect", saved.uri, "--tag", "a/b", code=2)
    assert "Protocol not known" in run("inspect", "odd://x", code=2)


@pytest.mark.parametrize("format", FORMATS)
def test_export_and_import_again(format: str, saved: Store, run: Run, tmp_path: Path) -> None:
    """Values that were exported and imported are the same bits."""
    lineage = Lineage.open(saved, "latest")
    for table, shape in (("vectors", ["--row-shape", "2,2"]), ("scalars", []), ("dense", [])):
        file = tmp_path / f"{table}.{format}"
        at = ["--table", table, "--format", format]
        said = run("export", saved.uri, *at, "--output", file)
        assert "checkpoint 00000002" in said
        dense = ["--dense"] if table == "dense" else []
        target = tmp_path / f"{table}-{format}"
        run("import", file, target, *at, *dense, *shape)
        again = Lineage.open(Store(target), "latest")
        again.verify()
        assert again.table(table).definition.shape == lineage.table(table).definition.shape
        if table == "dense":
            values = cw.replay_dense(lineage, table, 2)[0]
            assert cw.replay_dense(again, table, 2)[0].tobytes() == values.tobytes()
            continue
        width = lineage.table(table).layout().width
        rows = cw.merged(cw.replay(lineage, table, 3))
        expected = {key: row[:width] for key, row in rows.items()}
        found = cw.merged(cw.replay(again, table, 3))
        assert {k: np.array(v, np.float32).tobytes() for k, v in found.items()} == {
            k: np.array(v, np.float32).tobytes() for k, v in expected.items()
        }


def test_what_numpy_reads(saved: Store, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "v.npz"
    at = ["--table", "vectors", "--format", "npz", "--output", file, "--with-state"]
    run("export", saved.uri, *at)
    arrays = np.load(file)
    assert set(arrays) == {"keys", "values", "slot.m", "slot.v", "row_slot.c1", "row_slot.c2"}
    assert arrays["keys"].tolist() == [*range(3), *range(4, 50), 2**64 - 1]
    assert arrays["values"].shape == arrays["slot.m"].shape == (50, 2, 2)
    rows = cw.merged(cw.replay(Lineage.open(saved, "latest"), "vectors", 1))
    whole = [arrays[name].reshape(50, -1) for name in arrays if name != "keys"]
    stacked = np.concatenate(whole, axis=1)
    for key, row in zip(arrays["keys"].tolist(), stacked, strict=True):
        assert row.tolist() == list(rows[key])
    run("export", saved.uri, "--table", "dense", "--format", "npz", "--output", file)
    assert np.load(file)["values"].shape == (5, 3)
    at = ["--table", "scalars", "--tag", "00000001", "--format", "safetensors", "--output", file]
    run("export", saved.uri, *at)
    assert safetensors.numpy.load_file(file)["values"].shape == (30,)


def test_what_others_read(saved: Store, run: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "f"
    run("export", saved.uri, "--table", "vectors", "--format", "parquet", "--output", file,
        "--with-state")  # fmt: skip
    table = parquet.read_table(file)
    names = ["key", "value", "slot.m", "slot.v", "row_slot.c1", "row_slot.c2"]
    assert table.column_names == names
    assert len(table) == 50
    assert json.loads(table.schema.metadata[b"fastps"])["shape"] == [2, 2]
    assert len(table.column("value")[0].as_py()) == 4
    run("export", saved.uri, "--table", "dense", "--format", "text", "--output", file)
    lines = file.read_text().splitlines()
    assert lines[0] == "# row value[0] value[1] value[2]"
    assert np.loadtxt(file).shape == (5, 4)


def test_export_that_cannot_be(saved: Store, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.npz"
    file.write_bytes(b"mine")
    at = ["--format", "npz", "--output", file]
    assert "its tables: 'vectors'" in run("export", saved.uri, "--table", "x", *at, code=1)
    part = next(Path(saved.uri).glob("00000001/*/vectors*.safetensors"))
    part.unlink()
    said = run("export", saved.uri, "--table", "vectors", *at, code=1)
    assert f"cannot read {part}: it does not exist" in said
    assert file.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "f.npz"]
    assert "required" in run("export", saved.uri, "--table", "x", code=2)
    nowhere = tmp_path / "no" / "f"
    at = ["--table", "x", "--format", "npz", "--output", nowhere]
    assert "make the directory" in run("export", saved.uri, *at, code=2)


# Import.


@pytest.mark.parametrize("name", cw.OPTIMIZERS)
def test_imported_rows_are_as_assigned(name: str) -> None:
    rule = cw.OPTIMIZERS[name]
    if name == "FTRL":
        rule = optimizers.FTRL(alpha=0.3, beta=0.7, l1=1.5, l2=0.1)
    values = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    values[:2] = [[0.0], [-0.0]]
    expected = reference.stored_rows(values, reference.new_state(rule, values))
    assert np.array_equal(assigned_rows(rule, values), expected)


def test_import_as_the_script_makes_the_table(run: Run, tmp_path: Path) -> None:
    file, uri = tmp_path / "w.npz", tmp_path / "c"
    np.savez(file, keys=np.arange(6), values=np.arange(12.0).reshape(6, 2))
    run(
        *("import", file, uri, "--format", "npz", "--table", "w", "--tag", "start"),
        *("--optimizer", "fastps.optimizers.Adam(0.5, betas=(0.5, 0.75))"),
        *("--initializer", "Normal(std=0.1, seed=7)", "--consistency", "BSP(backup=1)"),
        *("--num-shards", 5, "--replication", 2, "--group", "trainers"),
    )
    lineage = Lineage.open(Store(uri), "start")
    table = lineage.table("w")
    made = table.definition
    assert made.optimizer == optimizers.Adam(lr=0.5, betas=(0.5, 0.75)).to_json()
    assert made.initializer == {"name": "Normal", "mean": 0.0, "std": 0.1, "seed": 7}
    assert made.consistency == {"name": "BSP", "backup": 1}
    assert (made.shape, made.num_shards, made.replication, made.group) == ((2,), 5, 2, "trainers")
    assert table.round == 0
    assert table.shards[0].constants[:3] == (0.5, 0.5, 0.75)
    rows = cw.merged(cw.replay(lineage, "w", 2))
    assert rows[5] == (10.0, 11.0, *[0.0] * 6)


def test_import_beside_the_tables_of_another(saved: Store, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    np.savez(file, values=np.ones((4, 2)))
    at = ["--format", "npz", "--dense", "--add-to", "latest"]
    said = run("import", file, saved.uri, *at, "--table", "new")
    assert "with the tables of 00000002" in said
    run("import", file, saved.uri, *at, "--table", "dense")  # in its place
    before, lineage = Lineage.open(saved, "00000002"), Lineage.open(saved, "latest")
    lineage.verify()
    assert set(lineage.tables()) == {"vectors", "scalars", "dense", "new"}
    assert lineage.newest.groups == before.newest.groups
    for name in ("vectors", "scalars"):
        rows = cw.merged(cw.replay(before, name, 2))
        assert cw.merged(cw.replay(lineage, name, 2)) == rows
    for name in ("dense", "new"):
        assert cw.replay_dense(lineage, name, 3)[0].tolist() == [1.0] * 8


def test_import_of_a_trained_model(run: Run, tmp_path: Path) -> None:
    """What ``fastps train lr`` writes: keys, weights, bias, hash_bits."""
    file, uri = tmp_path / "m.npz", tmp_path / "c"
    keys, weights = np.array([5, 9], np.uint64), np.array([1.0, 2.0], np.float32)
    np.savez(file, keys=keys, weights=weights, bias=np.float32(1), hash_bits=np.int64(0))
    run("import", file, uri, "--format", "npz", "--table", "weights")
    rows = cw.merged(cw.replay(Lineage.open(Store(uri), "latest"), "weights", 1))
    assert rows == {5: (1.0,), 9: (2.0,)}


def arrays(**given: Any) -> Callable[[Path], Any]:
    return lambda path: np.savez(path, **given)


KEYS = np.arange(3)


@pytest.mark.parametrize(
    ("write", "format", "options", "message"),
    [
        (arrays(keys=KEYS, values=[1.0, np.nan, 1.0]), "npz", [], "value (1,) is not finite"),
        (arrays(keys=KEYS, values=[1.0, 1e39, 1.0]), "npz", [], "value (1,) is not finite"),
        (arrays(keys=KEYS, values=[1.0]), "npz", [], "the keys are int64 of shape (3,)"),
        (arrays(keys=[1, -2], values=[1.0, 2]), "npz", [], "key -2 is negative"),
        (arrays(keys=[1, 7, 1], values=KEYS), "npz", [], "key 1 is there twice"),
        (arrays(keys=[1.0, 2.0], values=[1, 2]), "npz", [], "the keys are float64"),
        (arrays(keys=KEYS, values=["a", "b", "c"]), "npz", [], "the values are <U1"),
        (arrays(keys=KEYS), "npz", [], "has the arrays ['keys']"),
        (arrays(values=KEYS), "npz", [], "give --dense"),
        (arrays(keys=KEYS, values=KEYS), "npz", ["--row-shape", "2"], "--row-shape (2,) does not"),
        (arrays(values=KEYS), "npz", ["--dense", "--shape", "2"], "--shape (2,) does not"),
        (arrays(keys=[0, 2], values=[1, 2]), "npz", ["--dense"], "each of 0 to 1 once"),
        (arrays(values=np.ones((0, 2))), "npz", ["--dense"], "there are none"),
        (lambda path: path.write_bytes(b"PK\3\4 no"), "npz", [], "is not what --format npz reads"),
        (lambda path: path.write_bytes(b"no"), "npz", [], "is not what --format npz reads"),
        (lambda path: path.write_bytes(b"no"), "safetensors", [], "is not what --format"),
        (lambda path: path.write_bytes(b"no"), "parquet", [], "is not what --format"),
        (lambda path: path.write_text("1 2\n3\n"), "text", [], ":2: has 0 values, the first"),
        (lambda path: path.write_text("1 2\nx 1\n"), "text", [], ":2: 'x 1' is not a key"),
        (lambda path: path.write_text("-1 2\n"), "text", [], ":1: key -1 is not from 0"),
        (lambda path: path.write_text("1\n"), "text", [], "there are none"),
        (lambda path: None, "text", [], "cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_imported(
    write: Any, format: str, options: list[str], message: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "f.npz"
    write(file)
    at = ["--format", format, "--table", "w", *options]
    said = run("import", file, tmp_path / "c", *at, code=1)
    assert message in said
    assert str(file) in said
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "SGD(lr=-1)"], "SGD: lr is -1.0"),
        (["--optimizer", "SGD(lr=x)"], "needed is a call with plain numbers"),
        (["--optimizer", "__import__('os').system('x')"], "--optimizer"),
        (["--optimizer", "SGD(1, 2, 3)"], "SGD takes 2 arguments"),
        (["--optimizer", "Lion()"], "'Lion' is not there"),
        (["--optimizer", "Zeros()"], "'Zeros' is not there"),
        (["--initializer", "Uniform(1)"], "--initializer"),
        (["--consistency", "SSP(-1)"], "--consistency"),
        (["--row-shape", "x"], "is not a shape like"),
        (["--shape", "3"], "--shape is that of a --dense table"),
        (["--dense", "--row-shape", "3"], "--shape is that of a --dense table"),
        (["--tag", "latest"], "tag is 'latest'"),
        (["--num-shards", "0"], "whole number"),
    ],
)
def test_wrong_usage_of_import(options: list[str], message: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.npz"
    np.savez(file, keys=KEYS, values=KEYS)
    at = ["--format", "npz", "--table", "w", *options]
    said = run("import", file, tmp_path / "c", *at, code=2)
    assert message in said
    assert not (tmp_path / "c").exists()


def test_import_onto_a_checkpoint_that_is_there(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f.npz"
    np.savez(file, keys=KEYS, values=KEYS)
    at = ["--format", "npz", "--table", "w", "--tag", "t"]
    run("import", file, tmp_path / "c", *at)
    assert "there is a checkpoint 't'" in run("import", file, tmp_path / "c", *at, code=1)


# Compact.


def test_compact(saved: Store, run: Run) -> None:
    before = Lineage.open(saved, "latest")
    said = run("compact", saved.uri, "--to", "whole")
    assert "in full, of 2 checkpoints" in said
    lineage = Lineage.open(saved, "latest")
    assert [each.tag for each in lineage.manifests] == ["whole"]
    lineage.verify()
    assert cw.merged(cw.replay(lineage, "vectors", 3)) == cw.merged(cw.replay(before, "vectors", 3))
    assert "there is a checkpoint 'whole'" in run("compact", saved.uri, "--to", "whole", code=1)
    assert "tag is 'a/b'" in run("compact", saved.uri, "--to", "a/b", code=2)
    assert "required" in run("compact", saved.uri, code=2)


@pytest.mark.parametrize("name", ["inspect", "export", "import", "compact"])
def test_help_teaches(name: str, run: Run) -> None:
    said = run(name, "--help")
    assert f"  fastps {name} " in said


def test_memory_is_bounded_by_parts(tmp_path: Path) -> None:
    """Compaction of a chain holds a few parts, not the table."""
    import tracemalloc

    from fastps.checkpoint import reading, retention

    store = Store(tmp_path)
    table = definition("big", shape=(16,), num_shards=4)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    floats = rng.normal(size=(len(keys), 16)).astype(np.float32)
    rows: Any = dict(zip(keys, map(tuple, floats.tolist()), strict=True))
    base = save(store, [Sparse(table, rows)], part_bytes=1 << 15)
    changed = dict(list(rows.items())[:1000])
    save(store, [Sparse(table, changed, set(), False, set(), rows)], 2, base, part_bytes=1 << 15)
    assert base.bytes > 1_400_000
    patch = pytest.MonkeyPatch()
    patch.setattr(reading, "CACHE_BYTES", 1 << 16)
    tracemalloc.start()
    try:
        retention.compact(store, "latest", "whole", part_bytes=1 << 15)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        patch.undo()
    assert peak < 700_000
