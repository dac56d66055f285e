"""The command ``fastps-bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastps.errors import ConfigError, FastPSError
from fastps.output import check_output
from fastps_bench import checkpoint, failover, latency, memory, sparse, staleness

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process when not given.
    """
    parser = argparse.ArgumentParser(prog="fastps-bench", description="Measure fastps.")
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK")
    sparse.add_parser(commands)
    latency.add_parser(commands)
    failover.add_parser(commands)
    checkpoint.add_parser(commands)
    memory.add_parser(commands)
    staleness.add_parser(commands)
    options = parser.parse_args(argv)
    try:
        check_output("--json", getattr(options, "json", None))
        code: int = options.run(options)
    except FastPSError as error:
        print(f"fastps-bench: error: {error}", file=sys.stderr)
        code = 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
