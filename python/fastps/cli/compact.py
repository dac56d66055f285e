"""``fastps compact``: one full checkpoint of a chain of increments."""

from __future__ import annotations

import argparse

from fastps.checkpoint import retention
from fastps.checkpoint.manifest import LATEST
from fastps.checkpoint.progress import counted
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import Store

__all__ = ["add_parser"]

DESCRIPTION = """\
Write what an incremental checkpoint amounts to as one full checkpoint, under another tag. It holds
the same cut: it counts as the same checkpoint, and increments saved later build on it. The chain
stays where it is, until a save that keeps only some checkpoints removes it.
"""
EXAMPLES = """\
examples:
  fastps compact checkpoints --to whole
  fastps compact s3://bucket/run7 --tag 00000031 --to 00000031-full
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compact",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("uri", metavar="URI", help="the folder of checkpoints")
    parser.add_argument("--tag", metavar="T", default=LATEST, help="which (default: the newest)")
    parser.add_argument("--to", metavar="T2", required=True, help="the name of the new checkpoint")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compact and say what became of it."""
    store = Store(arguments.uri)
    lineage = Lineage.open(store, arguments.tag)
    with counted(f"compacting {lineage.newest.tag}") as advance:
        manifest = retention.compact(store, lineage.newest.tag, arguments.to, progress=advance)
    print(
        f"{manifest.tag}: {manifest.bytes:,} bytes in full, of {len(lineage.manifests)} "
        f"checkpoints with {lineage.bytes:,} bytes"
    )
    return 0
