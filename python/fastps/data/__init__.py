"""Reading training data: files to chunks, chunks to rows, rows to blocks of keys and columns."""

from __future__ import annotations

from fastps.data.blocks import Block, BlockCache, Minibatch, load_block
from fastps.data.errors import DataError
from fastps.data.files import Chunk, find_files, split_chunks
from fastps.data.libsvm import LibsvmRows, read_libsvm

__all__ = [
    "Block",
    "BlockCache",
    "Chunk",
    "DataError",
    "LibsvmRows",
    "Minibatch",
    "find_files",
    "load_block",
    "read_libsvm",
    "split_chunks",
]
