"""``fastps import``: a checkpoint made of keys and values, for a warm start."""

from __future__ import annotations

import argparse
import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastps import consistency, initializers, optimizers
from fastps.checkpoint.manifest import LATEST, check_tag
from fastps.checkpoint.storage import Store
from fastps.checkpoint.warm import write_values
from fastps.cli.options import whole_number
from fastps.cli.row_files import FORMATS
from fastps.cli.row_reading import read_rows
from fastps.config import DEFAULT_GROUP
from fastps.errors import ConfigError, FastPSError
from fastps.scheduler.messages import TableDefinition
from fastps.scheduler.tables import complete

__all__ = ["add_parser"]

DESCRIPTION = """\
Write a checkpoint with one table, of the keys and values in a file. A job that restores it begins
with these values; the optimizer's state is that of values that were just assigned.

  npz          arrays keys (n,) and values (n, *row_shape); also the models of `fastps train`
  safetensors  the same
  parquet      columns key and value, numbers or lists
  text         a line for each row: its key and its values; # begins a comment

--optimizer, --initializer and --consistency are those with which the script makes the table,
written as there.
"""
EXAMPLES = """\
examples:
  fastps import weights.npz --format npz --table weights checkpoints
      >>> np.savez("weights.npz", keys=np.arange(3), values=[0.5, -1.0, 2.0])
      >>> client.restore("checkpoints")
      >>> client.table("weights").pull([0, 1, 2])
  fastps import vectors.txt --format text --table items --row-shape 4,8 \\
      --optimizer "Adam(lr=0.01)" --initializer "Normal(std=0.1, seed=7)" s3://bucket/start
  fastps import w1.npz --format npz --dense --table W1 --add-to latest checkpoints
      the new checkpoint has the tables of the newest one as well
"""
# For a table whose number of servers nobody knows yet.
SERVERS = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "import",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="F", type=Path, help="keys and values")
    parser.add_argument("uri", metavar="URI", help="the folder of checkpoints")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--table", metavar="T", required=True, help="the table's name")
    parser.add_argument("--tag", metavar="T", help="the checkpoint's name (default: its number)")
    parser.add_argument(
        "--add-to", metavar="T", help="a checkpoint whose tables the new one has as well"
    )
    parser.add_argument(
        "--row-shape",
        type=_shape,
        metavar="N,N",
        help="the shape of a row (default: as the file has it), for example 16 or 4,8",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="make a dense table; keys, if there are any, number its rows",
    )
    parser.add_argument(
        "--shape", type=_shape, metavar="N,N", help="of a dense table (default: as the file has it)"
    )
    parser.add_argument(
        "--optimizer", default="Accumulate()", metavar="CALL", help="(default: Accumulate())"
    )
    parser.add_argument(
        "--initializer", default="Zeros()", metavar="CALL", help="(default: Zeros())"
    )
    parser.add_argument("--consistency", default="ASP()", metavar="CALL", help="(default: ASP())")
    parser.add_argument(
        "--num-shards", type=whole_number(1, 1 << 16), metavar="N", help="(default: by the size)"
    )
    parser.add_argument(
        "--replication", type=whole_number(1, 3), default=1, metavar="K", help="(default: 1)"
    )
    parser.add_argument(
        "--group", default=DEFAULT_GROUP, help=f"of the table (default: {DEFAULT_GROUP})"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read the file and write the checkpoint."""
    is_dense = arguments.dense
    if (arguments.row_shape if is_dense else arguments.shape) is not None:
        raise ConfigError(
            "--shape is that of a --dense table, --row-shape that of a row of any other"
        )
    settings: dict[str, Any] = {
        "optimizer": called("--optimizer", arguments.optimizer, optimizers.from_json),
        "initializer": called("--initializer", arguments.initializer, initializers.from_json),
        "consistency": called("--consistency", arguments.consistency, consistency.from_json),
    }
    if arguments.tag is not None:
        check_tag(arguments.tag)
    if arguments.add_to not in (None, LATEST):
        check_tag(arguments.add_to)
    store = Store(arguments.uri)
    shape = arguments.shape if is_dense else arguments.row_shape
    keys, values = read_rows(arguments.file, arguments.format, is_dense=is_dense, shape=shape)
    definition = complete(
        TableDefinition(
            name=arguments.table,
            kind="dense" if is_dense else "sparse",
            shape=values.shape if keys is None else values.shape[1:],
            num_shards=arguments.num_shards,
            replication=arguments.replication,
            **settings,
        ),
        group=arguments.group,
        replication=arguments.replication,
        n_servers=SERVERS,
    )
    manifest = write_values(store, definition, keys, values, arguments.tag, arguments.add_to)
    n = values.size if keys is None else len(keys)
    print(
        f"{store.where(manifest.tag)}: {n} {'elements' if keys is None else 'rows'} of table "
        f"{arguments.table!r}"
        + (f", with the tables of {manifest.parent.tag}" if manifest.parent else "")
    )
    return 0


def called(option: str, text: str, from_json: Callable[[object], Any]) -> dict[str, Any]:
    """Return what a call like ``SGD(lr=0.5)`` makes, as JSON. Nothing is run.

    Raises
    ------
    ConfigError
        It is no such call, or its class or arguments are not legal.
    """
    try:
        tree = ast.parse(text.strip().removeprefix("fastps."), mode="eval").body
        function = tree.func if isinstance(tree, ast.Call) else tree
        if isinstance(function, ast.Attribute):  # optimizers.SGD
            name = function.attr
        elif isinstance(function, ast.Name):
            name = function.id
        else:
            raise ValueError("it is not a name")
        given = tree.args if isinstance(tree, ast.Call) else []
        keywords = tree.keywords if isinstance(tree, ast.Call) else []
        positional = [ast.literal_eval(each) for each in given]
        named = {str(each.arg): ast.literal_eval(each.value) for each in keywords}
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{option} {text!r:.100}: needed is a call with plain numbers, as in the script, for "
            'example "SGD(lr=0.5)"'
        ) from error
    try:
        names = _fields(name, from_json)
        if len(positional) > len(names):
            raise ConfigError(f"{name} takes {len(names)} arguments")
        arguments = {**dict(zip(names, positional, strict=False)), **named}
        value = from_json({"name": name, **arguments})
    except FastPSError as error:
        raise ConfigError(f"{option} {text!r:.100}: {error}") from error
    described: dict[str, Any] = value.to_json()
    return described


def _fields(name: str, from_json: Callable[[object], Any]) -> list[str]:
    """Return the names of a class's arguments, in order; none of a class that is not there."""
    for module in (optimizers, initializers, consistency):
        found = getattr(module, name, None)
        if module.from_json is from_json and dataclasses.is_dataclass(found):
            return [field.name for field in dataclasses.fields(found)]
    return []


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.strip("()").replace(" ", "").strip(",").split(",")
    try:
        return tuple(whole_number(1, 1 << 40)(size) for size in sizes)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape like 16 or 4,8") from error
