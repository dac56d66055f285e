"""``fastps inspect``: which checkpoints there are, and what is in one."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fastps import consistency, initializers, optimizers
from fastps.checkpoint.manifest import Manifest, SavedGroup, SavedTable
from fastps.checkpoint.progress import counted
from fastps.checkpoint.reading import Lineage, preference
from fastps.checkpoint.storage import Store
from fastps.cli.status import section
from fastps.errors import CheckpointError
from fastps.scheduler import wire

__all__ = ["add_parser"]

SETTINGS: dict[str, Any] = {
    "optimizer": optimizers,
    "initializer": initializers,
    "consistency": consistency,
}

EXAMPLES = """\
examples:
  fastps inspect checkpoints                      list the checkpoints in a folder
  fastps inspect checkpoints --tag latest         what is in the newest
  fastps inspect s3://bucket/run7 --verify        read all files and check them

exit codes: 0 all is well, 1 something is damaged or missing, 2 the command line is wrong.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "inspect",
        description="List the checkpoints in a folder, or show what is in one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("uri", metavar="URI", help="the folder: a path, s3://..., gs://..., ...")
    parser.add_argument("--tag", metavar="T", help="one checkpoint; 'latest': the newest")
    parser.add_argument("--json", action="store_true", help="print all of it, as JSON")
    parser.add_argument(
        "--verify", action="store_true", help="read every file and compare its checksum"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read and print; 1 when something is damaged."""
    store = Store(arguments.uri)
    if arguments.tag is not None:
        lineage = Lineage.open(store, arguments.tag)
        if arguments.verify:
            _verify(lineage)
        if arguments.json:
            print(json.dumps(_as_json(lineage), indent=2))
        else:
            print("\n".join(_shown(lineage, is_verified=arguments.verify)))
        return 0
    return _list(store, as_json=arguments.json, verify=arguments.verify)


def _list(store: Store, *, as_json: bool, verify: bool) -> int:
    """Print all checkpoints, the newest last; those that cannot be read as well."""
    tags = store.list_tags()
    if not tags:
        raise CheckpointError(f"there is no complete checkpoint in {store.uri}")
    read: list[Lineage] = []
    errors: dict[str, str] = {}
    for tag in tags:
        try:
            lineage = Lineage.open(store, tag)
            if verify:
                _verify(lineage, own=True)
            read.append(lineage)
        except CheckpointError as error:
            errors[tag] = str(error)
    read.sort(key=lambda lineage: preference(lineage.newest))
    if as_json:
        content = {"checkpoints": [_as_json(lineage) for lineage in read], "errors": errors}
        print(json.dumps(content, indent=2))
        return 1 if errors else 0
    rows = [_summary(lineage.newest) for lineage in read]
    header = ("tag", "number", "created", "tables", "rows", "bytes", "steps", "builds on")
    print("\n".join(section(store.uri, header, rows)[1:] if rows else [store.uri]))
    if verify and not errors:
        print("\nall files are as they were written")
    for tag, why in errors.items():
        print(f"fastps inspect: {tag}: {why}", file=sys.stderr)
    return 1 if errors else 0


def _summary(manifest: Manifest) -> tuple[object, ...]:
    return (
        *(manifest.tag, manifest.number, manifest.created, len(manifest.tables)),
        *(sum(table.rows for table in manifest.tables), _bytes(manifest.bytes)),
        ", ".join(f"{group.name} {group.clock}" for group in manifest.groups) or "-",
        manifest.parent.tag if manifest.parent else "-",
    )


def _shown(lineage: Lineage, *, is_verified: bool) -> list[str]:
    manifest = lineage.newest
    tags = " <- ".join(each.tag for each in lineage.manifests)
    kind = f"increments {tags}" if manifest.is_incremental else "full"
    lines = [
        f"checkpoint {manifest.tag}, number {manifest.number}, of {manifest.created}, {kind}",
        f"written by fastps {manifest.version} in epoch {manifest.epoch}; format "
        f"{manifest.format}; {_bytes(lineage.bytes)} in "
        f"{sum(len(t.parts) for m in lineage.manifests for t in m.tables)} files",
    ]
    if is_verified:
        lines.append("all files are as they were written")
    for table in manifest.tables:
        lines += ["", *_table(table)]
    header = ("group", "steps", "workers", "barriers", "passes")
    groups = [
        (
            *(group.name, group.clock, group.num_workers, group.barriers),
            _passes(group),
        )
        for group in manifest.groups
    ]
    return lines + section("groups", header, groups)


def _passes(group: SavedGroup) -> str:
    over = [
        f"{first}: over" if last == first + 1 else f"{first} to {last - 1}: over"
        for first, last in group.passes_over
    ]
    known = [
        f"{each.number}: "
        + f"{each.n_items if each.is_finished else sum(end - begin for begin, end in each.done)} "
        + f"of {each.n_items}"
        for each in group.passes
    ]
    return ", ".join([*over, *known]) or "-"


def _table(table: SavedTable) -> list[str]:
    definition = table.definition
    indices = [shard.index for shard in table.shards]
    views = [shard.view for shard in table.shards]
    changed = sum(part.rows for part in table.parts)
    removed = sum(part.removed for part in table.parts)
    n_full = sum(shard.is_full for shard in table.shards)
    state = [*table.layout().slots, *table.layout().row_slots]
    what = "elements" if definition.kind == "dense" else "rows"
    lines = [
        f"table {table.name!r}: {definition.kind}, shape {definition.shape}, {table.rows} {what} "
        f"in {table.num_shards} shards; state: {', '.join(state) or 'none'}",
        f"  written: {changed} {what}, {removed} removed keys, {_bytes(table.bytes)} in "
        f"{len(table.parts)} files; {n_full} shards in full",
        f"  entries applied: {_range(indices)} a shard; views {_range(views)}"
        + ("" if table.round is None else f"; rounds before {table.round}"),
    ]
    for name, module in SETTINGS.items():
        lines.append(f"  {name}: {module.from_json(getattr(definition, name))!r}")
    return lines


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _bytes(n: int) -> str:
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f} {unit}" if unit != "B" else f"{n} B"
        size /= 1024
    return f"{size:.1f} TiB"


def _as_json(lineage: Lineage) -> dict[str, Any]:
    return {
        **wire.to_json(lineage.newest),
        "checksum": lineage.newest.checksum,
        "chain": [manifest.tag for manifest in lineage.manifests],
        "bytes": lineage.newest.bytes,
        "chain_bytes": lineage.bytes,
    }


def _verify(lineage: Lineage, *, own: bool = False) -> None:
    total = lineage.newest.bytes if own else lineage.bytes
    with counted(f"verifying {lineage.newest.tag}", total) as advance:
        lineage.verify(progress=advance, own=own)
