"""The simulator (tests/simulator) finds nothing, and finds every bug that is put in on purpose."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from simulator.directed import DIRECTED
from simulator.mutant_table import find
from simulator.mutants import MUTANTS, CppMutant, can_be_put_in
from simulator.run import simulate

TESTS = Path(__file__).parent

# A few thousand on a quiet machine; `make simulate` runs as many as wanted.
PARTS = 4
PART_SECONDS = 5.0
PART_SEEDS_MAX = 1000


@pytest.mark.parametrize("part", range(PARTS))
def test_random_schedules(part: int) -> None:
    totals: Counter[str] = Counter()
    until = time.monotonic() + PART_SECONDS
    for seed in range(part, PARTS * PART_SEEDS_MAX, PARTS):
        result = simulate(seed)
        assert not result.violation, f"python -m simulator.run --trace {seed}: {result.violation}"
        totals["schedules"] += 1
        totals["acknowledged"] += result.n_acknowledged
        totals["pulled"] += result.n_pulled
        totals["faults"] += result.n_faults
        totals["views"] += result.n_views
        if time.monotonic() > until:
            break
    # A run with too little load, or in which no fault fired, is no pass.
    n = totals["schedules"]
    assert n >= 10
    assert totals["acknowledged"] > 30 * n
    assert totals["pulled"] > 8 * n
    assert totals["faults"] > n
    assert totals["views"] > n


@pytest.mark.parametrize("name", DIRECTED)
def test_directed(name: str) -> None:
    result = simulate(DIRECTED[name])
    assert not result.violation
    assert (result.n_faults > 0) == bool(DIRECTED[name].faults)
    assert (result.n_lost_shards > 0) == (name == "the only copy dies")


def test_a_seed_is_one_schedule_in_every_process() -> None:
    seeds = [3, 4, 5]
    program = (
        "import hashlib; from simulator.run import simulate; "
        f"print(*(hashlib.sha256(simulate(n, True).trace.encode()).hexdigest() for n in {seeds}))"
    )
    expected = [hashlib.sha256(simulate(n, True).trace.encode()).hexdigest() for n in seeds]
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=TESTS, env=environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.split() == expected


def test_the_patch_of_mutants_fits_the_sources_and_has_all_of_them() -> None:
    patch = TESTS / "simulator" / "mutants.patch"
    named = set(re.findall(r'FASTPS_MUTANT\("(\w+)"\)', patch.read_text()))
    assert named == {name for name, each in MUTANTS.items() if isinstance(each, CppMutant)}
    program = shutil.which("patch")
    if program is None:
        pytest.skip("the program patch is not installed")
    tried = subprocess.run(
        [program, "--dry-run", "-s", "-p1", "-d", TESTS.parent, "-i", patch],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert tried.returncode == 0, f"regenerate {patch}: {tried.stdout}"


# Those of the servers need a build of their own: `make mutants`.
@pytest.mark.parametrize("name", [name for name in MUTANTS if can_be_put_in(name)])
def test_mutant_is_found(name: str) -> None:
    assert find(name, schedules_max=150).violation, f"{name} ({MUTANTS[name].bug}) goes unnoticed"


def test_a_mutant_is_gone_afterwards() -> None:
    assert simulate(0, mutant="no_seal").violation
    assert not simulate(0).violation
