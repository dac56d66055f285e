"""What the value objects of fastps share: checked numbers, equality on the wire, JSON.

Values are immutable and thread-safe.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import struct
from collections.abc import Mapping
from typing import Any, TypeVar

from fastps.errors import ConfigError, ValueRangeError

T = TypeVar("T")


def float32(value: float) -> float:
    """Round to the nearest float32; infinite where float32 has no such number."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


def checked_float(owner: str, name: str, value: object) -> float:
    """Return `value` as a float that is finite in float32.

    Raises
    ------
    ConfigError
        `value` is not a number.
    ValueRangeError
        `value` is NaN, infinite, or too large for float32.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(
            f"{owner}: {name} is {value!r} ({type(value).__name__}), needed is a number"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(float32(number)):
        raise ValueRangeError(
            f"{owner}: {name} is {value!r}, needed is a finite number that float32 can hold"
        )
    return number


def check_not_negative(owner: str, name: str, value: float) -> None:
    """Raise ValueRangeError unless value >= 0."""
    if value < 0:
        raise ValueRangeError(f"{owner}: {name} is {value!r}, needed is a number >= 0")


def check_positive(owner: str, name: str, value: float) -> None:
    """Raise ValueRangeError unless value > 0 as float32, which servers calculate in."""
    if float32(value) <= 0:
        raise ValueRangeError(
            f"{owner}: {name} is {value!r}, needed is a number > 0 (in float32: >= 1.5e-45)"
        )


def checked_seed(owner: str, value: object) -> int:
    """Return `value` as an int from 0 to 2**64 - 1.

    Raises
    ------
    ConfigError
        `value` is not an integer.
    ValueRangeError
        `value` is negative or has more than 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(
            f"{owner}: seed is {value!r} ({type(value).__name__}), needed is an integer"
        )
    seed = int(value)
    if not 0 <= seed < 2**64:
        raise ValueRangeError(f"{owner}: seed is {value!r}, needed is 0 <= seed < 2**64")
    return seed


def to_json(value: object) -> dict[str, Any]:
    """Return a dataclass as {"name": its class, field: value, ...}."""
    assert dataclasses.is_dataclass(value)
    named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {"name": type(value).__name__, **named}


def from_json(what: str, known: Mapping[str, type[T]], described: object) -> T:
    """Make the value that `described` tells of. It may come from anywhere: all of it is checked.

    Raises
    ------
    ConfigError
        `described` is no dict, its name is not in `known`, or a field is unknown, missing or of
        the wrong type.
    ValueRangeError
        A number is out of range.
    """
    if not isinstance(described, dict):
        raise ConfigError(f"{what} is {described!r}, needed is a dict with a name")
    name = described.get("name")
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{what} {name!r} is not there; there are {', '.join(known)}")
    chosen = known[name]
    assert dataclasses.is_dataclass(chosen)
    fields = dataclasses.fields(chosen)
    given = {key: value for key, value in described.items() if key != "name"}
    unknown = [key for key in given if key not in {field.name for field in fields}]
    if unknown:
        has = ", ".join(field.name for field in fields) or "no fields"
        raise ConfigError(f"{name}: unknown field {unknown[0]!r}; {name} has {has}")
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in given:
            raise ConfigError(f"{name}: field {field.name!r} is missing")
    return chosen(**given)
