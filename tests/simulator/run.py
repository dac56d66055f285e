"""Runs schedules: ``python -m simulator.run --seeds 0:1000``; ``--trace SEED`` shows one."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
from collections import Counter

from simulator.cluster import Cluster, Result
from simulator.directed import DIRECTED
from simulator.faults import Plan, make_plan
from simulator.mutants import MUTANTS, mutated

__all__ = ["main", "simulate"]


def simulate(plan: Plan | int, trace: bool = False, mutant: str = "") -> Result:
    """Run a plan, or that of a seed, with one bug put in."""
    with mutated(mutant):
        return Cluster(make_plan(plan) if isinstance(plan, int) else plan, trace).run()


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="simulator.run", description=__doc__)
    parser.add_argument("--seeds", default="0:200", help="FIRST:LAST, LAST excluded")
    parser.add_argument("--mutant", default="", choices=sorted(MUTANTS), help="put a bug in")
    parser.add_argument("--directed", choices=sorted(DIRECTED), help="show one made by hand")
    parser.add_argument("--trace", type=int, metavar="SEED", help="show one schedule")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", action="store_true", help="stop at the first that is wrong")
    given = parser.parse_args(arguments)
    if given.trace is not None or given.directed:
        plan = DIRECTED[given.directed] if given.directed else make_plan(given.trace)
        result = simulate(plan, True, given.mutant)
        print(result.trace)
        print(f"seed {plan.seed}:", result.violation or "all is well")
        return bool(result.violation)
    first, last = (int(number) for number in given.seeds.split(":"))
    return _many(range(first, last), given.jobs, given.stop, given.mutant)


def _many(seeds: range, jobs: int, stop: bool, mutant: str) -> int:
    totals: Counter[str] = Counter()
    wrong, cpu = 0, 0.0
    with multiprocessing.Pool(jobs) as pool:
        run = functools.partial(simulate, mutant=mutant)
        results = pool.imap(run, seeds, chunksize=20) if jobs > 1 else map(run, seeds)
        for result in results:
            totals["schedules"] += 1
            cpu += result.cpu_seconds
            for name in ("n_events", "n_acknowledged", "n_pulled", "n_views", "n_faults"):
                totals[name] += getattr(result, name)
            totals["with lost shards"] += result.n_lost_shards > 0
            totals["simulated seconds"] += int(result.sim_seconds)
            if result.violation:
                wrong += 1
                print(f"seed {result.seed}: {result.violation}", flush=True)
                if stop:
                    break
    summary = ", ".join(f"{name} {count}" for name, count in totals.items())
    print(f"{summary}, {wrong} wrong, {totals['schedules'] / cpu:.0f} schedules/s of a core")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
