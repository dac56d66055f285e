"""Measures how many schedules find each mutant, and writes the table of it: MUTANTS.md beside this.

``python -m simulator.mutant_table`` from the folder tests; ``--only NAME`` prints one line.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

from simulator.directed import DIRECTED
from simulator.mutants import MUTANTS, CppMutant
from simulator.run import simulate

__all__ = ["Found", "find", "main"]

TABLE = Path(__file__).with_name("MUTANTS.md")
HEAD = """# Known bugs put back, and what finds them

Made by `make mutants`; `mutants.py` tells how each bug is made. Random schedules are counted from
seed 0 on; where chance takes too long, a schedule made by hand (`directed.py`) is named.

| mutant | where | the bug | found by | how it shows |
|--------|-------|---------|----------|--------------|
"""


class Found(NamedTuple):
    """What found a mutant: so many random schedules, or one made by hand; neither: nothing."""

    schedules: int
    directed: str
    violation: str


def find(name: str, schedules_max: int) -> Found:
    """Look for a mutant: in random schedules from seed 0 on, then in those made by hand."""
    for seed in range(schedules_max):
        result = simulate(seed, mutant=name)
        if result.violation and not simulate(seed).violation:
            return Found(seed + 1, "", result.violation)
    for directed, plan in DIRECTED.items():
        result = simulate(plan, mutant=name)
        if result.violation and not simulate(plan).violation:
            return Found(0, directed, result.violation)
    return Found(0, "", "")


def main(arguments: list[str] | None = None) -> int:
    """Write the table; return 1 when a mutant was not found."""
    parser = argparse.ArgumentParser(prog="simulator.mutant_table", description=__doc__)
    parser.add_argument("--schedules", type=int, default=2000, help="random ones for each mutant")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", choices=sorted(MUTANTS), help="this one; writes no table")
    given = parser.parse_args(arguments)
    names = [given.only] if given.only else list(MUTANTS)
    lines, missing = [], 0
    with multiprocessing.Pool(given.jobs) as pool:
        search = functools.partial(find, schedules_max=given.schedules)
        for name, found in zip(names, pool.imap(search, names), strict=True):
            missing += not found.violation
            lines.append(_line(name, found))
            print(lines[-1], flush=True)
    if not given.only:
        TABLE.write_text(HEAD + "\n".join(lines) + "\n")
    print(f"{len(names)} mutants, {missing} not found")
    return int(missing > 0)


def _line(name: str, found: Found) -> str:
    mutant = MUTANTS[name]
    where = "server" if isinstance(mutant, CppMutant) else mutant.where
    count = f"{found.schedules} schedules" if found.schedules != 1 else "1 schedule"
    by = count if found.schedules else found.directed or "nothing"
    shows = found.violation.split(":")[0] if found.violation[:1] in "SL" else found.violation[:60]
    return f"| {name} | {where} | {mutant.bug} | {by} | {shows} |"


if __name__ == "__main__":
    sys.exit(main())
