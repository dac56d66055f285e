"""``fastps status``: what a running job is doing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from fastps.cli.options import add_job, scheduler_address, seconds
from fastps.errors import FastPSTimeoutError

__all__ = ["add_parser", "render", "section"]

WATCH_SECONDS = 1.0
CLEAR_SCREEN = "\x1b[H\x1b[2J"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "status",
        description="Ask a job's scheduler for its servers, tables and workers.",
        epilog="example: fastps-launch --job-file job.json train.py & fastps status --job job.json",
    )
    add_job(parser)
    parser.add_argument("--json", action="store_true", help="print all of it, as JSON")
    parser.add_argument(
        "--watch", action="store_true", help="show it again every second, until Ctrl-C"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait (default: 5)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    from fastps.control import SocketControl
    from fastps.scheduler.messages import GetStatus

    control = SocketControl(scheduler_address(arguments))
    clear = CLEAR_SCREEN if sys.stdout.isatty() and not arguments.json else ""
    try:
        while True:
            try:
                reply, _ = control.call(GetStatus(), arguments.timeout)
            except FastPSTimeoutError as error:
                if not arguments.watch:
                    raise
                # A scheduler that died is back soon.
                print(f"{clear}{error}", file=sys.stderr, flush=True)
                continue
            if arguments.json:
                text = json.dumps(reply.status, indent=None if arguments.watch else 2)
            else:
                text = render(reply.status)
            print(f"{clear}{text}", flush=True)
            if not arguments.watch:
                return 0
            time.sleep(WATCH_SECONDS)
    finally:
        control.close()


def render(status: dict[str, Any]) -> str:
    """Return a status as text for people."""
    alive = sum(server["state"] in ("alive", "leaving") for server in status["servers"])
    wanted = status["servers_wanted"]
    lines = [
        f"job {status['cluster_id']}  scheduler {status['incarnation']}, up "
        f"{status['uptime_s']:.0f} s",
        f"servers: {alive} alive, {wanted} wanted, {status['servers_outstanding']} to come; "
        f"{_views(status['views'])}",
    ]
    if status["sessions_awaited"]:
        lines.append(
            f"restarted: {len(status['sessions_awaited'])} workers are still to say where they are"
        )
    lines += _checkpoint(status.get("checkpoint") or {})
    lines += _servers(status["servers"])
    lines += _tables(status["tables"])
    for group in status["groups"]:
        lines += _group(group)
    return "\n".join(lines)


def _views(views: dict[str, Any]) -> str:
    """Say what is under way with the shards, and the last failover."""
    parts = [f"{views['moving']} shards changing" if views["moving"] else "no shard changes"]
    if views["moving"]:
        parts[0] += f" ({views['filling']} being filled, {views['sealed']} sealed)"
    if mute := views.get("mute"):
        parts[0] += f"; server {', '.join(map(str, mute))} beats but does not report"
    last = views["last_failover"]
    if last is None:
        return parts[0] + ", no failover yet"
    took = "under way" if last["seconds"] is None else f"took {last['seconds']:.2f} s"
    return (
        f"{parts[0]}; last failover {last['started_s_ago']:.0f} s ago: server {last['server']} "
        f"({last['reason']}), {last['shards']} shards, {took}"
    )


def _checkpoint(checkpoint: dict[str, Any]) -> list[str]:
    """Say what is being saved or restored, and how the last save went; nothing: no lines."""
    lines = []
    if why := checkpoint.get("broken"):
        lines.append(f"checkpoint: the tables were lost by a restore that failed: {why}")
    for what in ("saving", "restoring"):
        if now := checkpoint.get(what):
            queued = now.get("queued", 0)
            lines.append(
                f"checkpoint: {what} {now['tag']}, {now['phase']}, {now['bytes'] / 1e6:.1f} MB in "
                f"{now['seconds']:.1f} s" + (f"; {queued} more wait" if queued else "")
            )
    for what, words in (("last", "was written"), ("last_restore", "was restored")):
        if last := checkpoint.get(what):
            took = f"{words} in {last['seconds']:.1f} s"
            lines.append(
                f"checkpoint: {last['tag']} {last['error'] or took}, "
                f"{last['ended_s_ago']:.0f} s ago"
            )
    return lines


def _servers(servers: Sequence[dict[str, Any]]) -> list[str]:
    return section(
        "servers",
        ("id", "state", "pid", "head/copy", "filling", "rows", "requests", "heard", "address"),
        [
            (
                *(server["id"], server["state"], server["pid"]),
                f"{server['heads']}/{server['shards']}",
                *(server["filling"], server["rows"], server["requests"]),
                _ago(server["silent_s"]),
                (server["endpoints"] or ["-"])[0],
            )
            for server in servers
        ],
    )


def _tables(tables: Sequence[dict[str, Any]]) -> list[str]:
    return section(
        "tables",
        ("id", "name", "kind", "shape", "optimizer", "consistency", "shards", "copies"),
        [
            (
                *(table["id"], table["name"], table["kind"]),
                "x".join(map(str, table["shape"])) or "()",
                table["optimizer"]["name"],
                table["consistency"]["name"],
                *(table["num_shards"], _copies(table["redundancy"])),
            )
            for table in tables
        ],
    )


def _copies(redundancy: dict[str, int]) -> str:
    """Say how many copies there are: ``2 of 2``, or how many shards have fewer, or none."""
    wanted = redundancy["wanted"]
    short = [
        f"{redundancy[what]} shards {words}"
        for what, words in (("missing", f"below {wanted}"), ("lost", "lost"))
        if redundancy[what]
    ]
    return ", ".join(short) or f"{wanted} of {wanted}"


def _group(group: dict[str, Any]) -> list[str]:
    names = ("rank", "state", "clock", "session", "pid", "requests", "silent_s")
    lines = section(
        f"group {group['name']}: {group['num_workers']} launched, minimum clock "
        f"{group['minimum_clock']}, {len(group['in_barrier'])} in barrier "
        f"{group['barriers_passed'] + 1}",
        (*names[:-1], "heard"),
        [
            (
                worker["rank"],
                "idle" if worker["idle"] else worker["state"],
                *("-" if worker[name] is None else worker[name] for name in names[2:-1]),
                _ago(worker["silent_s"]),
            )
            for worker in group["workers"]
        ],
    )
    return lines + [
        f"  pass {each['pass']}: {each['done']} of {each['items']} items done, "
        f"{each['held']} in work"
        for each in group["passes"]
    ]


def _ago(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s ago"


def section(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return a table of text: an empty line, the title, the header, the rows."""
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
