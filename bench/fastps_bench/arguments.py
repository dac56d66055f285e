"""What several subcommands take on the command line, and how they begin and end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastps.output import is_stdout

__all__ = ["MODES", "add_json", "append_json", "names", "positive", "positives"]

MODES = ("embedded", "tcp")


def positive(text: str) -> int:
    """Return a whole number of at least 1; 10_000 is fine."""
    number = int(text.replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def positives(text: str) -> list[int]:
    """Return the numbers of a list with commas, each at least 1."""
    return [positive(word) for word in text.split(",")]


def names(text: str, known: Sequence[str]) -> list[str]:
    """Return the words of a list with commas, each one of `known`."""
    words = [word for word in text.split(",") if word]
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}")
    return words


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="append all figures as one line of JSON"
    )


def append_json(
    benchmark: str, options: argparse.Namespace, facts: dict[str, Any], results: list[Any]
) -> None:
    """Append a line to the file of ``--json``, if there is one."""
    if options.json is None:
        return
    parameters = {
        name: value for name, value in vars(options).items() if name not in ("run", "json")
    }
    line = {"benchmark": benchmark, **facts, "parameters": parameters, "results": results}
    if is_stdout(options.json):
        print(json.dumps(line), flush=True)
        return
    with options.json.open("a") as file:
        file.write(json.dumps(line) + "\n")
