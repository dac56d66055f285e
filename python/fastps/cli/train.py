"""``fastps train``: the built-in models, on one machine or on a cluster that it starts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import fields

from fastps import consistency
from fastps.cli.options import SERVERS_MAX, WORKERS_MAX, whole_number
from fastps.config import Settings
from fastps.data.files import find_files
from fastps.data.spool import spooled
from fastps.errors import ConfigError, ValueRangeError
from fastps.models.lr_settings import DEFAULT_LR, OPTIMIZERS, LogisticRegressionSettings

__all__ = ["add_parser"]

# Options with a value that a worker of a cluster gets as they were given.
WORKER_VALUES = (
    *("test", "hash_bits", "cache_mb", "model", "metrics", "plot"),
    *("optimizer", "lr", "l1", "l2", "epochs", "batch_size", "seed", "consistency"),
)

EPILOG = """\
objective:
  sum of log-losses + l1 * |w|_1 + l2/2 * |w|^2 over the training data, as in LIBLINEAR with C = 1;
  the bias is not penalized. With sgd and adagrad each minibatch gets its features' share of the
  penalties, and small weights stay near zero; with ftrl the servers apply them, and weights become
  exactly zero. The train log-loss of an epoch is that of each example just before it is learned.

exit codes:
  0 done; 1 the data cannot be used (the message names file and line) or the run failed;
  2 the command line is wrong.

examples:
  fastps train lr a1a --test a1a.t --l2 1 --no-bias --model m.npz --metrics m.json --plot curve.png
  fastps train lr a1a --test a1a.t --optimizer ftrl --l1 1 --model sparse.npz
  fastps train lr /data/days/ --hash-bits 24 --servers 2 --workers 4 --model m.npz
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` and its models; each sets ``run``, a callable (arguments) -> exit code."""
    train = subparsers.add_parser(
        "train", help="train a built-in model", description="Train a built-in model."
    )
    models = train.add_subparsers(dest="model_name", metavar="MODEL", required=True)
    parser = models.add_parser(
        "lr",
        help="sparse logistic regression",
        description="Train sparse logistic regression on libsvm files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data_options(parser)
    _add_training_options(parser)
    _add_cluster_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help="libsvm file, also compressed, directory of them, pipe, or - for standard input; "
        "labels -1 and 1, or 0 and 1",
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--test", metavar="T", help="test file or directory, evaluated after each epoch"
    )
    group.add_argument(
        "--hash-bits",
        type=whole_number(1, 64),
        metavar="B",
        help="hash feature ids to 2^B keys (default: the ids are the keys)",
    )
    group.add_argument(
        "--skip-bad-lines", action="store_true", help="count bad lines and go on (default: stop)"
    )
    group.add_argument(
        "--cache-mb",
        type=whole_number(0, 1 << 40),
        default=1024,
        metavar="MB",
        help="memory of each worker for parsed data; the rest is read anew each epoch "
        "(default: %(default)s)",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--model", metavar="M.npz", help="write keys, weights and bias; 'fastps predict' reads it"
    )
    results.add_argument("--metrics", metavar="M.json", help="write the figures and the curve")
    results.add_argument("--plot", metavar="P.png", help="draw the learning curve")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    rates = ", ".join(f"{name} {lr:g}" for name, lr in DEFAULT_LR.items())
    group.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default="adagrad",
        help="rule of the servers (default: %(default)s)",
    )
    group.add_argument(
        "--lr",
        type=_number(0, exclusive=True),
        metavar="X",
        help=f"learning rate; ftrl: alpha; sgd: of the mean gradient (default: {rates})",
    )
    group.add_argument(
        "--l1", type=_number(0), default=0.0, metavar="X", help="L1 penalty (default: 0)"
    )
    group.add_argument(
        "--l2", type=_number(0), default=0.0, metavar="X", help="L2 penalty (default: 0)"
    )
    group.add_argument(
        "--epochs",
        type=whole_number(1, 1_000_000),
        default=20,
        metavar="N",
        help="passes over the data (default: %(default)s)",
    )
    group.add_argument(
        "--batch-size",
        type=whole_number(1, 1 << 30),
        metavar="N",
        help="examples in a minibatch at most (default: 1/64 of the data, within 64 and 4096)",
    )
    group.add_argument(
        "--decay",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let steps shrink to 0 in the second half of the epochs (default: yes; not for ftrl)",
    )
    group.add_argument(
        "--bias",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="learn a bias (default: yes)",
    )
    group.add_argument(
        "--seed",
        type=whole_number(0, (1 << 63) - 1),
        default=0,
        metavar="N",
        help="of the order of examples (default: 0)",
    )


def _add_cluster_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "cluster",
        "Without these: one process, unless fastps-launch started it. One given, the other is 1.",
    )
    group.add_argument(
        "--servers",
        type=whole_number(1, SERVERS_MAX),
        default=0,
        metavar="S",
        help="server processes to start",
    )
    group.add_argument(
        "--workers",
        type=whole_number(1, WORKERS_MAX),
        default=0,
        metavar="W",
        help="worker processes to start",
    )
    group.add_argument(
        "--consistency",
        type=_consistency,
        default="asp",
        metavar="C",
        help="how workers wait for each other: asp, not at all; ssp:S, none is more than S "
        "minibatches ahead of the slowest; bsp, all take each step together, so that runs with as "
        "many workers give the same model, bit for bit (default: %(default)s)",
    )


def _number(least: float, exclusive: bool = False) -> Callable[[str], float]:
    """Return an argparse type: a finite number from `least` up, or above it."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if exclusive else least <= value) or math.isinf(value):
            bounds = f"above {least:g}" if exclusive else f"from {least:g} up"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {bounds}")
        return value

    return parse


def _consistency(text: str) -> str:
    try:
        consistency.from_text(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _run(arguments: argparse.Namespace) -> int:
    parser: argparse.ArgumentParser = arguments.parser
    if arguments.decay and arguments.optimizer == "ftrl":
        parser.error("--decay does nothing with ftrl, whose steps shrink by themselves")
    try:
        _settings(arguments).check()
        joins_cluster = Settings.from_environment().scheduler is not None
    except (ConfigError, ValueRangeError) as error:
        parser.error(str(error))
    tests = [] if arguments.test is None else [arguments.test]
    with spooled([*arguments.data, *tests]) as sources:
        arguments.data = sources[: len(arguments.data)]
        arguments.test = sources[-1] if tests else None
        settings = _settings(arguments)
        if (arguments.servers or arguments.workers) and not joins_cluster:
            return _launch(arguments, settings)
        return _train(settings)


def _settings(arguments: argparse.Namespace) -> LogisticRegressionSettings:
    given = {
        field.name: getattr(arguments, field.name)
        for field in fields(LogisticRegressionSettings)
        if field.name not in ("data", "decay", "cache_bytes")
    }
    return LogisticRegressionSettings(
        data=tuple(arguments.data),
        decay=arguments.decay is not False,
        cache_bytes=arguments.cache_mb << 20,
        **given,
    )


def _train(settings: LogisticRegressionSettings) -> int:
    import fastps
    from fastps.models.logistic_regression import LogisticRegressionTrainer
    from fastps.models.progress import make_progress

    with fastps.connect() as client, make_progress(settings.epochs) as progress:
        result = LogisticRegressionTrainer(client, settings, progress).run()
    if result is not None:
        print(result.summary())
        written = [path for path in (settings.model, settings.metrics, settings.plot) if path]
        if written:
            print(f"wrote {', '.join(written)}", flush=True)
    return 0


def _launch(arguments: argparse.Namespace, settings: LogisticRegressionSettings) -> int:
    """Start the cluster; its workers run this command again and find that they are in it."""
    from fastps.launch.main import main as launch

    # A wrong path is better told once, by this process.
    find_files([*settings.data, *([settings.test] if settings.test else [])])
    cluster = [f"--servers={arguments.servers or 1}", f"--workers={arguments.workers or 1}"]
    return launch([*cluster, "-m", "fastps", "train", "lr", *_worker_arguments(arguments)])


def _worker_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return the command line of a worker: this one without the cluster's options."""
    words: list[str] = []
    for name in WORKER_VALUES:
        value = getattr(arguments, name)
        if value is not None:
            words.append(f"--{name.replace('_', '-')}={value}")
    words += ["--skip-bad-lines"] if arguments.skip_bad_lines else []
    words += [] if arguments.bias else ["--no-bias"]
    words += [] if arguments.decay is None else ["--decay" if arguments.decay else "--no-decay"]
    return [*words, "--", *arguments.data]
