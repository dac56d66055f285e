"""What a run of logistic regression gives: the curve, the final figures, the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from fastps.models.lr_settings import LogisticRegressionSettings
from fastps.models.metrics import Metrics
from fastps.models.model_file import LinearModel, save_model
from fastps.output import write_json

__all__ = ["CURVE_COLUMNS", "CurvePoint", "TrainingResult", "write_results"]

# Rows of the table in which the curve is kept, so that any worker can write it in the end.
CURVE_COLUMNS = 6
# A table holds no NaN; no figure of the curve is negative.
NONE = -1.0


@dataclass(frozen=True)
class CurvePoint:
    """The figures after one epoch.

    Attributes
    ----------
    epoch : int
        From 1.
    seconds : float
        Since the start.
    train_log_loss : float
        Progressive: the mean loss over the epoch, of each example just before it was learned.
    test_log_loss, test_accuracy, test_auc : float or None
        Of the test set after the epoch; None without a test set (AUC: or if it is undefined).
    """

    epoch: int
    seconds: float
    train_log_loss: float
    test_log_loss: float | None = None
    test_accuracy: float | None = None
    test_auc: float | None = None

    def to_row(self) -> npt.NDArray[np.float32]:
        """Return the point as a table row, shape (1, CURVE_COLUMNS)."""
        numbers = [NONE if value is None else value for value in asdict(self).values()]
        return np.array([numbers], np.float32)

    @classmethod
    def from_row(cls, row: npt.NDArray[np.float32]) -> CurvePoint:
        """Read a point, shape (CURVE_COLUMNS,)."""
        epoch, seconds, train, *test = (float(value) for value in row)
        loss, accuracy, auc = (None if value == NONE else value for value in test)
        return cls(round(epoch), seconds, train, loss, accuracy, auc)


@dataclass(frozen=True)
class TrainingResult:
    """The outcome.

    Attributes
    ----------
    model : LinearModel
        The weights.
    figures : Metrics
        Of the test set, or of the training set if there is none.
    figures_of : {'test', 'train'}
        Which.
    objective : float
        Sum of the training losses + l1 * |w|_1 + l2 / 2 * |w|^2; the bias is not penalized.
    examples : int
        Training examples.
    bad_lines : int
        Bad lines skipped in the training data.
    seconds : float
        From the first byte read to the last weight learned.
    curve : tuple of CurvePoint
        One for each epoch.
    """

    model: LinearModel
    figures: Metrics
    figures_of: str
    objective: float
    examples: int
    bad_lines: int
    seconds: float
    curve: tuple[CurvePoint, ...]

    def to_json(self, settings: LogisticRegressionSettings) -> dict[str, object]:
        """Return the content of the metrics file."""
        return {
            "log_loss": self.figures.log_loss,
            "accuracy": self.figures.accuracy,
            "auc": self.figures.auc,
            "metrics_of": self.figures_of,
            "objective": self.objective,
            "nonzeros": len(self.model.keys),
            "bias": self.model.bias,
            "examples": self.examples,
            "bad_lines": self.bad_lines,
            "seconds": self.seconds,
            "curve": [asdict(point) for point in self.curve],
            "settings": {**asdict(settings), "lr": settings.learning_rate},
        }

    def summary(self) -> str:
        """Return the figures in a few lines for people."""
        auc = "undefined" if self.figures.auc is None else f"{self.figures.auc:.5f}"
        lines = [
            f"log-loss {self.figures.log_loss:.5f}  accuracy {self.figures.accuracy:.5f}  "
            f"AUC {auc}  ({self.figures.examples:,} {self.figures_of} examples)",
            f"objective {self.objective:.3f}  non-zero weights {len(self.model.keys):,}  "
            f"({self.examples:,} training examples in {self.seconds:.1f} s)",
        ]
        if self.bad_lines:
            lines.append(f"skipped {self.bad_lines:,} bad training lines")
        return "\n".join(lines)


def write_results(result: TrainingResult, settings: LogisticRegressionSettings) -> None:
    """Write the files that `settings` names."""
    if settings.model is not None:
        save_model(settings.model, result.model)
    if settings.metrics is not None:
        write_json(settings.metrics, result.to_json(settings))
    if settings.plot is not None:
        from fastps.models.curve_plot import plot_curve

        plot_curve(settings.plot, result.curve, settings.describe())
