"""What the launcher makes of its children's output."""

from __future__ import annotations

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from fastps.launch.output import LINE_BYTES_MAX, LinePrefixer, Relay

PIECES = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"\n", b"ab\ncd", b"\r\n"]), max_size=12
)


def _relayed(prefix: bytes, pieces: list[bytes]) -> bytes:
    prefixer = LinePrefixer(prefix)
    return b"".join(prefixer.feed(piece) for piece in pieces) + prefixer.close()


@given(PIECES)
def test_lines_get_the_prefix_however_they_are_cut(pieces: list[bytes]) -> None:
    lines = b"".join(pieces).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    assert _relayed(b"[w 0] ", pieces) == b"".join(b"[w 0] " + line + b"\n" for line in lines)


@given(PIECES)
def test_without_prefix_nothing_is_changed(pieces: list[bytes]) -> None:
    assert _relayed(b"", pieces) == b"".join(pieces)


def test_only_whole_lines_leave() -> None:
    prefixer = LinePrefixer(b"> ")
    assert prefixer.feed(b"a") == b""
    assert prefixer.feed(b"b\nc") == b"> ab\n"
    assert prefixer.close() == b"> c\n"
    assert prefixer.close() == b""


def test_a_line_without_end_is_given_out_in_pieces() -> None:
    prefixer = LinePrefixer(b"> ")
    piece = b"x" * (LINE_BYTES_MAX // 4)
    out = b"".join(prefixer.feed(piece) for _ in range(5))
    assert out.startswith(b"> xxx")
    assert len(out) + len(prefixer.close()) >= 5 * len(piece)


def test_a_reader_who_stops_reading_does_not_stop_the_relay() -> None:
    read, write = os.pipe()  # in place of our stdout; nobody reads it
    source, child = os.pipe()
    relay = Relay(stdout=write)
    relay.add(source, write, "")
    sent = b"line\n" * 400_000
    feeder = threading.Thread(target=_write_all, args=(child, sent))
    feeder.start()
    for _ in range(100):
        relay.pump(0.01)  # never blocks, and takes in no more than it may hold
    assert relay.n_open == 1
    got = bytearray()
    reader = threading.Thread(target=_read_all, args=(read, got))
    reader.start()
    while relay.n_open:
        relay.pump(0.1)
    assert relay.flush(30)
    feeder.join()
    os.close(write)
    reader.join()
    os.close(read)
    assert got == sent


def test_a_reader_who_has_gone_is_nobodys_problem() -> None:
    read, write = os.pipe()
    os.close(read)
    relay = Relay(stdout=write)
    source, child = os.pipe()
    relay.add(source, write, "x")
    _write_all(child, b"hello\n")
    while relay.n_open:
        relay.pump(0.1)
    assert relay.flush(1)
    os.close(write)


def _write_all(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as out:
        out.write(data)


def _read_all(fd: int, into: bytearray) -> None:
    while data := os.read(fd, 1 << 16):
        into += data
