"""Files of training data, cut into chunks that workers share.

A chunk of a plain file is a byte range; a line belongs to the chunk in which it begins, so that
cutting needs no look into the file. Compressed files are one chunk each.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastps.data.errors import DataError
from fastps.errors import ConfigError

__all__ = ["CHUNK_BYTES_MAX", "CHUNK_BYTES_MIN", "Chunk", "find_files", "split_chunks"]

# Large enough that asking the scheduler for the next one costs nothing beside reading it.
CHUNK_BYTES_MAX = 4 << 20
# Small enough that even the smallest data sets give every worker some.
CHUNK_BYTES_MIN = 16 << 10
# This many chunks for each worker, that one slow worker does not keep the others waiting for long.
CHUNKS_PER_WORKER = 8
# Up to this many chunks the cut does not depend on the number of workers.
CHUNKS_GOAL = 64
# A file without line ends must not be read whole by each of its chunks.
LINE_BYTES_MAX = 64 << 20
# What one compressed file may hold: its rows are in memory at once.
UNCOMPRESSED_BYTES_MAX = 4 << 30

# Little enough that what one piece uncompresses to stays far below the limit above.
ZSTD_INPUT_BYTES = 16 << 10

# How compressed files begin, whatever their names say.
MAGIC = {
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz",
}
COMPRESSED_SUFFIXES = tuple(MAGIC.values())
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Chunk:
    """A part of one file: the lines that begin at bytes `start` to `end` - 1.

    Attributes
    ----------
    path : str
        The file.
    start, end : int
        Byte range; `end` is 0 for a compressed file, which is one chunk.
    """

    path: str
    start: int
    end: int

    def read(self) -> tuple[bytes, int]:
        """Read the chunk's lines.

        Returns
        -------
        data : bytes
            Whole lines, uncompressed.
        offset : int
            Where in the (uncompressed) file `data` begins.

        Raises
        ------
        DataError
            The file cannot be read or uncompressed, or has a line of more than 64 MiB.
        ConfigError
            The file is .zst and the package ``zstandard`` is not installed.
        """
        try:
            if kind := compression_of(self.path):
                data, offset = self._read_compressed(kind), 0
            else:
                with Path(self.path).open("rb") as file:
                    data, offset = self._read_range(file)
            return self._text(data, offset), offset
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def line_number(self, offset: int) -> int:
        """Return the number, from 1, of the line that begins at `offset` of a plain file."""
        number, left = 1, offset
        with Path(self.path).open("rb") as file:
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                number += block.count(b"\n")
                left -= len(block)
        return number

    def _read_range(self, file: BinaryIO) -> tuple[bytes, int]:
        offset = self.start
        if self.start > 0:
            # From the byte before: if that ends a line, the next one is ours.
            file.seek(self.start - 1)
            offset += len(self._read_line(file)) - 1
        if offset >= self.end:
            return b"", offset
        data = file.read(self.end - offset)
        if not data.endswith(b"\n"):
            data += self._read_line(file)
        return data, offset

    def _read_line(self, file: BinaryIO) -> bytes:
        line = file.readline(LINE_BYTES_MAX + 1)
        if len(line) > LINE_BYTES_MAX:
            raise DataError(
                f"{self.path}: a line at byte {file.tell() - len(line)} has more than "
                f"{LINE_BYTES_MAX >> 20} MiB; is it a text file?"
            )
        return line

    def _text(self, data: bytes, offset: int) -> bytes:
        """Return the data without a byte order mark."""
        if offset == 0 and data.startswith(UTF16_MARKS):
            raise DataError(f"{self.path}: is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8")
        return data.removeprefix(UTF8_MARK) if offset == 0 else data

    def _read_compressed(self, kind: str) -> bytes:
        try:
            data = READERS[kind](self.path)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise self._incomplete(kind, error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._incomplete(kind, error) from error  # of bz2
        if len(data) > UNCOMPRESSED_BYTES_MAX:
            raise DataError(
                f"{self.path}: holds more than {UNCOMPRESSED_BYTES_MAX >> 30} GiB; "
                "split it into several files"
            )
        return data

    def _incomplete(self, kind: str, error: Exception) -> DataError:
        return DataError(f"{self.path}: is not a complete {kind} file ({error}); make it again")


def compression_of(path: str | Path) -> str:
    """Return how a file is compressed, as a suffix: by its first bytes, or, if empty, its name."""
    with Path(path).open("rb") as file:
        head = file.read(max(map(len, MAGIC)))
    for magic, suffix in MAGIC.items():
        if head.startswith(magic):
            return suffix
    suffix = Path(path).suffix
    return suffix if suffix in COMPRESSED_SUFFIXES else ""


def find_files(sources: Sequence[str | Path]) -> list[Path]:
    """Return the data files that `sources` name.

    Parameters
    ----------
    sources : sequence of str or Path
        Files, or directories, of which every file counts, those in sub-directories too, except
        names that begin with ``.`` or ``_`` (markers of other programs, such as ``_SUCCESS``).

    Returns
    -------
    list of Path
        In the order of `sources`, a directory's files sorted by name.

    Raises
    ------
    DataError
        A source does not exist, or a directory holds no file.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [
                path
                for path in sorted(source.rglob("*"))
                if path.is_file()
                and not any(part[0] in "._" for part in path.relative_to(source).parts)
            ]
            if not inside:
                raise DataError(f"{source}: the directory holds no data files")
            files += inside
        elif source.exists():
            files.append(source)
        else:
            raise DataError(f"{source}: there is no such file or directory")
    return files


def split_chunks(
    files: Sequence[Path], num_workers: int = 1, rows_per_chunk_min: int = 1
) -> list[Chunk]:
    """Cut `files` into chunks for `num_workers` workers.

    Every worker must get the same list, so it depends only on the arguments and the files.

    Parameters
    ----------
    files : sequence of Path
        From `find_files`.
    num_workers : int
        Of the job.
    rows_per_chunk_min : int
        About how many lines a chunk should have at least (a minibatch never spans chunks),
        estimated from the beginning of the first plain file.

    Returns
    -------
    list of Chunk
        Of 16 KiB to 4 MiB, unless `rows_per_chunk_min` asks for more. Compressed files are one
        chunk each.
    """
    plain = [path for path in files if not _is_compressed(path)]
    sizes = {path: _size(path) for path in plain}
    goal = math.ceil(sum(sizes.values()) / max(CHUNKS_GOAL, CHUNKS_PER_WORKER * num_workers))
    goal = min(max(goal, CHUNK_BYTES_MIN), CHUNK_BYTES_MAX)
    if plain and rows_per_chunk_min > 1:
        goal = max(goal, math.ceil(rows_per_chunk_min * _line_bytes(plain[0])))
    chunks: list[Chunk] = []
    for path in files:
        if path not in sizes:
            chunks.append(Chunk(str(path), 0, 0))
            continue
        # Equal parts: no small rest at the end of each file.
        n_parts = max(1, round(sizes[path] / goal))
        cuts = [sizes[path] * part // n_parts for part in range(n_parts + 1)]
        chunks += [Chunk(str(path), start, end) for start, end in itertools.pairwise(cuts)]
    return chunks


def _is_compressed(path: Path) -> bool:
    try:
        return compression_of(path) != ""
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _line_bytes(path: Path) -> float:
    head, _ = Chunk(str(path), 0, 64 << 10).read()
    return len(head) / max(head.count(b"\n"), 1)


def _read_gzip(path: str) -> bytes:
    with gzip.open(path) as file:
        return file.read(UNCOMPRESSED_BYTES_MAX + 1)


def _read_bzip2(path: str) -> bytes:
    with bz2.open(path) as file:
        return file.read(UNCOMPRESSED_BYTES_MAX + 1)


def _read_xz(path: str) -> bytes:
    with lzma.open(path) as file:
        return file.read(UNCOMPRESSED_BYTES_MAX + 1)


def _read_zstandard(path: str) -> bytes:
    """Read all frames of a file, or a little more than may be used; EOFError: it is damaged."""
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError(
            f"{path}: .zst files need the package zstandard: pip install 'fastps[train]'"
        ) from error
    # Not zstandard's stream_reader: it takes a file that was cut off for a whole one.
    data = bytearray()
    frame = None
    with Path(path).open("rb") as file:
        while (left := file.read(ZSTD_INPUT_BYTES)) and len(data) <= UNCOMPRESSED_BYTES_MAX:
            while left:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    data += frame.decompress(left)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from error
                left = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None and len(data) <= UNCOMPRESSED_BYTES_MAX:
        raise EOFError("it ends within a frame")
    return bytes(data)


READERS: dict[str, Callable[[str], bytes]] = {
    ".gz": _read_gzip,
    ".zst": _read_zstandard,
    ".bz2": _read_bzip2,
    ".xz": _read_xz,
}
