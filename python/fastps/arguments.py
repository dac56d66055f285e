"""Checks of what users pass to a client, before anything is sent."""

from __future__ import annotations

import math
import operator
from typing import Any

from fastps import optimizers
from fastps.consistency import Consistency, from_text
from fastps.errors import ConfigError, ValueRangeError
from fastps.initializers import Initializer
from fastps.optimizers import Optimizer
from fastps.scheduler.messages import TableDefinition

__all__ = ["check_name", "checked_seconds", "checked_shape", "definition_of"]


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
    for argument, count in (("num_shards", num_shards), ("replication", replication)):
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"{argument} is {count!r}, needed is an integer >= 1")
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
    """Raise `ConfigError` unless `name` is a str."""
    if not isinstance(name, str):
        raise ConfigError(f"a table's name is {name!r}, needed is a str")


def checked_shape(argument: str, shape: Any) -> tuple[int, ...]:
    """Return an integer or a sequence of them as a tuple, else raise `ConfigError`."""
    dimensions = (shape,) if hasattr(shape, "__index__") else shape
    try:
        checked = tuple(operator.index(dimension) for dimension in dimensions)
    except TypeError:
        checked = (0,)
    if any(not 1 <= dimension < 2**63 for dimension in checked):
        raise ConfigError(f"{argument} is {shape!r:.200}, needed is a tuple of integers >= 1")
    return checked


def checked_seconds(argument: str, value: Any) -> float:
    """Return `value` as seconds >= 0, else raise `ConfigError` or `ValueRangeError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{argument} is {value!r}, needed are seconds (math.inf is legal)")
    if math.isnan(value) or value < 0:
        raise ValueRangeError(f"{argument} is {value!r}, needed are seconds >= 0")
    return float(value)
