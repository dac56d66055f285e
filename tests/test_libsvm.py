"""libsvm text: the parser against a writer, every kind of bad line, files and chunks."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import random

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fastps import _core
from fastps.data import Chunk, DataError, find_files, read_libsvm, split_chunks

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ENTRIES = st.tuples(st.integers(0, 2**64 - 1), FLOATS)
ROWS = st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.lists(ENTRIES, max_size=8)), max_size=20)


def parse(text, **options):
    return _core.parse_libsvm(text.encode() if isinstance(text, str) else text, **options)


def rows_of(parsed):
    """Return [(label, [(id, value), ...]), ...]."""
    labels, indptr, ids, values = parsed[:4]
    entries = list(zip(ids.tolist(), values.tolist(), strict=True))
    return [(label, entries[indptr[i] : indptr[i + 1]]) for i, label in enumerate(labels.tolist())]


def test_plain_rows():
    assert rows_of(parse("+1 3:1 7:0.5\n-1 2:-1e-3\n")) == [
        (1, [(3, 1), (7, 0.5)]),
        (-1, [(2, np.float32(-1e-3))]),
    ]


def test_dtypes_and_shapes():
    labels, indptr, ids, values, n_bad, first_bad = parse("1 3:1 7:0.5\n")
    assert (labels.dtype, indptr.dtype, ids.dtype, values.dtype) == (
        np.float32,
        np.int64,
        np.uint64,
        np.float32,
    )
    assert indptr.tolist() == [0, 2]
    assert (n_bad, first_bad) == (0, None)


@pytest.mark.parametrize(
    "text",
    [
        "1 3:1\n0 4:2",  # no newline at the end
        "1 3:1\r\n0 4:2\r\n",
        "\n\n1 3:1\n   \n0 4:2\n\n",
        "# head\n1 3:1 # tail 9:9\n0 4:2# tail\n#\n",
        "  1\t 3:1  \n0   4:2\t\n",
        "+1 3:+1\n-0 4:2.000\n",
        "1. 3:1e0\n0.0 4:.2e1\n",
    ],
)
def test_the_same_two_rows(text):
    assert rows_of(parse(text)) == [(1, [(3, 1)]), (0, [(4, 2)])]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "\r\n \t\r\n"])
def test_no_rows(text):
    labels, indptr, ids, values, n_bad, _ = parse(text)
    assert (len(labels), indptr.tolist(), len(ids), len(values), n_bad) == (0, [0], 0, 0, 0)


def test_a_row_without_features():
    assert rows_of(parse("1\n-1 # nothing\n")) == [(1, []), (-1, [])]


def test_ids_in_any_order_of_any_size_and_twice():
    text = f"1 {2**64 - 1}:1 0:2 5:3 5:4 00007:5\n"
    assert rows_of(parse(text)) == [(1, [(2**64 - 1, 1), (0, 2), (5, 3), (5, 4), (7, 5)])]


def test_small_values_become_zero_or_subnormal():
    assert rows_of(parse("1 1:1e-46 2:1e-45 3:-1e-60\n")) == [
        (1, [(1, 0), (2, float(np.float32(1e-45))), (3, 0)])
    ]


@given(ROWS, st.sampled_from(["\n", "\r\n", " # x\n", "\n\n"]))
def test_round_trip(rows, line_end):
    text = "".join(
        " ".join([str(label), *(f"{key}:{np.float32(value)!s}" for key, value in entries)])
        + line_end
        for label, entries in rows
    )
    assert rows_of(parse(text)) == [(label, entries) for label, entries in rows]


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_are_rows_or_an_error(data, skip, require_labels):
    labels, indptr, ids, values, n_bad, first_bad = parse(
        data, skip_bad_lines=skip, require_labels=require_labels
    )
    assert len(indptr) == len(labels) + 1
    assert indptr[-1] == len(ids) == len(values)
    assert np.isfinite(values).all()
    assert (n_bad > 0) == (first_bad is not None)
    assert n_bad + len(labels) <= data.count(b"\n") + 1


BAD_LINES = {
    "yes 3:1": "label 'yes' is not a number",
    "2 3:1": "label '2' is not -1, 0 or 1",
    "0.5 3:1": "label '0.5' is not -1, 0 or 1",
    "nan 3:1": "label 'nan' is not finite",
    "1e99 3:1": "label '1e99' does not fit a float32",
    "3:1 4:1": "the label is missing, the line starts with '3:1'",
    "1 3": "feature '3' is not <id>:<value>, ':' is missing",
    "1 3 :1": "feature '3' is not <id>:<value>, ':' is missing",
    "1 abc": "feature 'abc' is not <id>:<value>, ':' is missing",
    "1 :5": "the id of feature ':5' is not a whole number from 0 to 2^64-1",
    "1 -3:1": "the id of feature '-3:1' is not a whole number from 0 to 2^64-1",
    "1 3.5:1": "the id of feature '3.5:1' is not a whole number from 0 to 2^64-1",
    "1 18446744073709551616:1": (
        "the id of feature '18446744073709551616:1' is larger than 2^64-1"
    ),
    "1 3:": "the value of feature '3:' is not a number",
    "1 3: 1": "the value of feature '3:' is not a number",
    "1 3:x": "the value of feature '3:x' is not a number",
    "1 3:1x": "the value of feature '3:1x' is not a number",
    "1 3:+-1": "the value of feature '3:+-1' is not a number",
    "1 3:1:2": "the value of feature '3:1:2' is not a number",
    "1 3:nan": "the value of feature '3:nan' is not finite",
    "1 3:-inf": "the value of feature '3:-inf' is not finite",
    "1 3:1e39": "the value of feature '3:1e39' does not fit a float32",
    "1 3:1e999": "the value of feature '3:1e999' does not fit a float32",
    "1 qid:7 3:1": "'qid:7' marks a ranking file; only examples without qid are read",
    "1 3:\x01": "the value of feature '3:\\x01' is not a number",
    "1 " + 50 * "y": f"feature '{40 * 'y'}...' is not <id>:<value>, ':' is missing",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_says_what_is_wrong(line):
    parsed = parse(f"1 1:1\n{line}\n0 2:2\n", first_line=10)
    assert parsed[4:] == (1, (11, BAD_LINES[line]))
    assert rows_of(parsed) == [(1, [(1, 1)])]


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_lines_are_counted_and_skipped(line):
    parsed = parse(f"1 1:1\n{line}\n0 2:2 3:3\n{line}", skip_bad_lines=True)
    assert parsed[4:] == (2, (2, BAD_LINES[line]))
    assert rows_of(parsed) == [(1, [(1, 1)]), (0, [(2, 2), (3, 3)])]


def test_optional_labels():
    parsed = parse("3:1 4:2\n7 5:1\n\n-2.5\n", require_labels=False)
    assert np.isnan(parsed[0][0])
    assert parsed[0][1:].tolist() == [7, -2.5]
    assert parsed[1].tolist() == [0, 2, 3, 3]
    assert parse("x 5:1\n", require_labels=False)[4] == 1


# Files.

TEXT = "".join(f"{i % 2} {i}:{i}.5 # line {i + 1}\n" for i in range(1000))


def read_all(chunks, **options):
    return [row for chunk in chunks for row in rows_of(_tuple(read_libsvm(chunk, **options)))]


def _tuple(rows):
    return rows.labels, rows.indptr, rows.ids, rows.values


@pytest.fixture
def write(tmp_path):
    """Write a file, compressed as its name says, and return its path."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode() if isinstance(text, str) else text
        if path.suffix == ".gz":
            data = gzip.compress(data)
        elif path.suffix == ".bz2":
            data = bz2.compress(data)
        elif path.suffix == ".xz":
            data = lzma.compress(data)
        elif path.suffix == ".zst":
            half = len(data) // 2  # two frames, as parallel compressors write
            data = b"".join(zstandard.compress(part) for part in (data[:half], data[half:]))
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.zst"])
def test_one_file(write, name):
    chunks = split_chunks([write(name, TEXT)])
    assert read_all(chunks) == rows_of(parse(TEXT))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", [TEXT[:200], TEXT[:199], "\n\n" + TEXT[:50], 300 * "\n", "1 1:1"])
def test_any_cut_gives_every_line_once(write, seed, text):
    path = write("a", text)
    draw = random.Random(seed)
    cuts = sorted({0, len(text), *(draw.randrange(len(text)) for _ in range(8))})
    chunks = [Chunk(str(path), *cut) for cut in itertools.pairwise(cuts)]
    assert read_all(chunks) == rows_of(parse(text))


def test_chunks_are_many_and_within_bounds(write):
    path = write("a", 40 * TEXT)
    chunks = split_chunks([path], num_workers=2)
    sizes = [chunk.end - chunk.start for chunk in chunks]
    assert len(chunks) >= 16
    assert min(sizes) > 12 << 10
    assert (chunks[0].start, chunks[-1].end) == (0, path.stat().st_size)
    assert all(a.end == b.start for a, b in itertools.pairwise(chunks))


def test_chunks_hold_a_whole_minibatch(write):
    chunks = split_chunks([write("a", 40 * TEXT)], rows_per_chunk_min=20_000)
    assert 1 <= len(chunks) <= 2


def test_an_empty_file(write):
    assert read_all(split_chunks([write("a", "")])) == []


def test_directories(write, tmp_path):
    write("d/part-2.gz", "1 2:1\n")
    write("d/part-1", "1 1:1\n")
    write("d/sub/part-3.zst", "1 3:1\n")
    write("d/_SUCCESS", "no data")
    write("d/.hidden", "no data")
    write("d/.git/x", "no data")
    files = find_files([tmp_path / "d"])
    assert [path.name for path in files] == ["part-1", "part-2.gz", "part-3.zst"]
    assert [row[1][0][0] for row in read_all(split_chunks(files))] == [1, 2, 3]


def test_missing_files_and_empty_directories(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such file"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="holds no data files"):
        find_files([tmp_path])


@pytest.mark.parametrize("name", ["bad.txt", "bad.gz", "bad.zst"])
def test_a_bad_line_is_told_with_file_and_line(write, name):
    lines = TEXT.splitlines(keepends=True)
    lines[776] = "1 3:x\n"
    path = write(name, "".join(lines))
    size = path.stat().st_size
    chunks = [Chunk(str(path), 0, 0)]
    if name == "bad.txt":
        chunks = [Chunk(str(path), start, start + 1000) for start in range(0, size, 1000)]
    message = f"{path}:777: the value of feature '3:x' is not a number"
    with pytest.raises(DataError) as error:
        read_all(chunks)
    assert str(error.value) == message
    kept = [read_libsvm(chunk, skip_bad_lines=True) for chunk in chunks]
    assert sum(len(rows.labels) for rows in kept) == 999
    assert [(rows.n_bad, rows.first_bad) for rows in kept if rows.n_bad] == [(1, message)]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_damaged_compressed_files(write, tmp_path, suffix):
    whole = write(f"a{suffix}", TEXT).read_bytes()
    for name, data in (("short", whole[: len(whole) // 2]), ("plain", TEXT.encode())):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{name}{suffix}: is not a complete {suffix} file"):
            read_all(split_chunks([path]))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Chunk(str(tmp_path), 0, 10).read()


@pytest.mark.parametrize("kind", ["gz", "zst", "bz2", "xz"])
@pytest.mark.parametrize("named", [True, False])
def test_compressed_files_by_name_or_content(write, tmp_path, kind, named):
    whole = write(f"a.{kind}", TEXT).read_bytes()
    path = tmp_path / (f"b.{kind}" if named else "part-00000")
    path.write_bytes(whole)
    assert len(read_all(split_chunks([path]))) == 1000


def test_byte_order_marks(tmp_path):
    path = tmp_path / "marked"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    chunks = split_chunks([path])
    assert len(read_all(chunks)) == 1000
    path.write_bytes(b"\xef\xbb\xbf1 2:3\n1 2:x\n")
    with pytest.raises(DataError, match="marked:2: "):
        read_all(split_chunks([path]))
    for encoding in ("utf-16", "utf-16-be", "utf-16-le"):
        mark = b"\xfe\xff" if encoding == "utf-16-be" else b"\xff\xfe"
        path.write_bytes(mark + TEXT.encode(encoding).removeprefix(mark))
        with pytest.raises(DataError, match="UTF-16"):
            read_all(split_chunks([path]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-400", 0.0),
        ("-1e-400", -0.0),
        ("1e-99999999999999999999", 0.0),
        ("0." + "0" * 400 + "1", 0.0),
        ("12345" + "e-400", 0.0),
        ("1" + "0" * 400 + "e-800", 0.0),
        ("1" + "0" * 400 + "e-401", np.float32(0.1)),
        ("1e-45", np.float32(1e-45)),
        ("0e-400", 0.0),
        ("0e400", 0.0),
    ],
)
def test_small_numbers_are_those_of_strtod(text, value):
    parsed = parse(f"1 3:{text}\n")
    assert parsed[5] is None
    assert parsed[3].tobytes() == np.float32(value).tobytes()


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" + "0" * 400, "0.1e401", "1e39", "1e+500"])
def test_large_numbers_do_not_fit(text):
    assert "does not fit" in parse(f"1 3:{text}\n")[5][1]


def test_lines_that_all_or_never_begin_with_labels():
    assert parse("7 5:1\n3:1 4:2\n", has_labels=True)[5][0] == 2
    assert parse("3:1 4:2\n7 5:1\n", has_labels=False)[5][0] == 2
    assert np.isnan(parse("3:1 4:2\n\n5:1\n", has_labels=False)[0]).all()
    assert parse("-7.5 5:1\n", has_labels=True)[0].tolist() == [-7.5]
