"""``fastps status``: what a running job is doing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_parser", "render"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "status",
        description="Ask a job's scheduler for its servers, tables and workers.",
        epilog="example: fastps-launch --job-file job.json train.py & fastps status --job job.json",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--job", type=Path, metavar="J", help="the file of fastps-launch --job-file")
    where.add_argument("--scheduler", metavar="ADDR", help="the scheduler's address")
    parser.add_argument("--json", action="store_true", help="print all of it, as JSON")
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="S", help="seconds to wait (default: 5)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    from fastps.control import SocketControl
    from fastps.errors import ConfigError
    from fastps.launch.job_file import read_job_file
    from fastps.scheduler.messages import GetStatus

    address = arguments.scheduler or read_job_file(arguments.job).get("scheduler")
    if not isinstance(address, str):
        raise ConfigError(f"the job of {str(arguments.job)!r} has no scheduler yet; ask again")
    control = SocketControl(address)
    try:
        reply, _ = control.call(GetStatus(), arguments.timeout)
    finally:
        control.close()
    print(json.dumps(reply.status, indent=2) if arguments.json else render(reply.status))
    return 0


def render(status: dict[str, Any]) -> str:
    """Return a status as text for people."""
    alive = sum(server["state"] == "alive" for server in status["servers"])
    lines = [
        f"job {status['cluster_id']}  up {status['uptime_s']:.0f} s  map {status['map_version']}  "
        f"servers {alive} alive, {status['servers_outstanding']} to come"
    ]
    lines += _section(
        "servers",
        ("id", "state", "pid", "shards", "rows", "requests", "silent s", "address"),
        [
            (
                *(server[name] for name in ("id", "state", "pid", "shards", "rows", "requests")),
                server["silent_s"],
                (server["endpoints"] or ["-"])[0],
            )
            for server in status["servers"]
        ],
    )
    lines += _section(
        "tables",
        ("id", "name", "kind", "shape", "optimizer", "consistency", "shards", "lost"),
        [
            (
                *(table["id"], table["name"], table["kind"]),
                "x".join(map(str, table["shape"])) or "()",
                table["optimizer"]["name"],
                table["consistency"]["name"],
                *(table["num_shards"], table["lost_shards"]),
            )
            for table in status["tables"]
        ],
    )
    for group in status["groups"]:
        lines += _section(
            f"group {group['name']}: {group['num_workers']} launched, minimum clock "
            f"{group['minimum_clock']}, {len(group['in_barrier'])} in barrier "
            f"{group['barriers_passed'] + 1}",
            ("rank", "state", "clock", "session", "pid", "requests", "silent s"),
            [
                tuple(
                    "-" if worker[name] is None else worker[name]
                    for name in ("rank", "state", "clock", "session", "pid", "requests", "silent_s")
                )
                for worker in group["workers"]
            ],
        )
        lines += [
            f"  pass {each['pass']}: {each['done']} of {each['items']} items done, "
            f"{each['held']} in work"
            for each in group["passes"]
        ]
    return "\n".join(lines)


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return ["", f"{title}: none" if ":" not in title else title]
    table = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    body = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return ["", title, *body]
