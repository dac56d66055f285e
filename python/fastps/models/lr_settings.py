"""What a run of logistic regression is to do: checked before anything starts."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path

from fastps import consistency
from fastps.consistency import Consistency
from fastps.errors import ConfigError, ValueRangeError
from fastps.optimizers import FTRL, SGD, AdaGrad, Optimizer
from fastps.output import check_output, check_picture

__all__ = ["DEFAULT_LR", "OPTIMIZERS", "LogisticRegressionSettings"]

OPTIMIZERS = ("adagrad", "ftrl", "sgd")
# Good for sums of gradients over minibatches of binary features; see the module of the training.
DEFAULT_LR = {"adagrad": 0.5, "ftrl": 0.3, "sgd": 1.0}
FTRL_BETA = 1.0

# The automatic minibatch: a small data set needs many steps, a large one few messages.
BATCHES_PER_EPOCH = 64
BATCH_ROWS_MIN = 64
BATCH_ROWS_MAX = 4096


@dataclass(frozen=True)
class LogisticRegressionSettings:
    """Settings of one run; all workers of the job must have the same.

    Attributes
    ----------
    data : tuple of str
        Training files or directories.
    test : str or None
        Test file or directory; None: the figures are those of the training data.
    optimizer : {'adagrad', 'ftrl', 'sgd'}
        The rule of the weights (and of the bias).
    lr : float or None
        Learning rate (FTRL: alpha), > 0; None: the optimizer's default. For SGD it multiplies the
        mean gradient of a full minibatch.
    l1, l2 : float
        Penalties >= 0 of the objective: sum of losses + l1 * |w|_1 + l2 / 2 * |w|^2.
    epochs : int
        Passes over the data, >= 1.
    batch_size : int or None
        Rows in a minibatch at most, >= 1; None: by the size of the data, 64 to 4096.
    decay : bool
        Whether steps shrink linearly to 0 in the second half of the epochs; FTRL does not use it.
    bias : bool
        Whether to learn a bias, which is not penalized.
    consistency : str
        ``asp``, ``ssp:S`` or ``bsp``: how the workers wait for each other. Under the latter two a
        step is a minibatch.
    seed : int
        Of the order of chunks and examples, 0 to 2^63-1.
    hash_bits : int or None
        See `fastps.data.load_block`.
    skip_bad_lines : bool
        Count bad lines and go on.
    cache_bytes : int
        Memory for parsed data in each worker.
    model, metrics, plot : str or None
        Files to write.
    """

    data: tuple[str, ...]
    test: str | None = None
    optimizer: str = "adagrad"
    lr: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    epochs: int = 20
    batch_size: int | None = None
    decay: bool = True
    bias: bool = True
    consistency: str = "asp"
    seed: int = 0
    hash_bits: int | None = None
    skip_bad_lines: bool = False
    cache_bytes: int = 1 << 30
    model: str | None = None
    metrics: str | None = None
    plot: str | None = None

    def check(self) -> None:
        """Make sure that the run can be done.

        Raises
        ------
        ConfigError
            A choice does not exist, an output cannot be written or a package is missing.
        ValueRangeError
            A number is out of its range.
        """
        if not self.data:
            raise ConfigError("no training data was given; name a file or directory")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"there is no optimizer {self.optimizer!r}; use one of {', '.join(OPTIMIZERS)}"
            )
        if self.lr is not None and not (0 < self.lr < math.inf):
            raise ValueRangeError(f"lr is {self.lr}; use a number above 0")
        for name, number in (("l1", self.l1), ("l2", self.l2)):
            if not 0 <= number < math.inf:
                raise ValueRangeError(f"{name} is {number}; use a number from 0 up")
        whole: tuple[tuple[str, int | None, int, int], ...] = (
            ("epochs", self.epochs, 1, 1_000_000),
            ("batch_size", self.batch_size, 1, 1 << 30),
            ("seed", self.seed, 0, (1 << 63) - 1),
            ("hash_bits", self.hash_bits, 1, 64),
            ("cache_bytes", self.cache_bytes, 0, 1 << 62),
        )
        for name, value, least, most in whole:
            if value is not None and not least <= value <= most:
                raise ValueRangeError(
                    f"{name} is {value}; use a whole number from {least} to {most}"
                )
        consistency.from_text(self.consistency)
        inputs = [*self.data, *([self.test] if self.test else [])]
        outputs = [path for path in (self.model, self.metrics, self.plot) if path is not None]
        if len({os.path.realpath(path) for path in outputs}) < len(outputs):
            raise ConfigError("model, metrics and plot name one file twice; give each its own")
        check_output("model", self.model, inputs)
        check_output("metrics", self.metrics, inputs)
        check_picture("plot", self.plot, inputs)
        if self.plot is not None and importlib.util.find_spec("matplotlib") is None:
            raise ConfigError("plot needs the package matplotlib: pip install 'fastps[train]'")

    @property
    def policy(self) -> Consistency:
        """The consistency of the model's tables."""
        return consistency.from_text(self.consistency)

    @property
    def learning_rate(self) -> float:
        """`lr`, or the optimizer's default."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr

    @property
    def worker_penalty(self) -> bool:
        """Whether workers add the penalties to the gradients; FTRL's servers do it."""
        return self.optimizer != "ftrl" and (self.l1 > 0 or self.l2 > 0)

    def batch_rows(self, n_examples: int) -> int:
        """Return the rows of a minibatch for a data set of `n_examples`."""
        if self.batch_size is not None:
            return self.batch_size
        return min(max(n_examples // BATCHES_PER_EPOCH, BATCH_ROWS_MIN), BATCH_ROWS_MAX)

    def step_scale(self, epoch: int) -> float:
        """Return the factor of the gradients in `epoch` (from 0): 1, falling to 0 at the end."""
        if not self.decay or self.optimizer == "ftrl":
            return 1.0
        return min(1.0, 2 * (1 - epoch / self.epochs))

    def weight_optimizer(self, batch_rows: int) -> Optimizer:
        """Return the optimizer of the weights, whose gradients are sums over minibatches."""
        if self.optimizer == "ftrl":
            # Its penalty is set against the gradients of all epochs together.
            return FTRL(
                alpha=self.learning_rate,
                beta=FTRL_BETA,
                l1=self.l1 * self.epochs,
                l2=self.l2 * self.epochs,
            )
        return self._plain_optimizer(batch_rows)

    def bias_optimizer(self, batch_rows: int) -> Optimizer:
        """Return the optimizer of the bias, without penalty."""
        if self.optimizer == "ftrl":
            return FTRL(alpha=self.learning_rate, beta=FTRL_BETA, l1=0.0, l2=0.0)
        return self._plain_optimizer(batch_rows)

    def _plain_optimizer(self, batch_rows: int) -> Optimizer:
        if self.optimizer == "sgd":
            return SGD(lr=self.learning_rate / batch_rows)
        return AdaGrad(lr=self.learning_rate)

    def describe(self) -> str:
        """Return the settings that decide the result, in one line."""
        names = " ".join(Path(source).name for source in self.data)
        parts = [f"{names}: {self.optimizer} lr {self.learning_rate:g}"]
        parts += [f"l1 {self.l1:g}"] if self.l1 else []
        parts += [f"l2 {self.l2:g}"] if self.l2 else []
        parts += [f"batch {self.batch_size}"] if self.batch_size else []
        parts += [f"2^{self.hash_bits} keys"] if self.hash_bits else []
        parts += [] if self.bias else ["no bias"]
        parts += [] if self.consistency == "asp" else [self.consistency]
        return ", ".join(parts)
