"""What the optimizers and initializers must give, in numpy, written from their docstrings.

With dtype float32 the operations and their order are those of the docstrings, so that results can
be compared bit for bit; with float64 the same formulas tell what the numbers should be near.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastps import initializers, optimizers

Array = npt.NDArray[Any]


def n_slots(optimizer: optimizers.Optimizer) -> int:
    """Floats of state that each value carries."""
    return {
        "Accumulate": 0,
        "SGD": 0,
        "Momentum": 1,
        "AdaGrad": 1,
        "RMSProp": 1,
        "Adam": 2,
        "FTRL": 2,
    }[type(optimizer).__name__]


def n_row_slots(optimizer: optimizers.Optimizer) -> int:
    """Floats of state that each row carries besides."""
    return 2 if isinstance(optimizer, optimizers.Adam) or _counts(optimizer) else 0


def _counts(optimizer: optimizers.Optimizer) -> bool:
    return isinstance(optimizer, optimizers.AdaGrad) and optimizer.lr_decay != 0


def new_state(optimizer: optimizers.Optimizer, w: Array) -> list[Array]:
    """State of rows that were just assigned: slots like `w`, then row slots along its first axis.

    All have the dtype of `w`.
    """
    if isinstance(optimizer, optimizers.FTRL):
        t = w.dtype.type
        d0 = t(optimizer.beta) / t(optimizer.alpha) + t(optimizer.l2)
        z = np.where(w == 0, t(0), -(w * d0 + np.sign(w) * t(optimizer.l1)))
        return [z, np.zeros_like(w)]
    if isinstance(optimizer, optimizers.AdaGrad):
        first = w.dtype.type(optimizer.initial_accumulator_value)
        counts = [np.zeros(w.shape[:1], w.dtype) for _ in range(n_row_slots(optimizer))]
        return [np.full_like(w, first), *counts]
    return [
        *(np.zeros_like(w) for _ in range(n_slots(optimizer))),
        *(np.zeros(w.shape[:1], w.dtype) for _ in range(n_row_slots(optimizer))),
    ]


def stored_rows(w: Array, state: list[Array]) -> Array:
    """Rows as sparse shards store them: [value | slots | row slots], flat."""
    flat = [each.reshape(len(w), math.prod(each.shape[1:])) for each in [w, *state]]
    return np.concatenate(flat, axis=1)


def step(optimizer: optimizers.Optimizer, w: Array, state: list[Array], g: Array) -> None:
    """Apply one gradient to `w` and `state` in place, in the dtype of `w`."""
    t = w.dtype.type
    g = g.astype(w.dtype)
    if getattr(optimizer, "weight_decay", 0) != 0:
        g = g + t(optimizer.weight_decay) * w  # type: ignore[attr-defined]
    if isinstance(optimizer, optimizers.Accumulate):
        w[...] = w + g
    elif isinstance(optimizer, optimizers.SGD):
        w[...] = w - t(optimizer.lr) * g
    elif isinstance(optimizer, optimizers.Momentum):
        (v,) = state
        v[...] = t(optimizer.momentum) * v + g
        direction = g + t(optimizer.momentum) * v if optimizer.nesterov else v
        w[...] = w - t(optimizer.lr) * direction
    elif isinstance(optimizer, optimizers.AdaGrad):
        s, *counts = state
        s[...] = s + g * g
        direction = g / (np.sqrt(s) + t(optimizer.eps))
        w[...] = w - _adagrad_rate(optimizer, w, counts) * direction
    elif isinstance(optimizer, optimizers.RMSProp):
        (s,) = state
        s[...] = t(optimizer.alpha) * s + (t(1) - t(optimizer.alpha)) * (g * g)
        direction = g / (np.sqrt(s) + t(optimizer.eps))
        w[...] = w - t(optimizer.lr) * direction
    elif isinstance(optimizer, optimizers.Adam):
        _adam_step(optimizer, w, state, g)
    elif isinstance(optimizer, optimizers.FTRL):
        z, n = state
        alpha, beta = t(optimizer.alpha), t(optimizer.beta)
        l1, l2 = t(optimizer.l1), t(optimizer.l2)
        n2 = n + g * g
        sigma = (np.sqrt(n2) - np.sqrt(n)) / alpha
        z[...] = (z + g) - sigma * w
        n[...] = n2
        d = (beta + np.sqrt(n2)) / alpha + l2
        with np.errstate(divide="ignore", invalid="ignore"):
            solved = -(z - np.sign(z) * l1) / d
        w[...] = np.where(d == 0, w, np.where(np.abs(z) <= l1, t(0), solved))
    else:
        raise AssertionError(optimizer)


def _adagrad_rate(optimizer: optimizers.AdaGrad, w: Array, counts: list[Array]) -> Any:
    t = w.dtype.type
    if not counts:
        return t(optimizer.lr)
    low, high = counts
    rate = t(optimizer.lr) / (t(1) + (low + t(2**24) * high) * t(optimizer.lr_decay))
    low[...] = low + t(1)
    high[...] = np.where(low == 2**24, high + t(1), high)
    low[...] = np.where(low == 2**24, t(0), low)
    return rate.reshape(-1, *([1] * (w.ndim - 1)))


def _adam_step(optimizer: optimizers.Adam, w: Array, state: list[Array], g: Array) -> None:
    t = w.dtype.type
    one = t(1)
    m, v, c1, c2 = state
    beta1, beta2 = (t(beta) for beta in optimizer.betas)
    c1[...] = beta1 * c1 + (one - beta1)
    c2[...] = beta2 * c2 + (one - beta2)
    across = (-1, *([1] * (w.ndim - 1)))
    row_step = (t(optimizer.lr) / c1).reshape(across)
    scale = (one / np.sqrt(c2)).reshape(across)
    m[...] = beta1 * m + (one - beta1) * g
    v[...] = beta2 * v + (one - beta2) * (g * g)
    direction = m / (np.sqrt(v) * scale + t(optimizer.eps))
    w[...] = w - row_step * direction


def _mix(x: Array) -> Array:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


def random_bits(seed: int, keys: npt.ArrayLike, columns: npt.ArrayLike) -> Array:
    """64 bits for each key (rows) and column (columns)."""
    key = np.asarray(keys, dtype=np.uint64)[:, None]
    column = np.asarray(columns, dtype=np.uint64)[None, :]
    start = _mix(_mix(np.full(1, seed, dtype=np.uint64)) ^ key)
    return _mix(start + column * np.uint64(0x9E3779B97F4A7C15))


# Wichura 1988, PPND16; each from the power 0 up. Three ranges, top and bottom of a fraction.
_PPND16 = {
    "A": (
        *(3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3),
        *(1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4),
        *(3.3430575583588128105e4, 2.5090809287301226727e3),
    ),
    "B": (
        *(1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3),
        *(2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4),
        *(5.2264952788528545610e3,),
    ),
    "C": (
        *(1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0),
        *(3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1),
        *(2.27238449892691845833e-2, 7.74545014278341407640e-4),
    ),
    "D": (
        *(1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1),
        *(1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4),
        *(1.05075007164441684324e-9,),
    ),
    "E": (
        *(6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0),
        *(2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3),
        *(2.71155556874348757815e-5, 2.01033439929228813265e-7),
    ),
    "F": (
        *(1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2),
        *(7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7),
        *(2.04426310338993978564e-15,),
    ),
}


def _horner(powers: tuple[float, ...], x: Array) -> Array:
    total = np.full_like(x, powers[-1])
    for power in reversed(powers[:-1]):
        total = total * x + power
    return total


def _fraction(top: str, bottom: str, x: Array, factor: Array | float = 1.0) -> Array:
    result: Array = factor * _horner(_PPND16[top], x) / _horner(_PPND16[bottom], x)
    return result


def _log(x: Array) -> Array:
    m, e = np.frexp(x)
    small = m < np.sqrt(0.5)
    m = np.where(small, 2 * m, m)
    e = np.where(small, e - 1, e)
    s = (m - 1) / (m + 1)
    total = _horner(tuple(1 / k for k in range(1, 22, 2)), s * s)
    result: Array = 2 * s * total + e * np.log(2.0)
    return result


def normal_quantile(p: Array) -> Array:
    """The quantile function of the standard normal distribution, as `Normal` describes it."""
    q = p - 0.5
    center = _fraction("A", "B", 0.180625 - q * q, q)
    r = np.sqrt(-_log(np.minimum(p, 1 - p)))
    tail = np.where(r <= 5, _fraction("C", "D", r - 1.6), _fraction("E", "F", r - 5))
    return np.where(np.abs(q) <= 0.425, center, np.where(q < 0, -tail, tail))


def initial(
    initializer: initializers.Initializer, keys: npt.ArrayLike, columns: npt.ArrayLike
) -> Array:
    """Initial values, float32, one row for each key."""
    shape = np.asarray(keys).size, np.asarray(columns).size
    _, seed, a, b = initializer.spec()
    if isinstance(initializer, initializers.Zeros | initializers.Constant):
        return np.full(shape, a, dtype=np.float32)
    bits = random_bits(seed, keys, columns)
    values: Array
    if isinstance(initializer, initializers.Uniform):
        u = (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24
        values = a + (b - a) * u
    else:
        assert isinstance(initializer, initializers.Normal)
        p = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        values = a + b * normal_quantile(p)
    return values.astype(np.float32)
