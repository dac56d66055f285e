"""A chunk ready to train on: distinct keys, and rows whose columns are positions in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastps import _core
from fastps.data.files import Chunk
from fastps.data.libsvm import read_libsvm

__all__ = ["Block", "BlockCache", "Minibatch", "load_block"]


@dataclass(frozen=True)
class Minibatch:
    """Some rows of a block, with only the features that occur in them.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n_features,)
        Distinct.
    features : ndarray of int32, shape (n_features,)
        The position of each in the block's keys.
    matrix : CsrMatrix
        Rows x features.
    labels : ndarray of float32, shape (n_rows,)
        1 for positive, else 0.
    """

    keys: npt.NDArray[np.uint64]
    features: npt.NDArray[np.int32]
    matrix: _core.CsrMatrix
    labels: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """The rows of one chunk.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n_features,)
        The distinct keys, in the order of their first occurrence.
    matrix : CsrMatrix
        Rows x features.
    labels : ndarray of float32, shape (n_rows,)
        As they stand in the file: -1, 0 or 1 (NaN where a line has none).
    n_bad : int
        Bad lines skipped.
    first_bad : str
        File, line and what is wrong with the first of them; empty if there is none.
    """

    keys: npt.NDArray[np.uint64]
    matrix: _core.CsrMatrix
    labels: npt.NDArray[np.float32]
    n_bad: int = 0
    first_bad: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of memory it takes."""
        return int(
            self.keys.nbytes * 2
            + self.matrix.n_entries * 8
            + self.matrix.n_rows * 8
            + self.labels.nbytes
        )

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """1 for positive labels, else 0; shape (n_rows,)."""
        return (self.labels > 0).astype(np.float32)

    def minibatches(self, batch_rows: int, generator: np.random.Generator) -> Iterator[Minibatch]:
        """Yield all rows once, shuffled, in minibatches of nearly equal size.

        Parameters
        ----------
        batch_rows : int
            Rows in a minibatch at most.
        generator : numpy.random.Generator
            Decides the order.
        """
        n_rows = len(self.labels)
        targets = self.targets
        order = generator.permutation(n_rows).astype(np.int64)
        for rows in np.array_split(order, -(-n_rows // batch_rows)) if n_rows else ():
            matrix, features = self.matrix.take(rows)
            yield Minibatch(self.keys[features], features, matrix, targets[rows])


def load_block(
    chunk: Chunk,
    *,
    hash_bits: int | None = None,
    skip_bad_lines: bool = False,
    has_labels: bool | None = None,
) -> Block:
    """Read a chunk and merge its feature ids.

    Parameters
    ----------
    chunk : Chunk
        What to read.
    hash_bits : int, optional
        From 1 to 64: a feature's key is the top bits of its mixed id, so that at most
        2 ** hash_bits keys exist and ids that fall together share a weight. None: keys are ids.
    skip_bad_lines, has_labels : bool
        See `read_libsvm`.

    Raises
    ------
    DataError
        See `read_libsvm`.
    """
    rows = read_libsvm(chunk, skip_bad_lines=skip_bad_lines, has_labels=has_labels)
    ids = rows.ids if hash_bits is None else _core.hash_ids(rows.ids, hash_bits)
    keys, columns = _core.unique_inverse(ids)
    matrix = _core.CsrMatrix(rows.indptr, columns, rows.values, len(keys))
    return Block(keys, matrix, rows.labels, rows.n_bad, rows.first_bad)


class BlockCache:
    """Blocks kept in memory, until a bound is reached; further ones are read each time.

    Nothing is dropped for something newer: in passes over all chunks, each comes once, and dropping
    the oldest would make every one of them miss.

    One thread may use it.

    Parameters
    ----------
    bytes_max : int
        Bytes of blocks kept at most.
    hash_bits, skip_bad_lines : int or None, bool
        See `load_block`.
    """

    def __init__(
        self, bytes_max: int, *, hash_bits: int | None = None, skip_bad_lines: bool = False
    ) -> None:
        self._bytes_max = bytes_max
        self._hash_bits = hash_bits
        self._skip_bad_lines = skip_bad_lines
        self._blocks: dict[Chunk, Block] = {}
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks in it; at most `bytes_max`."""
        return self._bytes

    def load(self, chunk: Chunk) -> Block:
        """Return the chunk's block, from memory or from its file (see `load_block`)."""
        if (kept := self._blocks.get(chunk)) is not None:
            return kept
        block = load_block(chunk, hash_bits=self._hash_bits, skip_bad_lines=self._skip_bad_lines)
        if self._bytes + block.nbytes <= self._bytes_max:
            self._blocks[chunk] = block
            self._bytes += block.nbytes
        return block
