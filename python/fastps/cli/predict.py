"""``fastps predict``: probabilities from a model that ``fastps train lr`` wrote."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np

from fastps.data import Chunk, find_files, load_block, split_chunks
from fastps.data.libsvm import lines_have_labels
from fastps.data.spool import spooled
from fastps.errors import ConfigError
from fastps.models.metrics import binary_metrics, sigmoid
from fastps.models.model_file import LinearModel, load_model
from fastps.output import atomic_output, check_output, is_stdout

__all__ = ["add_parser"]

DESCRIPTION = """\
Write the probability of the positive label (1), one line for each example, in the order of DATA.

Lines of DATA begin with a label, any number, or none does: the first line says. If labels are -1
and 1 or 0 and 1, the log-loss, accuracy and AUC are printed too.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``predict``; sets ``run``, a callable (arguments) -> exit code."""
    parser = subparsers.add_parser(
        "predict",
        help="predict with a trained model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes:\n  0 done; 1 model or data is bad; 2 the command line is wrong.",
    )
    parser.add_argument("model", metavar="M.npz", help="written by 'fastps train lr --model'")
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="libsvm file, also compressed, directory, pipe, or - for standard input",
    )
    parser.add_argument(
        "--output", metavar="F", help="file of probabilities (default: standard output)"
    )
    parser.add_argument(
        "--no-labels",
        action="store_true",
        help="lines begin with their first feature (default: as the first line does)",
    )
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    try:
        check_output("--output", arguments.output, [arguments.model, *arguments.data])
    except ConfigError as error:
        arguments.parser.error(str(error))
    model = load_model(arguments.model)
    with spooled(arguments.data) as sources:
        chunks = split_chunks(find_files(sources))
        has_labels = not arguments.no_labels and lines_have_labels(chunks[0])
        # Figures go where the probabilities do not.
        if arguments.output is None:
            figures = _predict(model, chunks, has_labels, sys.stdout.buffer.write)
            sys.stdout.flush()
        else:
            with atomic_output(arguments.output) as file:
                figures = _predict(model, chunks, has_labels, file.write)
    is_there = arguments.output is None or is_stdout(arguments.output)
    print(figures, file=sys.stderr if is_there else sys.stdout)
    return 0


def _predict(
    model: LinearModel, chunks: list[Chunk], has_labels: bool, write: Callable[[bytes], object]
) -> str:
    """Write the probabilities and return a line about them."""
    all_margins, all_labels = [], []
    for chunk in chunks:
        block = load_block(chunk, hash_bits=model.hash_bits, has_labels=has_labels)
        margins = model.margins(block)
        write(b"".join(b"%.9g\n" % p for p in sigmoid(margins.astype(np.float64)).tolist()))
        all_margins.append(margins)
        all_labels.append(block.labels)
    labels = np.concatenate(all_labels)
    kinds = set(np.unique(labels).tolist())
    if not kinds or not (kinds <= {-1.0, 1.0} or kinds <= {0.0, 1.0}):
        return f"{len(labels):,} examples; no figures, since labels are not all -1 and 1 or 0 and 1"
    figures = binary_metrics(np.concatenate(all_margins), (labels > 0).astype(np.float32))
    auc = "undefined (all labels are the same)" if figures.auc is None else f"{figures.auc:.5f}"
    return (
        f"log-loss {figures.log_loss:.5f}  accuracy {figures.accuracy:.5f}  AUC {auc}  "
        f"({figures.examples:,} examples)"
    )
