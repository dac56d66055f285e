"""``fastps export``: a table of a checkpoint as a file that other programs read."""

from __future__ import annotations

import argparse
import sys

from fastps.checkpoint.manifest import LATEST
from fastps.checkpoint.progress import counted
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import Store
from fastps.cli.row_files import FORMATS, write_rows
from fastps.output import atomic_output, check_output, is_stdout

__all__ = ["add_parser"]

DESCRIPTION = """\
Write a table of a checkpoint as one file: its keys and values, with --with-state also what the
optimizer keeps. Increments are put together; rows that were never written are not in it.

  npz          keys (n,), values (n, *row_shape), sorted by key; a dense table: values of its shape
  safetensors  the same
  parquet      columns key (dense: row) and value, which is a list where rows are vectors
  text         a line for each row: its key and its values
"""
EXAMPLES = """\
examples:
  fastps export checkpoints --table weights --format npz --output weights.npz
      >>> saved = np.load("weights.npz")
      >>> weights = dict(zip(saved["keys"].tolist(), saved["values"]))
  fastps export s3://bucket/run7 --table items --format parquet --output items.parquet
      >>> frame = pandas.read_parquet("items.parquet")
  fastps export checkpoints --table weights --format npz --with-state --output adam.npz
      >>> np.load("adam.npz")["slot.m"]
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("uri", metavar="URI", help="the folder of checkpoints")
    parser.add_argument("--table", metavar="T", required=True, help="the table's name")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", metavar="F", required=True, help="the file to write")
    parser.add_argument("--tag", metavar="T", default=LATEST, help="which (default: the newest)")
    parser.add_argument(
        "--with-state", action="store_true", help="write the optimizer's state as well"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    check_output("--output", arguments.output, _local(arguments.uri))
    lineage = Lineage.open(Store(arguments.uri), arguments.tag)
    lineage.table(arguments.table)  # an unknown one, before the file is begun
    with (
        atomic_output(arguments.output) as file,
        counted(f"exporting {arguments.table}") as advance,
    ):
        n = write_rows(
            file,
            arguments.format,
            lineage,
            arguments.table,
            with_state=arguments.with_state,
            progress=advance,
        )
    print(
        f"{arguments.output}: {n} rows of table {arguments.table!r} of checkpoint "
        f"{lineage.newest.tag}",
        file=sys.stderr if is_stdout(arguments.output) else sys.stdout,
    )
    return 0


def _local(uri: str) -> list[str]:
    """Return the folder of checkpoints, if it is one of this machine."""
    return [] if "://" in uri else [uri]
