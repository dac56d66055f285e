r"""What a row holds before anyone wrote to it.

An initial value is a pure function of (seed, key, column): pulling a row does not create it, and
who pulls first makes no difference. Dense tables use the row's number as its key. Column is the
value's place in the row, counted in C order.

`Uniform` and `Normal` draw 64 random bits for each value from a splitmix64 generator (Steele, Lea
and Flood 2014, "Fast splittable pseudorandom number generators") that starts at seed and key::

    mix(x): x = x + 0x9e3779b97f4a7c15                        (all modulo 2**64)
            x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
            x = (x ^ (x >> 27)) * 0x94d049bb133111eb
            x ^ (x >> 31)
    bits(seed, key, column) = mix(mix(mix(seed) ^ key) + column * 0x9e3779b97f4a7c15)

They calculate in float64 and round the result to float32 once. Values are the same, bit for bit, on
every CPU. Two initializers are equal when a server could not tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fastps import _values
from fastps.errors import ValueRangeError

__all__ = ["Constant", "Initializer", "Normal", "Uniform", "Zeros", "from_json"]

# The farthest a Normal draw can be from its mean, in standard deviations, rounded up.
_DEVIATIONS_MAX = 8.25
_FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127


class Initializer:
    """Base of all initializers. Not for subclassing by users: the servers make the values."""

    _kind: ClassVar[int]  # InitializerKind in cpp/routing/table_spec.h

    def spec(self) -> tuple[int, int, float, float]:
        """Return what travels to the servers.

        Returns
        -------
        kind : int
            The number of the initializer.
        seed : int
            From 0 to 2**64 - 1; 0 where the class has none.
        a, b : float
            Its numbers, rounded to float32; 0 where the class has fewer.
        """
        a, b = self._numbers()
        seed: int = getattr(self, "seed", 0)
        return self._kind, seed, _values.float32(a), _values.float32(b)

    def to_json(self) -> dict[str, Any]:
        """Return the initializer as a dict of plain values; `from_json` reads it.

        >>> Constant(0.5).to_json()
        {'name': 'Constant', 'value': 0.5}
        """
        return _values.to_json(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(self.spec())

    def reach(self) -> float:
        """Return a number that no initial value is larger than in size.

        >>> Uniform(-2.0, 1.0).reach()
        2.0
        """
        low, high = self._numbers()
        return max(abs(low), abs(high))

    def _numbers(self) -> tuple[float, float]:
        return 0.0, 0.0

    def _set_float(self, name: str) -> None:
        """Replace the field by a plain, checked float, whatever it came as."""
        number = _values.checked_float(type(self).__name__, name, getattr(self, name))
        object.__setattr__(self, name, number)

    def _set_seed(self) -> None:
        seed = _values.checked_seed(type(self).__name__, getattr(self, "seed", 0))
        object.__setattr__(self, "seed", seed)


@dataclass(frozen=True, eq=False)
class Zeros(Initializer):
    """Every value is 0.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w", initializer=fastps.initializers.Zeros())
    ...     table.pull([7])
    array([0.], dtype=float32)
    """

    _kind: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class Constant(Initializer):
    """Every value is the same.

    Parameters
    ----------
    value : float
        The value, rounded to float32.

    Raises
    ------
    ConfigError
        `value` is not a number.
    ValueRangeError
        `value` is NaN, infinite or beyond float32.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w", initializer=fastps.initializers.Constant(0.5))
    ...     table.pull([7])
    array([0.5], dtype=float32)
    """

    _kind: ClassVar[int] = 2

    value: float

    def __post_init__(self) -> None:
        self._set_float("value")

    def _numbers(self) -> tuple[float, float]:
        return self.value, 0.0


@dataclass(frozen=True, eq=False)
class Uniform(Initializer):
    r"""Values drawn evenly between `low` and `high`.

    .. math:: w = low + (high - low) u

    where :math:`u` is one of the :math:`2^{24}` numbers :math:`0, 2^{-24}, ..., 1 - 2^{-24}`.

    Parameters
    ----------
    low, high : float
        The bounds, low <= high. `high` itself appears only where rounding to float32 leads to it.
    seed : int, default 0
        From 0 to 2**64 - 1. Tables with the same seed have the same values: give each its own.

    Raises
    ------
    ConfigError
        A bound is not a number, or the seed is not an integer.
    ValueRangeError
        low > high, a bound is NaN, infinite or beyond float32, or the seed is out of range.

    Notes
    -----
    Float64 operations, of low and high rounded to float32::

        u = (bits(seed, key, column) >> 40) * 2**-24
        w = float32(low + (high - low) * u)

    Weakness: 2**24 different values, so that among 10,000 draws a few are equal.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     uniform = fastps.initializers.Uniform(-0.01, 0.01, seed=7)
    ...     table = client.sparse_table("w", row_shape=(2,), initializer=uniform)
    ...     table.pull([7])
    array([[0.00266254, 0.00890102]], dtype=float32)
    """

    _kind: ClassVar[int] = 3

    low: float
    high: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._set_float("low")
        self._set_float("high")
        self._set_seed()
        if _values.float32(self.low) > _values.float32(self.high):
            raise ValueRangeError(
                f"Uniform: low is {self.low!r} and high is {self.high!r}, needed is low <= high"
            )

    def _numbers(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True, eq=False)
class Normal(Initializer):
    r"""Values drawn from the normal distribution.

    .. math:: w = mean + std \cdot \Phi^{-1}(p)

    where :math:`\Phi^{-1}` is the quantile function of the standard normal distribution and
    :math:`p` one of :math:`2^{52}` evenly spaced numbers in (0, 1); no value is farther than 8.3
    `std` from `mean`.

    Parameters
    ----------
    mean : float, default 0.0
        Mean of the values.
    std : float, default 1.0
        Their standard deviation, >= 0.
    seed : int, default 0
        From 0 to 2**64 - 1. Tables with the same seed have the same draws: give each its own.

    Raises
    ------
    ConfigError
        `mean` or `std` is not a number, or the seed is not an integer.
    ValueRangeError
        `std` is negative, a number is NaN or infinite, abs(mean) + 8.25 std is beyond float32, or
        the seed is out of range.

    Notes
    -----
    Float64 operations, of mean and std rounded to float32::

        p = ((bits(seed, key, column) >> 12) + 0.5) * 2**-52
        w = float32(mean + std * quantile(p))

    quantile is algorithm AS 241, PPND16, each polynomial by Horner's rule::

        q = p - 0.5
        abs(q) <= 0.425:  q * A(0.180625 - q*q) / B(0.180625 - q*q)
        otherwise:        r = sqrt(-log(min(p, 1 - p)))
                          sign(q) * C(r - 1.6) / D(r - 1.6)    for r <= 5
                          sign(q) * E(r - 5) / F(r - 5)        for r > 5

    and its logarithm uses no library either, of x = m * 2**e with sqrt(1/2) <= m < sqrt(2), the
    sum again by Horner's rule::

        s = (m - 1) / (m + 1)
        log(x) = 2*s * (1 + s**2/3 + s**4/5 + ... + s**20/21) + e * log(2)

    Weakness: about five times the work of `Uniform` each time an unwritten row is pulled.

    References
    ----------
    Wichura 1988, "Algorithm AS 241: the percentage points of the normal distribution", Applied
    Statistics 37(3).

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     normal = fastps.initializers.Normal(0.0, 0.01, seed=7)
    ...     table = client.sparse_table("w", row_shape=(2,), initializer=normal)
    ...     table.pull([7])
    array([[0.00340147, 0.01598652]], dtype=float32)
    """

    _kind: ClassVar[int] = 4

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._set_float("mean")
        self._set_float("std")
        self._set_seed()
        _values.check_not_negative("Normal", "std", self.std)
        mean, std = _values.float32(self.mean), _values.float32(self.std)
        if abs(mean) + _DEVIATIONS_MAX * std > _FLOAT32_MAX:
            raise ValueRangeError(
                f"Normal: mean is {self.mean!r} and std is {self.std!r}, needed is "
                f"abs(mean) + {_DEVIATIONS_MAX} std within float32"
            )

    def reach(self) -> float:
        """Return a number that no initial value is larger than in size."""
        return abs(self.mean) + 8.25 * self.std

    def _numbers(self) -> tuple[float, float]:
        return self.mean, self.std


_KNOWN: Mapping[str, type[Initializer]] = {
    cls.__name__: cls for cls in (Zeros, Constant, Uniform, Normal)
}


def from_json(described: object) -> Initializer:
    """Make the initializer that `described` tells of; it may come from anywhere.

    Parameters
    ----------
    described : dict
        As `Initializer.to_json` returns it. Fields that are left out have their defaults.

    Raises
    ------
    ConfigError
        Not a dict, or the name or a field is unknown or missing, or of the wrong type.
    ValueRangeError
        A number is out of its range.

    Examples
    --------
    >>> from_json({"name": "Constant", "value": 0.5})
    Constant(value=0.5)
    """
    return _values.from_json("initializer", _KNOWN, described)
