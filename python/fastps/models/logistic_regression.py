r"""Sparse logistic regression, trained by all workers of a job through the parameter server.

The objective is a sum over the training examples, as in LIBLINEAR:

.. math:: \sum_i \log(1 + e^{-y_i (w \cdot x_i + b)}) + \lambda_1 |w|_1
          + \frac{\lambda_2}{2} |w|_2^2, \qquad y_i \in \{-1, 1\}

The bias :math:`b` is not penalized. Workers push, for each minibatch, the *sum* of its gradients
:math:`\sum (\sigma(m_i) - t_i)\, x_i`, where :math:`t_i` is 1 for a positive label, else 0.

**Penalties, SGD and AdaGrad.** A penalty belongs to a weight, not to an example, so each minibatch
gets a share of it: feature j, which has :math:`n_j` entries in the whole training data and
:math:`c_j` of them in this minibatch, gets
:math:`(\lambda_2 w_j + \lambda_1 \operatorname{sign} w_j)\, c_j / n_j`. The shares of an epoch add
up to one whole penalty for every feature, rare or frequent, and only features that are pulled
anyway are touched. The :math:`n_j` are counted in a first pass, in the table ``feature_counts``. At
:math:`w_j = 0` the subgradient nearest to zero is taken. Steps are finite, so that small weights
stay around zero rather than at it: exact zeros are what FTRL is for.

**Penalties, FTRL.** The servers apply them (McMahan et al. 2013). FTRL sets its l1 and l2 once
against the sum of the gradients of the whole run, so that a table's optimizer gets `epochs` times
the penalties of the objective above: then they mean the same for all optimizers.

**Steps.** For SGD the learning rate multiplies the mean gradient of a full minibatch (the table
gets lr / batch size). AdaGrad and FTRL do not depend on the scale of gradients. With `decay`,
gradients are multiplied by a factor that falls linearly to 0 in the second half of the epochs. That
shrinks the steps of SGD and (its sums being large by then) of AdaGrad: a constant rate would leave
the weights jumping around the optimum.

**Consistency.** Under BSP and SSP a step is a minibatch. A worker that waits for a chunk is waited
for by nobody, so unequal chunks do no harm. Under ASP nobody waits, and a step is a chunk.

**Order.** The order of chunks, and of examples in a chunk, is a function of (seed, epoch, chunk),
not of the worker. With one worker, or under BSP with the same number of workers, where each has its
share of the chunks, the result is the same bit for bit in every run.

**Workers that die.** All state is in tables, and what only one worker should do is an item of
`Client.chunks`: if that worker dies, another one does it. The chunk it was at is learned again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastps.consistency import ASP, BSP
from fastps.data import Block, BlockCache, Chunk, DataError, Minibatch, find_files, split_chunks
from fastps.errors import ValueRangeError
from fastps.models.lr_results import CURVE_COLUMNS, CurvePoint, TrainingResult, write_results
from fastps.models.lr_settings import BATCH_ROWS_MIN, LogisticRegressionSettings
from fastps.models.metrics import Metrics, binary_metrics, log_losses, objective, sigmoid
from fastps.models.model_file import LinearModel
from fastps.models.progress import Progress

if TYPE_CHECKING:
    from fastps.client import Client
    from fastps.tables import DenseTable, SparseTable

__all__ = ["LogisticRegressionTrainer"]

# Columns of the table "chunk_facts": what the first pass finds in each chunk.
EXAMPLES, NEGATIVE, ZERO, POSITIVE, BAD_LINES = range(5)
N_FACTS = 5


class LogisticRegressionTrainer:
    """One worker's part of a run. All workers of the job run the same; one thread uses it.

    Parameters
    ----------
    client : Client
        This worker's place in the job.
    settings : LogisticRegressionSettings
        What to do; the same on all workers.
    progress : Progress, optional
        Told how it goes.

    Raises
    ------
    DataError
        A file is missing.
    ConfigError, ValueRangeError
        See `LogisticRegressionSettings.check`.
    """

    def __init__(
        self,
        client: Client,
        settings: LogisticRegressionSettings,
        progress: Progress | None = None,
    ) -> None:
        settings.check()
        self._client = client
        self._settings = settings
        self._progress = Progress() if progress is None else progress
        rows_min = settings.batch_size or BATCH_ROWS_MIN
        self._chunks = split_chunks(find_files(settings.data), client.num_workers, rows_min)
        self._test_chunks = (
            [] if settings.test is None else split_chunks(find_files([settings.test]))
        )
        self._cache = BlockCache(
            settings.cache_bytes,
            hash_bits=settings.hash_bits,
            skip_bad_lines=settings.skip_bad_lines,
        )
        # Assigned by chunk, not added up: a chunk that is done twice counts once.
        n_chunks = len(self._chunks)
        self._facts = client.dense_table("chunk_facts", shape=(n_chunks, N_FACTS))
        self._losses = client.dense_table("chunk_losses", shape=(n_chunks, 1))
        self._curve = client.dense_table("curve", shape=(settings.epochs, CURVE_COLUMNS))
        self._feature_counts = (
            client.sparse_table("feature_counts") if settings.worker_penalty else None
        )
        # Their optimizers may depend on the number of examples, which the first pass counts.
        self._weights: SparseTable
        self._bias: DenseTable | None = None

    def run(self) -> TrainingResult | None:
        """Train, evaluate and write the files.

        Returns
        -------
        TrainingResult or None
            None on all workers but the one that wrote the files.

        Raises
        ------
        DataError
            A line is bad, or labels are not of one kind and both values; on every worker.
        """
        start = time.monotonic()
        facts = self._count_pass()
        n_examples = round(facts[EXAMPLES])
        batch_rows = self._settings.batch_rows(n_examples)
        self._make_model_tables(batch_rows)
        for epoch in range(self._settings.epochs):
            epoch_start = time.monotonic()
            self._epoch_pass(epoch, n_examples, batch_rows)
            trained = time.monotonic()
            # One item: one worker, normally rank 0, does it while the others wait.
            for _ in self._client.chunks([epoch], deterministic=True):
                point = self._curve_point(epoch, trained - start, n_examples)
                self._curve.assign(point.to_row(), rows=[epoch])
                self._progress.epoch(point, n_examples / max(trained - epoch_start, 1e-9))
        seconds = time.monotonic() - start
        self._loss_pass(n_examples)
        result = None
        for _ in self._client.chunks([0], deterministic=True):
            result = self._result(facts, seconds)
            write_results(result, self._settings)
        return result

    # The passes over the training data, shared by the workers.

    def _count_pass(self) -> npt.NDArray[np.float64]:
        """Read everything once: examples, labels, bad lines, entries of each feature."""
        self._progress.begin("reading", 0)
        for index in self._client.chunks(range(len(self._chunks))):
            block = self._cache.load(self._chunks[index])
            labels = block.labels
            facts = np.zeros((1, N_FACTS), np.float32)
            facts[0, EXAMPLES] = len(labels)
            facts[0, NEGATIVE] = np.count_nonzero(labels < 0)
            facts[0, ZERO] = np.count_nonzero(labels == 0)
            facts[0, POSITIVE] = np.count_nonzero(labels > 0)
            facts[0, BAD_LINES] = block.n_bad
            self._facts.assign(facts, rows=[index])
            if self._feature_counts is not None:
                self._feature_counts.push(block.keys, block.matrix.column_counts())
            if block.n_bad:
                self._progress.note(f"skipped {block.n_bad} bad lines, first {block.first_bad}")
            self._progress.advance(len(labels), None)
        totals: npt.NDArray[np.float64] = self._facts.pull().sum(axis=0, dtype=np.float64)
        self._check_labels(totals)
        # A bad test set must not cost an epoch. One worker reads it, the one that will use it; if
        # it is bad, the item goes from hand to hand and every worker fails.
        for _ in self._client.chunks([0], deterministic=True):
            self._check_test_set()
        return totals

    def _check_labels(self, totals: npt.NDArray[np.float64]) -> None:
        where = ", ".join(self._settings.data)
        if totals[EXAMPLES] == 0:
            raise DataError(f"{where}: there are no examples in it")
        if totals[NEGATIVE] > 0 and totals[ZERO] > 0:
            raise DataError(
                f"{where}: has labels -1 ({totals[NEGATIVE]:.0f} times), 0 ({totals[ZERO]:.0f}) "
                f"and 1 ({totals[POSITIVE]:.0f}); use -1 and 1, or 0 and 1"
            )
        if totals[POSITIVE] in (0, totals[EXAMPLES]):
            raise DataError(
                f"{where}: all {totals[EXAMPLES]:.0f} examples have the same label; "
                "training needs both"
            )

    def _epoch_pass(self, epoch: int, n_examples: int, batch_rows: int) -> None:
        """Learn every example once. A gradient, weight or loss beyond float32 ends the training."""
        try:
            self._learn_all(epoch, n_examples, batch_rows)
        except ValueRangeError as error:
            settings = self._settings
            rate = "" if settings.lr is None else f" from {settings.lr:g}"
            raise ValueRangeError(
                f"the training diverged in epoch {epoch + 1} of {settings.epochs}: lower --lr"
                f"{rate} ({error})"
            ) from None

    def _learn_all(self, epoch: int, n_examples: int, batch_rows: int) -> None:
        settings = self._settings
        self._progress.begin(f"epoch {epoch + 1}/{settings.epochs}", n_examples)
        scale = np.float32(settings.step_scale(epoch))
        waits_for_others = not isinstance(settings.policy, ASP)
        fixed_shares = isinstance(settings.policy, BSP)
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(self._chunks))
        for index in self._client.chunks(order.tolist(), deterministic=fixed_shares):
            block = self._cache.load(self._chunks[index])
            counts = self._pull_counts(block)
            loss_sum = 0.0
            generator = np.random.default_rng([settings.seed, epoch, index])
            for batch in block.minibatches(batch_rows, generator):
                loss = self._learn(batch, counts, scale)
                loss_sum += loss
                self._progress.advance(len(batch.labels), loss / len(batch.labels))
                if waits_for_others:
                    self._client.clock()
            self._losses.assign(np.array([[loss_sum]], np.float32), rows=[index])
            self._client.clock()

    def _learn(
        self, batch: Minibatch, counts: npt.NDArray[np.float32] | None, scale: np.float32
    ) -> float:
        """Learn one minibatch and return the sum of its losses before that."""
        weights = self._weights.pull(batch.keys)
        margins = batch.matrix.margins(weights)
        if self._bias is not None:
            margins += self._bias.pull()
        residuals = (sigmoid(margins) - batch.labels).astype(np.float32)
        gradient = batch.matrix.gradient(residuals)
        if counts is not None:
            share = batch.matrix.column_counts() / counts[batch.features]
            gradient = self._penalize(gradient, weights, share)
        self._weights.push(batch.keys, gradient * scale)
        if self._bias is not None:
            self._bias.push(residuals.sum(dtype=np.float32) * scale)
        return float(log_losses(margins, batch.labels).sum())

    def _penalize(
        self,
        gradient: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
        share: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        settings = self._settings
        if settings.l2:
            gradient = gradient + np.float32(settings.l2) * weights * share
        if settings.l1:
            l1 = np.float32(settings.l1) * share
            at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - l1, np.float32(0))
            gradient = np.where(weights == 0, at_zero, gradient + l1 * np.sign(weights))
        return gradient

    def _loss_pass(self, n_examples: int) -> None:
        """Put the losses of the finished weights into the table of losses."""
        self._progress.begin("evaluating", n_examples)
        for index in self._client.chunks(range(len(self._chunks))):
            block = self._cache.load(self._chunks[index])
            loss_sum = log_losses(self._margins(block), block.targets).sum()
            self._losses.assign(np.array([[loss_sum]], np.float32), rows=[index])
            self._progress.advance(len(block.labels), None)

    # What one worker does for all.

    def _curve_point(self, epoch: int, seconds: float, n_examples: int) -> CurvePoint:
        train_log_loss = self._loss_sum() / n_examples
        if not self._test_chunks:
            return CurvePoint(epoch + 1, seconds, train_log_loss)
        figures = self._evaluate(self._test_chunks)
        return CurvePoint(
            epoch + 1, seconds, train_log_loss, figures.log_loss, figures.accuracy, figures.auc
        )

    def _result(self, facts: npt.NDArray[np.float64], seconds: float) -> TrainingResult:
        settings = self._settings
        model = self._gather_model()
        return TrainingResult(
            model=model,
            figures=self._evaluate(self._test_chunks or self._chunks),
            figures_of="test" if self._test_chunks else "train",
            objective=objective(self._loss_sum(), model.weights, settings.l1, settings.l2),
            examples=round(facts[EXAMPLES]),
            bad_lines=round(facts[BAD_LINES]),
            seconds=seconds,
            curve=tuple(CurvePoint.from_row(row) for row in self._curve.pull()),
        )

    def _gather_model(self) -> LinearModel:
        parts = list(self._weights.items())
        keys = np.concatenate([np.empty(0, np.uint64), *(part[0] for part in parts)])
        weights = np.concatenate([np.empty(0, np.float32), *(part[1] for part in parts)])
        bias = 0.0 if self._bias is None else float(self._bias.pull())
        return LinearModel.from_rows(keys, weights, bias, self._settings.hash_bits)

    def _evaluate(self, chunks: Sequence[Chunk]) -> Metrics:
        margins, targets = [], []
        for chunk in chunks:
            block = self._cache.load(chunk)
            margins.append(self._margins(block))
            targets.append(block.targets)
        return binary_metrics(np.concatenate(margins), np.concatenate(targets))

    def _check_test_set(self) -> None:
        n_rows = [len(self._cache.load(chunk).labels) for chunk in self._test_chunks]
        if n_rows and not any(n_rows):
            raise DataError(f"{self._settings.test}: there are no examples in it")

    # Small things.

    def _make_model_tables(self, batch_rows: int) -> None:
        self._weights = self._client.sparse_table(
            "weights",
            optimizer=self._settings.weight_optimizer(batch_rows),
            consistency=self._settings.policy,
        )
        if self._settings.bias:
            self._bias = self._client.dense_table(
                "bias",
                shape=(),
                optimizer=self._settings.bias_optimizer(batch_rows),
                consistency=self._settings.policy,
            )

    def _pull_counts(self, block: Block) -> npt.NDArray[np.float32] | None:
        return None if self._feature_counts is None else self._feature_counts.pull(block.keys)

    def _margins(self, block: Block) -> npt.NDArray[np.float32]:
        margins = block.matrix.margins(self._weights.pull(block.keys))
        return margins if self._bias is None else margins + self._bias.pull()

    def _loss_sum(self) -> float:
        return float(self._losses.pull().astype(np.float64).sum())
