"""The model file: what is written is read, what is damaged is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fastps.data import Chunk, DataError, load_block
from fastps.models.model_file import LinearModel, load_model, save_model
from fastps.output import atomic_output


@pytest.fixture
def model():
    return LinearModel.from_rows(
        np.array([2**64 - 1, 5, 0, 7], np.uint64), np.array([1, 0, -2, 3], np.float32), bias=0.5
    )


def test_rows_are_sorted_and_zeros_left_out(model):
    assert model.keys.tolist() == [0, 7, 2**64 - 1]
    assert model.weights.tolist() == [-2, 3, 1]


def test_lookup_of_known_and_unknown_keys(model):
    keys = np.array([7, 5, 2**64 - 1, 0, 8, 7], np.uint64)
    assert model.lookup(keys).tolist() == [3, 0, 1, -2, 0, 3]
    empty = LinearModel.from_rows(np.empty(0, np.uint64), np.empty(0, np.float32))
    assert empty.lookup(keys).tolist() == [0] * 6


@pytest.mark.parametrize("hash_bits", [None, 20])
def test_round_trip(tmp_path, model, hash_bits):
    path = tmp_path / "m.npz"
    save_model(path, LinearModel(model.keys, model.weights, model.bias, hash_bits))
    read = load_model(path)
    assert np.array_equal(read.keys, model.keys)
    assert np.array_equal(read.weights, model.weights)
    assert (read.bias, read.hash_bits) == (0.5, hash_bits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.npz"]


def test_the_file_has_the_documented_arrays(tmp_path, model):
    save_model(tmp_path / "m.npz", model)
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["bias", "hash_bits", "keys", "weights"]
        assert archive["keys"].dtype == np.uint64
        assert archive["weights"].dtype == np.float32
        assert archive["bias"].shape == ()


def test_margins(tmp_path, model):
    path = tmp_path / "rows"
    path.write_text("1 7:2 0:1 99:5\n0\n")
    block = load_block(Chunk(str(path), 0, path.stat().st_size))
    assert model.margins(block).tolist() == [3 * 2 - 2 + 0.5, 0.5]


GOOD = {"keys": np.arange(3, dtype=np.uint64), "weights": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": None}, "it has no array keys"),
        ({"keys": np.arange(3)}, "keys are int64"),
        ({"weights": np.ones(3)}, "weights float64"),
        ({"weights": np.ones(2, np.float32)}, "do not have the shapes"),
        ({"weights": np.array([1, np.nan, 1], np.float32)}, "is not finite"),
        ({"bias": np.float32(np.inf)}, "is not finite"),
        ({"bias": np.int64(3)}, "bias is int64"),
        ({"bias": np.zeros(2, np.float32)}, "do not have the shapes"),
        ({"hash_bits": np.int64(65)}, "hash_bits is 65"),
        ({"hash_bits": np.float64(3)}, "hash_bits float64"),
        ({"keys": np.array([{}, {}, {}], object)}, "is not a model file"),
    ],
)
def test_damaged_models_are_refused(tmp_path, change, message):
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_model(tmp_path / "m.npz")


def test_bias_and_hash_bits_may_be_missing(tmp_path):
    np.savez(tmp_path / "m.npz", **GOOD)
    model = load_model(tmp_path / "m.npz")
    assert (model.bias, model.hash_bits) == (0.0, None)


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not a model file"):
        load_model(tmp_path / "m.npz")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_model(tmp_path / "m.npz")


def test_a_single_array_is_no_model(tmp_path):
    np.save(tmp_path / "m.npy", np.ones(3))
    with pytest.raises(DataError, match="is not a model file"):
        load_model(tmp_path / "m.npy")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def fail():
        with atomic_output(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
