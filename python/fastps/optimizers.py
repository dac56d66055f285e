r"""How servers apply the gradients that are pushed to a table.

An optimizer is a value: it holds the numbers, the servers do the work, one update for each pushed
row. Rows that are not in a push get nothing (a sparse update is lazy): no momentum, no decay. All
arithmetic is float32 in exactly the operations and the order that each class lists under "Float32
operations"; the result is the same, bit for bit, on every CPU.

Formulas, names and defaults are those of PyTorch where it has them. `weight_decay` likewise: what
it decays is ``weight_decay / 2 * w**2`` in the objective, whose gradient is added to the one that
was pushed, ``g = g + weight_decay * w``, before anything else. With 0, the default, this operation
is not done at all.

Two optimizers are equal when a server could not tell them apart, that is, when they are of one
class and their numbers are equal after rounding to float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from fastps import _values
from fastps.errors import ConfigError, ValueRangeError

__all__ = [
    "FTRL",
    "SGD",
    "Accumulate",
    "AdaGrad",
    "Adagrad",
    "Adam",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "RMSprop",
    "check_initial_state",
    "check_row_parts",
    "from_json",
    "from_text",
]

ROW_PART_MAX = 1 << 22  # floats; kRowWidthMax in cpp/base/limits.h


class Optimizer:
    """Base of all optimizers. Not for subclassing by users: the rules live in the servers.

    Attributes
    ----------
    slots : tuple of str
        The state that each value of a row carries, one float each, in the order in which servers
        store it; named as in the formulas.
    row_slots : tuple of str
        The state that each row carries besides, one float each.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    row_slots: ClassVar[tuple[str, ...]] = ()
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
        return self._kind, [_values.float32(number) for number in self._constants()]

    def to_json(self) -> dict[str, Any]:
        """Return the optimizer as a dict of plain values; `from_json` reads it.

        >>> SGD(lr=0.5).to_json()
        {'name': 'SGD', 'lr': 0.5, 'weight_decay': 0.0}
        """
        described = _values.to_json(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in described.items()}

    def with_lr(self, lr: float) -> Optimizer:
        """Return the same optimizer with another learning rate.

        Raises
        ------
        ConfigError
            It has none, or `lr` is no number.
        ValueRangeError
            `lr` is out of the optimizer's range.

        >>> SGD(lr=0.5).with_lr(0.25)
        SGD(lr=0.25, weight_decay=0.0)
        """
        if not any(field.name == "lr" for field in fields(self)):  # type: ignore[arg-type]
            owner = type(self).__name__
            raise ConfigError(
                f"set_lr: the table's optimizer is {owner}, which has no lr"
                + (": its state depends on its alpha" if owner == "FTRL" else "")
                + "; create another table with what is wanted"
            )
        changed: Optimizer = replace(self, lr=lr)  # type: ignore[type-var]
        return changed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Optimizer):
            return NotImplemented
        return self.spec() == other.spec()

    def __hash__(self) -> int:
        kind, constants = self.spec()
        return hash((kind, tuple(constants)))

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for field in fields(self):  # type: ignore[arg-type]  # only the subclasses are dataclasses
            given = getattr(self, field.name)
            checked = self._checked(owner, field.name, given)
            object.__setattr__(self, field.name, checked)  # plain, whatever it came as
        self._check()

    @staticmethod
    def _checked(owner: str, name: str, given: object) -> float | bool | tuple[float, ...]:
        return _values.checked_float(owner, name, given)

    def _constants(self) -> list[float]:
        """Return the numbers of all fields, in order."""
        constants: list[float] = []
        for field in fields(self):  # type: ignore[arg-type]  # as above
            given = getattr(self, field.name)
            constants.extend(given if isinstance(given, tuple) else [float(given)])
        return constants

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
    weight_decay : float, default 0.0
        L2 penalty, >= 0.

    Raises
    ------
    ConfigError
        An argument is not a number.
    ValueRangeError
        An argument is negative, NaN, infinite or beyond float32.

    Notes
    -----
    Float32 operations::

        g = g + weight_decay * w     (unless weight_decay is 0)
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
    weight_decay: float = 0.0

    def _check(self) -> None:
        _values.check_not_negative("SGD", "lr", self.lr)
        _values.check_not_negative("SGD", "weight_decay", self.weight_decay)


@dataclass(frozen=True, eq=False)
class Momentum(Optimizer):
    r"""SGD with momentum: steps along a sum of past gradients that fades.

    .. math:: v \leftarrow \mu v + g, \qquad w \leftarrow w - \eta v

    or, with Nesterov's look ahead, :math:`w \leftarrow w - \eta (g + \mu v)`, where :math:`w` is a
    value of the row, :math:`g` its gradient, :math:`v` its velocity (0 at first; one float of state
    each value), :math:`\eta` is `lr` and :math:`\mu` is `momentum`.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, >= 0.
    momentum : float, default 0.9
        How much of the velocity stays, >= 0. Below 1, or it never fades. PyTorch's own default is
        0, which is `SGD`.
    nesterov : bool, default False
        Whether to take the step from where the momentum leads. Needs momentum > 0.
    weight_decay : float, default 0.0
        L2 penalty, >= 0.

    Raises
    ------
    ConfigError
        An argument is not a number, or `nesterov` not a bool.
    ValueRangeError
        An argument is negative, NaN, infinite or beyond float32, or momentum is 0 with nesterov.

    Notes
    -----
    Float32 operations::

        g = g + weight_decay * w     (unless weight_decay is 0)
        v = momentum * v + g
        direction = v                           without nesterov
                    g + momentum * v            with nesterov
        w = w - lr * direction

    PyTorch's first v is g itself (its dampening is 0 here); ``momentum * 0 + g`` is the same.
    Assigning a value sets v to 0.

    Weakness: on sparse tables a velocity does not fade while its row is absent; a row that comes
    back after a long time first moves the way it went then. Constant gradients end in steps of
    ``lr / (1 - momentum)``: choose lr smaller than for SGD.

    References
    ----------
    Polyak 1964, "Some methods of speeding up the convergence of iteration methods"; Sutskever et
    al. 2013, "On the importance of initialization and momentum in deep learning", ICML. Same
    formula as ``torch.optim.SGD`` with momentum.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     optimizer = fastps.optimizers.Momentum(lr=1.0, momentum=0.5)
    ...     table = client.sparse_table("w", optimizer=optimizer)
    ...     for _ in range(3):
    ...         table.push([7], [1.0])
    ...     table.pull([7])
    array([-4.25], dtype=float32)
    """

    slots = ("v",)
    _kind: ClassVar[int] = 5

    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    @staticmethod
    def _checked(owner: str, name: str, given: object) -> float | bool | tuple[float, ...]:
        if name != "nesterov":
            return _values.checked_float(owner, name, given)
        if not isinstance(given, bool):
            raise ConfigError(f"{owner}: nesterov is {given!r}, needed is True or False")
        return given

    def _check(self) -> None:
        _values.check_not_negative("Momentum", "lr", self.lr)
        _values.check_not_negative("Momentum", "momentum", self.momentum)
        if self.nesterov and _values.float32(self.momentum) == 0:
            raise ValueRangeError(
                f"Momentum: momentum is {self.momentum!r}, needed is a number > 0 with nesterov"
            )
        _values.check_not_negative("Momentum", "weight_decay", self.weight_decay)


@dataclass(frozen=True, eq=False)
class AdaGrad(Optimizer):
    r"""Steps that shrink with the gradients a value has seen: rare features keep learning.

    .. math:: s \leftarrow s + g^2, \qquad w \leftarrow w - \eta \frac{g}{\sqrt{s} + \epsilon}

    where :math:`w` is a value of the row, :math:`g` its gradient, :math:`s` the sum of its squared
    gradients (`initial_accumulator_value` at first; one float of state each value),
    :math:`\epsilon` is `eps`, and :math:`\eta` is `lr`, or with an `lr_decay`
    :math:`\mathrm{lr} / (1 + t \, \mathrm{lr\_decay})` after :math:`t` updates of the row.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, >= 0.
    eps : float, default 1e-10
        Keeps the division finite, > 0. PyTorch admits 0, where a first gradient of 0 gives NaN.
    weight_decay : float, default 0.0
        L2 penalty, >= 0.
    lr_decay : float, default 0.0
        How fast the rate of a row fades with its updates, >= 0. Unless it is 0, each row counts
        them (two floats of state each row).
    initial_accumulator_value : float, default 0.0
        What s begins with, >= 0: the larger, the smaller are the first steps.

    Raises
    ------
    ConfigError
        An argument is not a number.
    ValueRangeError
        An argument is out of its range, NaN, infinite or beyond float32.

    Notes
    -----
    Float32 operations::

        g = g + weight_decay * w     (unless weight_decay is 0)
        s = s + g * g
        direction = g / (sqrt(s) + eps)
        w = w - lr * direction       without lr_decay
            w - rate * direction     with it

    with, once a row, ``rate = lr / (1 + (t_low + 2**24 * t_high) * lr_decay)``, after which the
    update is counted: t_low up to 2**24 - 1, then t_high.

    Assigning a value sets s to initial_accumulator_value, assigning a row its count to 0. On dense
    tables a row is an index of the first axis.

    Weakness: s only grows, so that steps fade on long runs and a row cannot follow data that
    changes. A push whose square, or what it adds to s, is beyond float32 (gradients from 1.8e19 on)
    is refused.

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

    slots = ("s",)
    _kind: ClassVar[int] = 3

    lr: float = 0.01
    eps: float = 1e-10
    weight_decay: float = 0.0
    lr_decay: float = 0.0
    initial_accumulator_value: float = 0.0

    @property
    def row_slots(self) -> tuple[str, ...]:  # type: ignore[override]  # not of the class alone
        """The count of a row's updates, when the rate depends on it."""
        return ("t_low", "t_high") if _values.float32(self.lr_decay) != 0 else ()

    def _check(self) -> None:
        _values.check_not_negative("AdaGrad", "lr", self.lr)
        _values.check_positive("AdaGrad", "eps", self.eps)
        _values.check_not_negative("AdaGrad", "weight_decay", self.weight_decay)
        _values.check_not_negative("AdaGrad", "lr_decay", self.lr_decay)
        value = self.initial_accumulator_value
        _values.check_not_negative("AdaGrad", "initial_accumulator_value", value)


@dataclass(frozen=True, eq=False)
class RMSProp(Optimizer):
    r"""AdaGrad that forgets: steps shrink with the recent gradients of a value, not with all.

    .. math::

        s \leftarrow \alpha s + (1 - \alpha) g^2, \qquad
        w \leftarrow w - \eta \frac{g}{\sqrt{s} + \epsilon}

    where :math:`w` is a value of the row, :math:`g` its gradient, :math:`s` the fading mean of its
    squared gradients (0 at first; one float of state each value), :math:`\eta` is `lr`,
    :math:`\alpha` is `alpha` and :math:`\epsilon` is `eps`.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, >= 0.
    alpha : float, default 0.99
        How much of the mean stays, 0 <= alpha < 1.
    eps : float, default 1e-08
        Keeps the division finite, > 0.
    weight_decay : float, default 0.0
        L2 penalty, >= 0.

    Raises
    ------
    ConfigError
        An argument is not a number.
    ValueRangeError
        An argument is out of its range, NaN, infinite or beyond float32.

    Notes
    -----
    Float32 operations::

        g = g + weight_decay * w     (unless weight_decay is 0)
        s = alpha * s + (1 - alpha) * (g * g)
        direction = g / (sqrt(s) + eps)
        w = w - lr * direction

    Assigning a value sets s to 0.

    Weakness: s begins at 0 without correction, so that the first step of a value is
    ``1 / sqrt(1 - alpha)`` times as long as later ones (10 times with the default; `Adam` corrects
    this). A push whose square is beyond float32 (gradients from 1.8e19 on) is refused.

    References
    ----------
    Hinton 2012, "Neural networks for machine learning", lecture 6e. Same formula and defaults as
    ``torch.optim.RMSprop``, without its momentum and centering.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     optimizer = fastps.optimizers.RMSProp(lr=0.5, alpha=0.75)
    ...     table = client.sparse_table("w", optimizer=optimizer)
    ...     table.push([7, 9], [1.0, 100.0])
    ...     table.pull([7, 9])
    array([-1., -1.], dtype=float32)
    """

    slots = ("s",)
    _kind: ClassVar[int] = 6

    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        _values.check_not_negative("RMSProp", "lr", self.lr)
        _check_below_one("RMSProp", "alpha", self.alpha)
        _values.check_positive("RMSProp", "eps", self.eps)
        _values.check_not_negative("RMSProp", "weight_decay", self.weight_decay)


@dataclass(frozen=True, eq=False)
class Adam(Optimizer):
    r"""Momentum and RMSProp in one, each corrected for having begun at 0.

    .. math::

        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2

        w \leftarrow w - \eta \frac{m / (1 - \beta_1^t)}
                                 {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    where :math:`w` is a value of the row, :math:`g` its gradient, :math:`m` and :math:`v` the
    fading means of gradients and squared gradients (0 at first; two floats of state each value),
    :math:`t` the number of the row's own updates (kept as :math:`1 - \beta_1^t` and :math:`1 -
    \beta_2^t`, two floats of state each row), :math:`\eta` is `lr`, :math:`\beta_1, \beta_2` are
    `betas` and :math:`\epsilon` is `eps`.

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, >= 0; about how far a value moves in one update.
    betas : tuple of two floats, default (0.9, 0.999)
        How much of m and of v stays, 0 <= beta < 1 in float32.
    eps : float, default 1e-08
        Keeps the division finite, > 0. PyTorch admits 0, where a first gradient of 0 gives NaN.
    weight_decay : float, default 0.0
        L2 penalty, >= 0.

    Raises
    ------
    ConfigError
        An argument is not a number, or `betas` not two.
    ValueRangeError
        An argument is out of its range, NaN, infinite or beyond float32.

    Notes
    -----
    Float32 operations, once a row::

        c1 = beta1 * c1 + (1 - beta1)
        c2 = beta2 * c2 + (1 - beta2)
        step = lr / c1
        scale = 1 / sqrt(c2)

    and for each value::

        g = g + weight_decay * w     (unless weight_decay is 0)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        direction = m / (sqrt(v) * scale + eps)
        w = w - step * direction

    c1 and c2 are ``1 - beta1**t`` and ``1 - beta2**t`` (0 at first), as the sums that these are:
    taken from 1, ``beta2**t`` would leave half the digits in the first updates.

    Assigning a row sets its m, v, c1 and c2 to 0. On dense tables a row is an index of the first
    axis; a shape of one dimension has rows of one value.

    Weakness: sparse rows are updated lazily. While a row is absent its m and v do not fade and its
    t stands still, so that rare rows take larger steps than under ``torch.optim.Adam``, which
    updates all rows each time; ``torch.optim.SparseAdam`` is lazy too, but counts t for the whole
    table. weight_decay is divided by sqrt(v) like any gradient, and so decays large weights less
    than it seems. A push whose square is beyond float32 (gradients from 1.8e19 on) is refused.

    References
    ----------
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", ICLR, Algorithm 1. Same
    formula and defaults as ``torch.optim.Adam``.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     table = client.sparse_table("w", optimizer=fastps.optimizers.Adam(lr=0.5))
    ...     table.push([7, 9], [1.0, 100.0])
    ...     table.pull([7, 9])
    array([-0.5, -0.5], dtype=float32)
    """

    slots = ("m", "v")
    row_slots = ("c1", "c2")
    _kind: ClassVar[int] = 7

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    @staticmethod
    def _checked(owner: str, name: str, given: object) -> float | bool | tuple[float, ...]:
        if name != "betas":
            return _values.checked_float(owner, name, given)
        if not isinstance(given, list | tuple) or len(given) != 2:
            raise ConfigError(f"{owner}: betas is {given!r}, needed are two numbers")
        return tuple(_values.checked_float(owner, "betas", beta) for beta in given)

    def _check(self) -> None:
        _values.check_not_negative("Adam", "lr", self.lr)
        for beta in self.betas:
            _check_below_one("Adam", "betas", beta)
        _values.check_positive("Adam", "eps", self.eps)
        _values.check_not_negative("Adam", "weight_decay", self.weight_decay)


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
    digits of w from the next gradient on. A push whose square, or what it adds to n, is beyond
    float32 (gradients from 1.8e19 on) is refused, and so is an assign of a w whose z is.

    With beta and l2 both 0, d0 is 0 and z can only be ``-sign(w) * l1``: no z belongs to a value of
    which no gradient was seen. The value is stored all the same, and counts in the first update as
    ``-sigma * w``, so that with l1 = 0 that update gives ``w - alpha * sign(g)``, whatever the size
    of g. A gradient below 1e-23, whose square is 0 in float32, only goes into z and leaves w as it
    is, where float64 would divide by it. So keep beta at 1 to give values from elsewhere a weight.

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

    slots = ("z", "n")
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


def _check_below_one(owner: str, name: str, value: float) -> None:
    """Raise ValueRangeError unless 0 <= value < 1 as float32, which servers calculate in."""
    if not 0 <= _values.float32(value) < 1 or value < 0:
        raise ValueRangeError(
            f"{owner}: {name} is {value!r}, needed is a number >= 0 and < 1 (in float32)"
        )


def check_row_parts(
    name: str, optimizer: Optimizer, shape: tuple[int, ...], num_shards: int
) -> None:
    """Check that servers could keep `optimizer`'s state for the rows of a dense table.

    Parameters
    ----------
    name : str
        The table's, for the message.
    optimizer : Optimizer
    shape : tuple of int
    num_shards : int

    Raises
    ------
    ConfigError
        The optimizer keeps state for each row (`Adam`, `AdaGrad` with lr_decay), and a shard's part
        of a row would be too large to travel in one piece.

    Examples
    --------
    >>> check_row_parts("w", Adam(), (1000, 64), 4)
    """
    if not optimizer.row_slots:
        return
    elements = math.prod(shape)
    part = min(math.prod(shape[1:]), -(-elements // num_shards))
    if part > ROW_PART_MAX:
        raise ConfigError(
            f"dense table {name!r}: shape {shape} in {num_shards} shards puts {part} floats of one "
            f"row into one shard; with {type(optimizer).__name__}, which counts the updates of "
            f"each row, at most {ROW_PART_MAX} may be there: raise num_shards to "
            f"{-(-elements // ROW_PART_MAX)}"
        )


def check_initial_state(name: str, optimizer: Optimizer, reach: float) -> None:
    """Check that the state of rows with initial values up to `reach` is finite.

    Parameters
    ----------
    name : str
        The table's, for the message.
    optimizer : Optimizer
    reach : float
        As `Initializer.reach` returns it.

    Raises
    ------
    ConfigError
        The z that `FTRL` gives to such a value is beyond float32.

    Examples
    --------
    >>> check_initial_state("w", FTRL(), 1.0)
    """
    if not isinstance(optimizer, FTRL):
        return
    alpha, beta, l1, l2 = optimizer.spec()[1]
    d0 = _values.float32(_values.float32(beta / alpha) + l2)
    if math.isinf(_values.float32(_values.float32(_values.float32(reach) * d0) + l1)):
        raise ConfigError(
            f"table {name!r}: initial values reach {reach:g}, and {optimizer!r} gives them a state "
            "of |w| * (beta / alpha + l2) + l1, which is beyond float32: take smaller initial "
            "values or a larger alpha"
        )


_KNOWN: Mapping[str, type[Optimizer]] = {
    cls.__name__: cls for cls in (Accumulate, SGD, Momentum, AdaGrad, RMSProp, Adam, FTRL)
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
    SGD(lr=0.5, weight_decay=0.0)
    """
    return _values.from_json("optimizer", _KNOWN, described)


def from_text(text: str) -> Optimizer:
    """Return the optimizer of that name, in any case, with its defaults.

    Raises
    ------
    ConfigError
        There is none.

    >>> from_text("adagrad") == AdaGrad()
    True
    """
    for name, optimizer in _KNOWN.items():
        if name.lower() == text.lower():
            return optimizer()
    raise ConfigError(
        f"optimizer is {text!r}, needed is one of {', '.join(map(repr, map(str.lower, _KNOWN)))}, "
        "or a value of fastps.optimizers with numbers of its own"
    )


# PyTorch's spellings.
Adagrad = AdaGrad
RMSprop = RMSProp
