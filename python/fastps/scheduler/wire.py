"""Strict conversion between frozen dataclasses and JSON bytes.

The dataclass annotations are the schema. Understood are ``int`` (from 0 to 2**64 - 1), ``float``
(finite), ``str`` (valid Unicode), ``bool``, ``T | None``, ``tuple[T, ...]``, ``dict[str, T]``,
``JsonDict`` and other dataclasses. Anything else in the bytes - an unknown or missing field, a
wrong type, a name given twice, NaN, too many bytes, too deep a nesting - is a `WireError`. Pure
functions; any thread.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any

from fastps.errors import WireError

__all__ = [
    "DEPTH_MAX",
    "MESSAGE_BYTES_MAX",
    "JsonDict",
    "added",
    "dump",
    "from_json",
    "load",
    "to_json",
]

JsonDict = dict[str, Any]

# The longest honest messages are those of a checkpoint: what was cut has 30 to 80 bytes a shard,
# and up to 240 where constants of the optimizer were set; one table may have 65,536 shards.
MESSAGE_BYTES_MAX = 32 << 20
# The deepest honest message is a status: envelope, body, tables, table, settings, lists.
DEPTH_MAX = 12
INTEGER_MAX = (1 << 64) - 1


def dump(value: JsonDict) -> bytes:
    """Return `value` as compact JSON.

    Raises
    ------
    WireError
        The value is not JSON (NaN counts as not), or longer than `MESSAGE_BYTES_MAX`.
    """
    try:
        data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a control message cannot be written as JSON: {error}") from error
    if len(data) > MESSAGE_BYTES_MAX:
        raise WireError(
            f"a control message has {len(data)} bytes, at most {MESSAGE_BYTES_MAX} may be sent"
        )
    return data


def load(data: bytes) -> JsonDict:
    """Return the JSON object in `data`.

    Raises
    ------
    WireError
        The bytes are not one JSON object within the limits.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise WireError(
            f"a control message has {len(data)} bytes, at most {MESSAGE_BYTES_MAX} are taken"
        )
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_names, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise WireError(f"a control message is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WireError(f"a control message is a JSON {type(value).__name__}, needed is an object")
    _check_json(value, DEPTH_MAX)
    return value


def to_json(value: Any) -> Any:
    """Return a dataclass (or one of its values) as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    return value


def from_json(kind: Any, value: Any, where: str) -> Any:
    """Return the JSON `value` as the annotated type `kind`.

    Parameters
    ----------
    kind : type
        A dataclass or any other annotation that the module's first lines name.
    value : object
        Parsed JSON.
    where : str
        Named in the error, for example ``Join.rank``.

    Raises
    ------
    WireError
        The value is not of that type.
    """
    origin = typing.get_origin(kind)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in typing.get_args(kind):
            return None
        (kind,) = (choice for choice in typing.get_args(kind) if choice is not type(None))
        return from_json(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        (item_kind, _) = typing.get_args(kind)
        return tuple(from_json(item_kind, item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        (_, item_kind) = typing.get_args(kind)
        return {
            name: from_json(item_kind, item, f"{where}[{name!r:.50}]")
            for name, item in value.items()
        }
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from_json(kind, value, where)
    return value if kind is Any else _scalar_from_json(kind, value, where)


def added(default: Any) -> Any:
    """Return a dataclass field that files of older versions lack: then it is `default`.

    In messages all fields are needed.
    """
    return dataclasses.field(default=default, metadata={"added": True})


def _dataclass_from_json(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    kinds = _field_kinds(kind)
    if value.keys() != kinds.keys():
        unknown = sorted(value.keys() - kinds.keys())
        older = {field.name for field in dataclasses.fields(kind) if "added" in field.metadata}
        missing = sorted(kinds.keys() - value.keys() - older)
        if unknown or missing:
            raise WireError(f"{where}: unknown fields {unknown!r:.200}, missing fields {missing}")
    given = {
        name: from_json(field_kind, value[name], f"{where}.{name}")
        for name, field_kind in kinds.items()
        if name in value
    }
    return kind(**given)


def _scalar_from_json(kind: Any, value: Any, where: str) -> Any:
    if kind is int:
        if type(value) is not int or not 0 <= value <= INTEGER_MAX:
            raise _wrong(where, value, "a whole number from 0 to 2**64 - 1")
        return value
    if kind is float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _wrong(where, value, "a finite number")
        return float(value)
    if kind is str:
        if type(value) is not str:
            raise _wrong(where, value, "a string")
        return value
    if kind is bool:
        if type(value) is not bool:
            raise _wrong(where, value, "true or false")
        return value
    raise TypeError(f"{where} has the annotation {kind!r}, which messages cannot have")


# A few dozen message classes; finding their annotations again for each message would be slow.
_kinds_of_class: dict[type[Any], dict[str, Any]] = {}


def _field_kinds(kind: type[Any]) -> dict[str, Any]:
    kinds = _kinds_of_class.get(kind)
    if kinds is None:
        hints = typing.get_type_hints(kind)
        kinds = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
        _kinds_of_class[kind] = kinds
    return kinds


def _unique_names(pairs: list[tuple[str, Any]]) -> JsonDict:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_json(value: Any, depth: int) -> None:
    """Refuse what Python's parser lets through: deep nesting, half surrogates, 1e999."""
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise WireError(f"a control message is nested deeper than {DEPTH_MAX} levels")
        for item in value:
            _check_json(item, depth - 1)
        if isinstance(value, dict):
            for item in value.values():
                _check_json(item, depth - 1)
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise WireError("a control message has a string that is not valid Unicode")
    elif isinstance(value, float) and not math.isfinite(value):
        raise WireError("a control message has a number that is not finite")


def _wrong(where: str, value: Any, needed: str) -> WireError:
    return WireError(f"{where} is {value!r:.100}, needed is {needed}")
