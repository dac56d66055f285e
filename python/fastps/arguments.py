"""Checks of what users pass to a client, before anything is sent."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from fastps import optimizers
from fastps.consistency import Consistency, from_text
from fastps.errors import ConfigError, ValueRangeError
from fastps.initializers import Initializer
from fastps.optimizers import Optimizer
from fastps.scheduler.messages import TableDefinition

__all__ = [
    "check_name",
    "checked_address",
    "checked_bool",
    "checked_count",
    "checked_items",
    "checked_path",
    "checked_seconds",
    "checked_shape",
    "checked_text",
    "definition_of",
]

PORT_MAX = 65535


def definition_of(
    name: str,
    kind: str,
    shape: tuple[int, ...] | None,
    optimizer: Optimizer | str | None,
    initializer: Initializer | None,
    consistency: Consistency | str | None,
    num_shards: int | None,
    replication: int | None,
) -> TableDefinition:
    """Return the definition to ask for; what was not given stays None.

    Raises
    ------
    ConfigError
        An argument is of the wrong type. Its value is judged by the scheduler.
    """
    check_name(name)
    if isinstance(optimizer, str):
        optimizer = optimizers.from_text(optimizer)
    if isinstance(consistency, str):
        consistency = from_text(consistency)
    for argument, value, needed in (
        ("optimizer", optimizer, Optimizer),
        ("initializer", initializer, Initializer),
        ("consistency", consistency, Consistency),
    ):
        if value is not None and not isinstance(value, needed):
            raise ConfigError(
                f"{argument} is {value!r}, needed is a value of fastps.{argument}s"
                if needed is not Consistency
                else f"consistency is {value!r}, needed is fastps.ASP(), SSP(s) or BSP()"
            )
    num_shards = None if num_shards is None else checked_count("num_shards", num_shards)
    replication = None if replication is None else checked_count("replication", replication)
    return TableDefinition(
        name=name,
        kind=kind,
        shape=shape,
        optimizer=None if optimizer is None else optimizer.to_json(),
        initializer=None if initializer is None else initializer.to_json(),
        consistency=None if consistency is None else consistency.to_json(),
        num_shards=num_shards,
        replication=replication,
    )


def check_name(name: Any) -> None:
    """Raise `ConfigError` unless `name` is a str that can be sent."""
    checked_text("a table's name", name)


def checked_text(what: str, value: Any) -> str:
    """Return a str that has a form in UTF-8, else raise `ConfigError`."""
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {value!r:.200}, needed is a str")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{what} is {value!a:.200}, needed is a str that UTF-8 can write: character "
            f"{error.start} is half of a surrogate pair"
        ) from None
    return str(value)


def checked_path(what: str, value: Any) -> str:
    """Return a path or URL as a str, else raise `ConfigError`."""
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{what} is {value!r:.200}, needed is a path or a URL")
    return checked_text(what, text)


def checked_address(what: str, value: Any) -> str:
    """Return the address of a scheduler, else raise `ConfigError`."""
    address = checked_text(what, value)
    needed = "needed is one such as tcp://127.0.0.1:5000"
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return address
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not colon or not host:
        raise ConfigError(f"{what} is {address!r:.200}, {needed}")
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port[:6]) <= PORT_MAX:
        raise ConfigError(
            f"{what} is {address!r:.200}: its port is {port!r:.50}, from 1 to {PORT_MAX} may be; "
            f"{needed}"
        )
    return address


def checked_count(argument: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Return an integer of Python or numpy in a range, else raise `ConfigError`."""
    count = _integer(value)
    if count is None or count < least or (most is not None and count > most):
        needed = f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
        raise ConfigError(f"{argument} is {value!r:.200}, needed is {needed}")
    return count


def checked_items(items: Any) -> int:
    """Return how many items there are, whose numbers all workers mean alike, or `ConfigError`."""
    needed = (
        "needed is a sequence, equal on all workers, whose items have numbers: a list, a range, an "
        "array"
    )
    if isinstance(items, (Mapping, Set)) or not hasattr(items, "__getitem__"):
        raise ConfigError(
            f"chunks() was given a {type(items).__name__}, {needed}; make one with list(...), and "
            "sort what has no order of its own"
        )
    if hasattr(items, "iloc"):  # pandas looks up labels, not numbers
        raise ConfigError(
            f"chunks() was given a {type(items).__name__}, {needed}; give its row numbers, "
            "range(len(...)), or .to_numpy()"
        )
    try:
        return len(items)
    except TypeError:
        raise ConfigError(f"chunks() was given {items!r:.200}, {needed}") from None


def checked_bool(argument: str, value: Any) -> bool:
    """Return a bool of Python or numpy, else raise `ConfigError`."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigError(f"{argument} is {value!r:.200}, needed is True or False")
    return bool(value)


def checked_shape(argument: str, shape: Any) -> tuple[int, ...]:
    """Return an integer or a sequence of them as a tuple, else raise `ConfigError`."""
    dimensions: Any = (shape,) if isinstance(shape, numbers.Integral) else shape
    if isinstance(shape, np.ndarray):
        dimensions = shape.reshape(-1)
    if isinstance(dimensions, (str, bytes, Mapping, Set)):
        dimensions = (None,)
    try:
        checked = tuple(dimensions)
    except TypeError:
        checked = (None,)
    integers = tuple(_integer(each) for each in checked)
    if any(each is None or not 1 <= each < 2**63 for each in integers):
        raise ConfigError(f"{argument} is {shape!r:.200}, needed is a tuple of integers >= 1")
    return tuple(each for each in integers if each is not None)


def checked_seconds(argument: str, value: Any) -> float:
    """Return `value` as seconds >= 0, else raise `ConfigError` or `ValueRangeError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{argument} is {value!r:.200}, needed are seconds (math.inf is legal)")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = -math.inf if str(value).startswith("-") else math.inf
    if math.isnan(seconds) or seconds < 0:
        raise ValueRangeError(f"{argument} is {value!r:.200}, needed are seconds >= 0")
    return seconds


def _integer(value: Any) -> int | None:
    """Return an integer of Python or numpy as an int; None for bools and whatever else."""
    # numpy's bools are no integers, Python's are.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)
