"""Runs schedules: ``python -m simulator.run --seeds 0:1000``; ``--trace SEED`` shows one."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from simulator.cluster import Cluster, Result
from simulator.faults import make_plan

__all__ = ["main", "simulate"]


def simulate(seed: int, trace: bool = False) -> Result:
    """Run the schedule of a seed."""
    return Cluster(make_plan(seed), trace).run()


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="simulator.run", description=__doc__)
    parser.add_argument("--seeds", default="0:200", help="FIRST:LAST, LAST excluded")
    parser.add_argument("--trace", type=int, metavar="SEED", help="show one schedule")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", action="store_true", help="stop at the first that is wrong")
    given = parser.parse_args(arguments)
    if given.trace is not None:
        result = simulate(given.trace, trace=True)
        print(result.trace)
        print(f"seed {given.trace}:", result.violation or "all is well")
        return bool(result.violation)
    first, last = (int(number) for number in given.seeds.split(":"))
    return _many(range(first, last), given.jobs, given.stop)


def _many(seeds: range, jobs: int, stop: bool) -> int:
    began = time.perf_counter()
    totals: Counter[str] = Counter()
    wrong = 0
    with multiprocessing.Pool(jobs) as pool:
        results = pool.imap(simulate, seeds, chunksize=20) if jobs > 1 else map(simulate, seeds)
        for result in results:
            totals["schedules"] += 1
            for name in ("n_events", "n_acknowledged", "n_pulled", "n_views", "n_faults"):
                totals[name] += getattr(result, name)
            totals["with lost shards"] += result.n_lost_shards > 0
            totals["simulated seconds"] += int(result.sim_seconds)
            if result.violation:
                wrong += 1
                print(f"seed {result.seed}: {result.violation}", flush=True)
                if stop:
                    break
    seconds = time.perf_counter() - began
    summary = ", ".join(f"{name} {count}" for name, count in totals.items())
    print(f"{summary}, {wrong} wrong, {totals['schedules'] / seconds:.0f} schedules/s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
