r"""How servers apply the gradients that are pushed to a table.

An optimizer is a value: it holds the numbers, the servers do the work, one update for each pushed
row. Rows that are not in a push get nothing (a sparse update is lazy). All arithmetic is float32 in
exactly the operations and the order that each class lists under "Float32 operations"; the result is
the same, bit for bit, on every CPU.

Two optimizers are equal when a server could not tell them apart, that is, when they are of one
class and their numbers are equal after rounding to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NoReturn

from fastps import _values
from fastps.errors import ConfigError, ValueRangeError

__all__ = [
    "FTRL",
    "SGD",
    "Accumulate",
    "AdaGrad",
    "Adam",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "from_json",
]


class Optimizer:
    """Base of all optimizers. Not for subclassing by users: the rules live in the servers."""

    _kind: ClassVar[int]  # RuleKind in cpp/routing/table_spec.h; the fields are its constants

    def spec(self) -> tuple[int, list[float]]:
        """Return what travels to the servers.

        Returns
        -------
        kind : int
            The number of the update rule.
        constants : list of float
            Its constants in the order of the class's arguments, rounded to float32.
        """
        return self._kind, [_values.float32(number) for number in self._numbers().values()]

    def to_json(self) -> dict[str, Any]:
        """Return the optimizer as a dict of plain values; `from_json` reads it.

        >>> SGD(lr=0.5).to_json()
        {'name': 'SGD', 'lr': 0.5}
        """
        return _values.to_json(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Optimizer):
            return NotImplemented
        return self.spec() == other.spec()

    def __hash__(self) -> int:
        kind, constants = self.spec()
        return hash((kind, tuple(constants)))

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name, number in self._numbers().items():
            checked = _values.checked_float(owner, name, number)
            object.__setattr__(self, name, checked)  # a plain float, whatever it came as
        self._check()

    def _numbers(self) -> dict[str, float]:
        # Only the subclasses are dataclasses, which mypy cannot know here.
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def _check(self) -> None:
        """Raise ValueRangeError when a number is out of its range."""


@dataclass(frozen=True, eq=False)
class Accumulate(Optimizer):
    r"""Add up what is pushed: counters, sums, and gradients that workers have already scaled.

    .. math:: w \leftarrow w + g

    where :math:`w` is a value of the row and :math:`g` its gradient.

    Notes
    -----
    Float32 operations: ``w = w + g``.

    Weakness: a float32 holds whole numbers exactly only up to 2**24; from there on adding 1.0
    changes nothing.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     counts = client.sparse_table("counts", optimizer=fastps.optimizers.Accumulate())
    ...     counts.push([7, 7, 9], [1.0, 1.0, 5.0])
    ...     counts.pull([7, 9])
    array([2., 5.], dtype=float32)
    """

    _kind: ClassVar[int] = 1


@dataclass(frozen=True, eq=False)
class SGD(Optimizer):
    r"""Stochastic gradient descent: one fixed step against the gradient.

    .. math:: w \leftarrow w - \eta g

    where :math:`w` is a value of the row, :math:`g` its gradient and :math:`\eta` is `lr`.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, >= 0.

    Raises
    ------
    ConfigError
        `lr` is not a number.
    ValueRangeError
        `lr` is negative, NaN, infinite or beyond float32.

    Notes
    -----
    Float32 operations::

        step = lr * g
        w = w - step

    Weakness: one rate for frequent and rare rows; rare ones learn slowly (see AdaGrad, FTRL).

    References
    ----------
    Robbins and Monro 1951, "A stochastic approximation method". Same formula and default as
    ``torch.optim.SGD`` without momentum.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w", optimizer=fastps.optimizers.SGD(lr=0.5))
    ...     table.push([7], [1.0])
    ...     table.push([7], [2.0])
    ...     table.pull([7])
    array([-1.5], dtype=float32)
    """

    _kind: ClassVar[int] = 2

    lr: float = 1e-3

    def _check(self) -> None:
        _values.check_not_negative("SGD", "lr", self.lr)


@dataclass(frozen=True, eq=False)
class AdaGrad(Optimizer):
    r"""Steps that shrink with the gradients a value has seen: rare features keep learning.

    .. math:: s \leftarrow s + g^2, \qquad w \leftarrow w - \eta \frac{g}{\sqrt{s} + \epsilon}

    where :math:`w` is a value of the row, :math:`g` its gradient, :math:`s` the sum of its squared
    gradients (0 at first; one float of state each value), :math:`\eta` is `lr` and
    :math:`\epsilon` is `eps`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, >= 0.
    eps : float, default 1e-10
        Keeps the division finite, > 0. PyTorch admits 0, where a first gradient of 0 gives NaN.

    Raises
    ------
    ConfigError
        An argument is not a number.
    ValueRangeError
        An argument is out of its range, NaN, infinite or beyond float32.

    Notes
    -----
    Float32 operations::

        s = s + g * g
        direction = g / (sqrt(s) + eps)
        w = w - lr * direction

    Assigning a value sets s to 0.

    Weakness: s only grows, so that steps fade on long runs and a row cannot follow data that
    changes. A gradient beyond 1.8e19 makes s infinite, which stops the value for good.

    References
    ----------
    Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12. Same formula and defaults as ``torch.optim.Adagrad``.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w", optimizer=fastps.optimizers.AdaGrad(lr=0.5))
    ...     table.push([7, 9], [1.0, 100.0])
    ...     table.pull([7, 9])
    array([-0.5, -0.5], dtype=float32)
    """

    _kind: ClassVar[int] = 3

    lr: float = 0.01
    eps: float = 1e-10

    def _check(self) -> None:
        _values.check_not_negative("AdaGrad", "lr", self.lr)
        _values.check_positive("AdaGrad", "eps", self.eps)


@dataclass(frozen=True, eq=False)
class FTRL(Optimizer):
    r"""FTRL-proximal: AdaGrad's rates per value, with L1 and L2 that keep rare weights exactly 0.

    .. math::

        \sigma = \frac{\sqrt{n + g^2} - \sqrt{n}}{\alpha}, \qquad
        z \leftarrow z + g - \sigma w, \qquad
        n \leftarrow n + g^2

        w \leftarrow \begin{cases}
            0 & |z| \le \lambda_1 \\
            -\dfrac{z - \operatorname{sign}(z) \lambda_1}{(\beta + \sqrt{n}) / \alpha + \lambda_2}
        \end{cases}

    where :math:`w` is a value of the row, :math:`g` its gradient, :math:`n` the sum of its squared
    gradients and :math:`z` its adjusted sum of gradients (two floats of state each value, 0 at
    first), :math:`\alpha` and :math:`\beta` set the learning rate :math:`\alpha / (\beta +
    \sqrt{n})`, and :math:`\lambda_1`, :math:`\lambda_2` are `l1`, `l2`.

    Parameters
    ----------
    alpha : float, default 0.1
        Learning rate, > 0. The best value depends on the data: try powers of 2.
    beta : float, default 1.0
        Keeps the first steps small, >= 0. The paper finds 1.0 good enough everywhere.
    l1 : float, default 0.0
        Weight of ``|w|`` in the objective, >= 0: the larger, the more values are exactly 0.
    l2 : float, default 0.0
        Weight of ``w**2 / 2`` in the objective, >= 0.

    Raises
    ------
    ConfigError
        An argument is not a number.
    ValueRangeError
        An argument is out of its range, NaN, infinite or beyond float32, or beta / alpha + l2 is.

    Notes
    -----
    Float32 operations::

        n2 = n + g * g
        sigma = (sqrt(n2) - sqrt(n)) / alpha
        z = (z + g) - sigma * w
        n = n2
        d = (beta + sqrt(n2)) / alpha + l2
        w = w                          if d == 0
            0                          if abs(z) <= l1
            -(z - sign(z) * l1) / d    otherwise

    d is 0 only when beta and l2 are 0 and no gradient was large enough to be squared (1e-23): then
    the rate is infinite, and the value stays as it is.

    The row stores w beside z and n, so that a pull is a copy. Assigning a value (an initial value
    likewise) stores it exactly and sets the state to which it belongs::

        n = 0
        d0 = beta / alpha + l2
        z = 0 if w == 0 else -(w * d0 + sign(w) * l1)

    Weakness: w is the difference of z and l1, so that an l1 much larger than ``abs(w) * d`` costs
    digits of w from the next gradient on. Gradients beyond 1.8e19 make n infinite and w NaN.

    References
    ----------
    McMahan et al. 2013, "Ad click prediction: a view from the trenches", KDD, Algorithm 1.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w", optimizer=fastps.optimizers.FTRL(alpha=0.5, l1=1.0))
    ...     table.push([7, 9], [3.0, 0.5])
    ...     table.pull([7, 9])
    array([-0.25,  0.  ], dtype=float32)
    """

    _kind: ClassVar[int] = 4

    alpha: float = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0

    def _check(self) -> None:
        _values.check_positive("FTRL", "alpha", self.alpha)
        _values.check_not_negative("FTRL", "beta", self.beta)
        _values.check_not_negative("FTRL", "l1", self.l1)
        _values.check_not_negative("FTRL", "l2", self.l2)
        _, (alpha, beta, _, l2) = self.spec()
        if _values.float32(_values.float32(beta / alpha) + l2) == float("inf"):
            raise ValueRangeError(
                f"FTRL: beta / alpha + l2 is beyond float32 (alpha {self.alpha!r}, "
                f"beta {self.beta!r}, l2 {self.l2!r}); take a larger alpha"
            )


class _NotYet(Optimizer):
    """A name of the public interface whose turn has not come."""

    def __init__(self, *args: object, **kwargs: object) -> NoReturn:
        raise ConfigError(
            f"the optimizer {type(self).__name__} is not there yet; there are {', '.join(_KNOWN)}"
        )


class Momentum(_NotYet):
    """Not there yet: raises ConfigError."""


class RMSProp(_NotYet):
    """Not there yet: raises ConfigError."""


class Adam(_NotYet):
    """Not there yet: raises ConfigError."""


_KNOWN: Mapping[str, type[Optimizer]] = {
    cls.__name__: cls for cls in (Accumulate, SGD, AdaGrad, FTRL)
}


def from_json(described: object) -> Optimizer:
    """Make the optimizer that `described` tells of; it may come from anywhere.

    Parameters
    ----------
    described : dict
        As `Optimizer.to_json` returns it. Fields that are left out have their defaults.

    Raises
    ------
    ConfigError
        Not a dict, or the name or a field is unknown, or a value is not a number.
    ValueRangeError
        A number is out of its range.

    Examples
    --------
    >>> from_json({"name": "SGD", "lr": 0.5})
    SGD(lr=0.5)
    """
    return _values.from_json("optimizer", _KNOWN, described)
