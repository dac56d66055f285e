"""What the launcher makes of its children's output."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from fastps.launch.lines import LINE_BYTES_MAX, LinePrefixer
from fastps.launch.output import Relay

PIECES = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"\n", b"ab\ncd", b"\r\n"]), max_size=12
)


def _relayed(prefix: bytes, pieces: list[bytes]) -> bytes:
    prefixer = LinePrefixer(prefix)
    return b"".join(prefixer.feed(piece) for piece in pieces) + prefixer.close()


@given(PIECES)
def test_lines_get_the_prefix_however_they_are_cut(pieces: list[bytes]) -> None:
    given = b"".join(pieces)
    out = _relayed(b"[w 0] ", pieces)
    assert out == _relayed(b"[w 0] ", [given])
    assert out.replace(b"[w 0] ", b"").rstrip(b"\n") == given.rstrip(b"\n")
    if b"\r" not in given.replace(b"\r\n", b""):
        assert all(line.startswith(b"[w 0] ") for line in out.splitlines())


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


def test_a_carriage_return_ends_a_part() -> None:
    prefixer = LinePrefixer(b"> ")
    assert prefixer.feed(b"\r 10%\r") == b"\r"
    assert prefixer.feed(b" 20%\r 30%") == b">  10%\r>  20%\r"
    assert prefixer.flush() == b">  30%"
    assert prefixer.is_open
    assert prefixer.feed(b"!\r\nnext\r") == b"!\r\n"
    assert prefixer.flush() == b"> next\r"
    assert prefixer.feed(b"\n") == b"\n"  # the other half of the line's end
    assert not prefixer.is_open


def test_what_waits_can_be_given_out_and_interrupted() -> None:
    prefixer = LinePrefixer(b"> ")
    assert prefixer.feed(b"Name? ") == b""
    assert prefixer.flush() == b"> Name? "
    assert prefixer.flush() == b""
    assert prefixer.feed(b"Ann\n") == b"Ann\n"
    prefixer.feed(b"half")
    assert prefixer.flush() == b"> half"
    assert prefixer.interrupt() == b"\n"
    assert prefixer.interrupt() == b""
    assert prefixer.feed(b" other\n") == b">  other\n"
    assert prefixer.close() == b""


@given(st.text(alphabet="aé€😀\r\n", max_size=8), st.integers(0, 32))
def test_characters_are_not_cut(text: str, at: int) -> None:
    data = text.encode()
    prefixer = LinePrefixer(b"> ")
    first = prefixer.feed(data[:at]) + prefixer.flush()
    first.decode()
    rest = prefixer.feed(data[at:]) + prefixer.flush()
    rest.decode()
    assert (first + rest).replace(b"> ", b"") == data


@given(st.binary(max_size=6))
def test_bytes_that_are_no_text_come_through(data: bytes) -> None:
    prefixer = LinePrefixer(b"")
    out = b"".join(prefixer.feed(bytes([each])) + prefixer.flush() for each in data)
    assert out + prefixer.close() == data


def _pumped(relay: Relay, read: int, wanted: bytes) -> bytes:
    os.set_blocking(read, False)
    got = b""
    deadline = time.monotonic() + 30
    while wanted not in got and time.monotonic() < deadline:
        relay.pump(0.02)
        with contextlib.suppress(BlockingIOError):
            got += os.read(read, 1 << 16)
    return got


def test_a_prompt_is_seen_and_others_do_not_write_into_it() -> None:
    read, write = os.pipe()
    relay = Relay(stdout=write, stderr=write)
    children = []
    for n in range(2):
        source, child = os.pipe()
        relay.add(source, write, f"[w {n}] ")
        children.append(child)
    os.write(children[0], b"\r 10%")
    assert _pumped(relay, read, b"%") == b"\r[w 0]  10%"
    os.write(children[1], b"line\n")
    assert _pumped(relay, read, b"line\n") == b"\n[w 1] line\n"
    os.write(children[0], b"\r 20%")
    assert _pumped(relay, read, b"%") == b"\r[w 0]  20%"
    relay.say("words")
    assert _pumped(relay, read, b"words\n") == b"\nwords\n"
    for fd in (*children, read, write):
        os.close(fd)
    relay.close()
