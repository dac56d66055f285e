"""The command ``fastps``: a table of its subcommands, each imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from fastps.errors import ConfigError, FastPSError
from fastps.standard_files import open_standard_files

__all__ = ["main"]

OK, FAILURE, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130

# Subcommand: its module, what it does, and the extra it needs. The module's add_parser(subparsers)
# adds a parser with the default `run`, a callable (arguments) -> exit code.
SUBCOMMANDS = {
    "train": ("fastps.cli.train", "train a model on files", "train"),
    "predict": ("fastps.cli.predict", "apply a trained model to files", "train"),
    "status": ("fastps.cli.status", "show servers, tables and workers of a running job", ""),
    "scale": ("fastps.cli.scale", "change the number of servers of a running job", ""),
    "inspect": ("fastps.cli.inspect", "show checkpoints and check their files", "checkpoint"),
    "export": ("fastps.cli.export", "write a table of a checkpoint as a file", "checkpoint"),
    "import": ("fastps.cli.import_", "make a checkpoint of keys and values", "checkpoint"),
    "compact": ("fastps.cli.compact", "make a chain of checkpoints one", "checkpoint"),
    "doctor": ("fastps.cli.doctor", "show what fastps finds on this machine", ""),
    "scheduler": ("fastps.cli.scheduler", "run the scheduler of a job by hand", ""),
    "server": ("fastps.cli.server", "run one server of a job by hand", ""),
}

EPILOG = """\
examples:
  fastps doctor                      is this machine ready?
  fastps train lr data.libsvm --model model.npz
  fastps-launch --servers 2 --workers 4 --job-file job.json train.py
  fastps status --job job.json       what is that job doing?
  fastps scale --job job.json --servers 3
  fastps inspect checkpoints         which checkpoints are there?
  fastps export checkpoints --table weights --format npz --output weights.npz

fastps SUBCOMMAND --help tells more of each.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process when not given.

    Returns
    -------
    int
        The exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.
    """
    open_standard_files()
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = arguments[0] if arguments else ""
    try:
        parsed = _parser(wanted).parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except ModuleNotFoundError as error:
        _, _, extra = SUBCOMMANDS[wanted]
        if not extra or (error.name or "").startswith("fastps"):
            raise
        print(
            f"fastps {wanted}: error: {error.name} is not installed; install it with: "
            f"pip install 'fastps[{extra}]'",
            file=sys.stderr,
        )
        return USAGE_ERROR
    except ConfigError as error:
        print(f"fastps {wanted}: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except FastPSError as error:
        print(f"fastps {wanted}: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(wanted: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastps",
        description="A parameter server for large sparse machine learning.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    for name, (module, what, _) in SUBCOMMANDS.items():
        if name == wanted:
            importlib.import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=what)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"fastps {version('fastps')}"
    except PackageNotFoundError:
        return "fastps (not installed: run from its source tree)"


if __name__ == "__main__":
    sys.exit(main())
