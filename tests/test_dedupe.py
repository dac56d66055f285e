"""Distinct keys, hashed ids, and the sparse matrix of the training loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from fastps import _core
from fastps.data import BlockCache, Chunk, load_block

KEYS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=200)


def reference(keys):
    positions = {}
    inverse = [positions.setdefault(key, len(positions)) for key in keys]
    return list(positions), inverse


@given(KEYS)
def test_unique_inverse_equals_a_dict(keys):
    unique, inverse = _core.unique_inverse(np.array(keys, np.uint64))
    assert (unique.dtype, inverse.dtype) == (np.uint64, np.int32)
    assert (unique.tolist(), inverse.tolist()) == reference(keys)


@pytest.mark.parametrize("n_distinct", [1, 500, 10_000, 300_000])
def test_unique_inverse_grows(n_distinct):
    keys = np.random.default_rng(n_distinct).integers(0, n_distinct, 300_000).astype(np.uint64)
    keys *= np.uint64(0x9E3779B97F4A7C15)
    unique, inverse = _core.unique_inverse(keys)
    assert len(unique) == len(np.unique(keys))
    assert np.array_equal(unique[inverse], keys)


def test_unique_inverse_takes_only_uint64():
    with pytest.raises(TypeError):
        _core.unique_inverse(np.array([1.5]))
    with pytest.raises(ValueError, match="one dimension"):
        _core.unique_inverse(np.zeros((2, 2), np.uint64))


def mixed(key):
    """The 64-bit mix of cpp/base/hash.h in plain Python."""
    mask = 2**64 - 1
    key = (key + 0x9E3779B97F4A7C15) & mask
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & mask
    return key ^ (key >> 31)


@given(KEYS, st.integers(1, 64))
def test_hashed_ids_are_the_top_bits(ids, bits):
    hashed = _core.hash_ids(np.array(ids, np.uint64), bits)
    assert hashed.tolist() == [mixed(key) >> (64 - bits) for key in ids]


@st.composite
def matrices(draw):
    n_rows, n_columns = draw(st.integers(0, 12)), draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0, 6), min_size=n_rows, max_size=n_rows))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    indptr = np.cumsum([0, *lengths]).astype(np.int64)
    columns = generator.integers(0, n_columns, indptr[-1]).astype(np.int32)
    values = generator.normal(size=indptr[-1]).astype(np.float32)
    return indptr, columns, values, n_columns


def dense(indptr, columns, values, n_columns):
    shape = (len(indptr) - 1, n_columns)
    return scipy.sparse.csr_matrix((values, columns, indptr), shape=shape).toarray()


@given(matrices())
def test_products_equal_scipy(parts):
    matrix, x = _core.CsrMatrix(*parts), dense(*parts)
    assert (matrix.n_rows, matrix.n_columns, matrix.n_entries) == (*x.shape, len(parts[1]))
    generator = np.random.default_rng(0)
    weights = generator.normal(size=x.shape[1]).astype(np.float32)
    residuals = generator.normal(size=x.shape[0]).astype(np.float32)
    np.testing.assert_allclose(matrix.margins(weights), x @ weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(matrix.gradient(residuals), x.T @ residuals, rtol=1e-5, atol=1e-5)
    counts = np.bincount(parts[1], minlength=x.shape[1])
    assert matrix.column_counts().tolist() == counts.tolist()


@given(matrices(), st.data())
def test_take_keeps_rows_and_drops_empty_columns(parts, data):
    matrix, x = _core.CsrMatrix(*parts), dense(*parts)
    row = st.integers(0, len(x) - 1)
    rows = np.array(data.draw(st.lists(row, max_size=10)) if len(x) else [], np.int64)
    for _ in range(2):  # the second time meets what the first left behind
        taken, columns = matrix.take(rows)
        assert len(set(columns.tolist())) == len(columns) == taken.n_columns
        assert taken.n_rows == len(rows)
        generator = np.random.default_rng(1)
        weights = generator.normal(size=x.shape[1]).astype(np.float32)
        residuals = generator.normal(size=len(rows)).astype(np.float32)
        expected = np.zeros(x.shape[1])
        expected[columns] = taken.gradient(residuals)
        np.testing.assert_allclose(
            taken.margins(weights[columns]), x[rows] @ weights, rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(expected, x[rows].T @ residuals, rtol=1e-5, atol=1e-5)
        assert (taken.column_counts() > 0).all()


@pytest.mark.parametrize(
    ("indptr", "columns", "message"),
    [
        ([0, 1], [3], r"column 3 is not in \[0, 3\)"),
        ([0, 1], [-1], r"column -1 is not in \[0, 3\)"),
        ([0, 2], [1], "indptr must start at 0"),
        ([1, 1], [1], "indptr must start at 0"),
        ([0, 2, 1], [1], "indptr must start at 0"),
        ([], [], "indptr must start at 0"),
        ([0, 1], [1, 2], "columns has 2 entries, values has 1"),
    ],
)
def test_a_matrix_is_checked(indptr, columns, message):
    values = np.ones(1 if len(columns) else 0, np.float32)
    with pytest.raises(ValueError, match=message):
        _core.CsrMatrix(np.array(indptr, np.int64), np.array(columns, np.int32), values, 3)


def test_arguments_of_products_are_checked():
    matrix = _core.CsrMatrix(
        np.array([0, 1], np.int64), np.array([1], np.int32), np.ones(1, np.float32), 3
    )
    with pytest.raises(ValueError, match="weights has 2 elements, expected 3"):
        matrix.margins(np.ones(2, np.float32))
    with pytest.raises(ValueError, match="residuals has 3 elements, expected 1"):
        matrix.gradient(np.ones(3, np.float32))
    with pytest.raises(TypeError):
        matrix.margins(np.ones(3))  # float64: not converted in silence
    for row in (-1, 1):
        with pytest.raises(IndexError):
            matrix.take(np.array([row], np.int64))


@pytest.fixture
def chunk(tmp_path):
    path = tmp_path / "rows"
    path.write_text("".join(f"{i % 2} {i % 7}:1 100:2\n" for i in range(50)))
    return Chunk(str(path), 0, path.stat().st_size)


def test_minibatches_cover_a_block_in_seeded_order(chunk):
    block = load_block(chunk)
    assert sorted(block.keys.tolist()) == [0, 1, 2, 3, 4, 5, 6, 100]

    def run(seed):
        generator = np.random.default_rng(seed)
        batches = list(block.minibatches(16, generator))
        return [len(b.labels) for b in batches], [b.labels.tolist() for b in batches]

    assert run(1)[0] == [13, 13, 12, 12]
    assert run(1) == run(1) != run(2)
    batch = next(block.minibatches(16, np.random.default_rng(0)))
    assert np.array_equal(batch.keys, block.keys[batch.features])


def test_hashed_keys_share_columns(chunk):
    block = load_block(chunk, hash_bits=1)
    assert set(block.keys.tolist()) <= {0, 1}
    assert block.matrix.n_entries == 100


def test_the_cache_keeps_within_its_bound(chunk):
    size = load_block(chunk).nbytes
    roomy, tight = BlockCache(size), BlockCache(size - 1)
    assert roomy.load(chunk) is roomy.load(chunk)
    assert roomy.nbytes == size
    assert tight.load(chunk) is not tight.load(chunk)
    assert tight.nbytes == 0
