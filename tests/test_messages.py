"""Control messages: what is sent is what comes, and nothing else comes in."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps.errors import WireError
from fastps.scheduler import messages as m
from fastps.scheduler import wire

U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
JSON_DICT = st.dictionaries(TEXT, JSON_VALUE.filter(lambda v: _depth(v) < 8), max_size=3)

KINDS = sorted(m._KINDS.values(), key=lambda kind: kind.__name__)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _strategy(kind: object) -> st.SearchStrategy[object]:
    """Values of an annotation that messages may have."""
    simple = {int: U64, str: TEXT, bool: st.booleans(), type(None): st.none()}
    if kind in simple:
        return simple[kind]
    if kind == wire.JsonDict:
        return JSON_DICT
    if dataclasses.is_dataclass(kind):
        return _messages(kind)
    if typing.get_origin(kind) is dict:
        return st.dictionaries(TEXT, _strategy(typing.get_args(kind)[1]), max_size=3)
    if typing.get_origin(kind) is tuple:
        return st.lists(_strategy(typing.get_args(kind)[0]), max_size=4).map(tuple)
    return st.one_of(*(_strategy(choice) for choice in typing.get_args(kind)))


def _messages(kind: type) -> st.SearchStrategy[object]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: _strategy(hints[field.name]) for field in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(kind: type[m.Message], data: st.DataObject) -> None:
    envelope = m.Envelope(data.draw(U64), data.draw(U64), data.draw(_messages(kind)))
    assert m.decode(m.encode(envelope)) == envelope


def test_each_request_names_a_reply() -> None:
    requests = [kind for kind in KINDS if issubclass(kind, m.Request)]
    assert len(requests) == 20
    assert all(request.reply in KINDS for request in requests)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        m.decode(data)


@given(data=st.data())
def test_damaged_messages_are_refused_or_are_messages(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    good = bytearray(m.encode(m.Envelope(1, 2, data.draw(_messages(kind)))))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        envelope = m.decode(bytes(good))
    except WireError:
        return
    assert isinstance(envelope.message, tuple(KINDS))


@given(JSON_VALUE)
def test_any_json_is_refused_or_is_a_message(value: object) -> None:
    with pytest.raises(WireError):
        m.decode(json.dumps(value).encode())


JOIN = {"group": "default", "rank": None, "pid": 3, "boot_id": "00", "former": 0}


def _envelope(**changes: object) -> bytes:
    content = {"fastps": 1, "cluster_id": 0, "request": 7, "type": "Join", "body": dict(JOIN)}
    return json.dumps({**content, **changes}).encode()


def test_the_example_is_good() -> None:
    assert m.decode(_envelope()).message == m.Join("default", None, 3, "00")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fastps": 2}, "protocol 2"),
        ({"fastps": True}, "protocol True"),
        ({"type": "Dance"}, "'Dance'"),
        ({"type": ["Join"]}, "Join"),
        ({"more": 1}, "more"),
        ({"request": -1}, "request is -1"),
        ({"request": 2**64}, "request"),
        ({"request": 1.0}, "request is 1.0"),
        ({"request": True}, "request is True"),
        ({"body": []}, "needed is an object"),
        ({"body": {}}, "missing fields"),
        ({"body": {**JOIN, "age": 3}}, "age"),
        ({"body": {**JOIN, "pid": "3"}}, "Join.pid is '3'"),
        ({"body": {**JOIN, "group": 3}}, "Join.group is 3"),
        ({"body": {**JOIN, "group": "\ud800"}}, "Unicode"),
    ],
)
def test_a_wrong_envelope_says_what_is_wrong(changes: dict[str, object], said: str) -> None:
    with pytest.raises(WireError, match=said.replace("*", r"\*")):
        m.decode(_envelope(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b'{"fastps":1,"fastps":1}',
        b'{"fastps":NaN}',
        b'{"fastps":1e999}',
        b"[" * 100_000,
        b'{"a":' * 20 + b"1" + b"}" * 20,
        b'{"a":' + b"9" * 10_000 + b"}",
        b" " * (wire.MESSAGE_BYTES_MAX + 1),
    ],
    ids=["twice", "nan", "1e999", "open", "deep", "digits", "long"],
)
def test_what_json_parsers_let_through_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        m.decode(data)


@pytest.mark.parametrize(
    ("staleness", "said"),
    [
        ([], "Leave.staleness is"),
        ({"w": 3}, r"Leave.staleness\['w'\] is 3, needed is an object"),
        ({"w": {"0": "many"}}, r"Leave.staleness\['w'\]\['0'\] is 'many'"),
        ({"w": {"0": -1}}, r"Leave.staleness\['w'\]\['0'\] is -1"),
    ],
)
def test_the_values_of_an_object_have_a_type(staleness: object, said: str) -> None:
    body = {**dataclasses.asdict(m.Leave(1)), "staleness": staleness}
    with pytest.raises(WireError, match=said):
        m.decode(_envelope(type="Leave", body=body))


def test_what_was_cut_of_a_table_of_the_most_shards_fits_into_one_message() -> None:
    full = [65_535, 1 << 40, 1 << 40, 1 << 40, 1 << 40, False, [0.8999999761581421] * 8]
    shards = [list(full) for _ in range(1 << 16)]
    table = {"definition": {}, "round": 1 << 40, "shards": shards, "parts": []}
    cut = m.NextOrder(0, "ab" * 16, 1, {"shards": [[1, *each] for each in shards]})
    for message in (cut, m.Saved((table,), ())):
        assert m.decode(m.encode(m.Envelope(1, 1, message))).message == message


def test_long_messages_of_other_kinds_are_refused_before_they_are_parsed() -> None:
    name = "x" * m.SHORT_BYTES_MAX
    with pytest.raises(WireError, match="Join"):
        m.encode(m.Envelope(1, 1, m.Join(name, None, 3, "00")))
    parsed = m.decode(_envelope())  # of the same form, but short
    assert isinstance(parsed.message, m.Join)
    body = json.dumps({"fastps": 1, "cluster_id": 0, "request": 7, "type": "Join"})[:-1].encode()
    for long in (body + b"," + b"[" * (5 << 20), b"[" * (5 << 20), b"0" * (5 << 20)):
        with pytest.raises(WireError, match="bytes"):
            m.decode(long)


def test_what_cannot_be_sent_is_refused_by_the_sender() -> None:
    for status in ({"x": float("nan")}, {"x": object()}, {"x": "y" * wire.MESSAGE_BYTES_MAX}):
        with pytest.raises(WireError):
            m.encode(m.Envelope(1, 1, m.Status(status)))
