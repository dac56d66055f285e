"""kill -9 at random moments of saves: what is restored is whole, and the newest that was there.

``python tests/checkpoint_deaths.py kills --count 100 --json FILE`` kills the scheduler, a server,
the worker that saves and whole jobs so many times each; the tests do it a few times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastps.checkpoint import retention
from fastps.checkpoint.reading import Lineage
from fastps.checkpoint.storage import PARTIAL, Store
from jobs import until
from known_states import States
from saving_jobs import KEEP, OVER, Saving

Report = Callable[[str], None]
ROLES = ("scheduler", "server", "worker", "launcher")
# Where a kill fell; when the save was over, nobody is killed, and the next save taken.
PHASES = ("asking", "waiting", "cutting", "writing", "manifest")
# Of the moments, as shares of the time that a save takes: anywhere, its begin, its end.
SPANS = ((0.0, 1.0), (0.0, 1.0), (0.05, 0.3), (0.6, 1.0))


def kill_once(saving: Saving, role: str, random_: random.Random, tally: Tally) -> str:
    """Kill somebody in a save, and require all that must be true; in which phase that was."""
    what = f"kill {tally.kills}"
    victim = saving.victim(role, random_)
    while True:
        before = saving.status()["checkpoint"]["last"]
        share = random_.uniform(*random_.choice(SPANS))
        began = saving.begin()
        usual = statistics.median(saving.seconds[-9:])
        time.sleep(max(0.0, began + share * usual - time.monotonic()))
        phase = saving.phase(before)
        if phase != OVER:
            break
        tally.missed += 1
        assert tally.missed <= 20 + 3 * tally.kills, f"{tally.missed} moments were not in a save"
        saving.seconds.append(usual * 0.9)
        saving.end()
    os.kill(victim, signal.SIGKILL)
    if role == "launcher":
        until(lambda: not saving.job.alive(), 10, "the end of a whole job")
        if not saving.by_launcher and (done := saving.log.of(saving.n_saves).get("done")):
            saving.note(done["tag"])
    found = saving.check(f"{what}, {role} killed while {phase}")
    tally.checks += 1
    if role != "launcher":
        saving.end()
        later = saving.check(f"{what}, {role} killed while {phase}, the save is over")
        assert later.number >= found.number
        tally.checks += 1
    return phase


def kills(
    folder: Path,
    count: int,
    seed: int = 0,
    roles: tuple[str, ...] = ROLES,
    report: Report = print,
) -> dict[str, Any]:
    """Kill each role so many times in a save."""
    figures: dict[str, Any] = {"count": count}
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(States()) as states:
        for role in roles:
            began = time.monotonic()
            run = _of_whole_jobs if role == "launcher" else _of_role
            found = run(folder / role, role, count, random.Random(f"{seed} {role}"), states, report)
            figures[role] = {**found, "seconds": round(time.monotonic() - began, 1)}
    return figures


def one_job(folder: Path, count: int, seed: int = 0, report: Report = print) -> dict[str, Any]:
    """Kill everybody `count` times in one job, then all of it, which the next job goes on from."""
    random_, settings = random.Random(seed), {"servers": 2, "replication": 2}
    tallies = {role: Tally(role, report) for role in ROLES}
    checkpoints = folder / "checkpoints"
    with contextlib.closing(States()) as states:
        with Saving(folder / "job", checkpoints, states, **settings) as saving:
            saving.must_go_on()
            for role in [*ROLES[:-1] * count, ROLES[-1]]:
                tallies[role].add(kill_once(saving, role, random_, tallies[role]), settings)
                if role != "launcher":
                    saving.must_go_on()
            committed = saving.committed
        with Saving(folder / "next", checkpoints, states, by_launcher=True, **settings) as saving:
            saving.committed = committed
            saving.must_go_on()
            assert "resumed from checkpoint" in saving.job.err, saving.job.err
            saving.job.say("stop")
            saving.job.results()
    must_be_tidy(checkpoints)
    return {role: tally.figures() for role, tally in tallies.items()}


# Which share of a role's kills what job takes: its servers, its copies, who saves.
JOBS: dict[str, tuple[tuple[float, dict[str, Any]], ...]] = {
    "scheduler": (
        (0.6, {"servers": 3, "replication": 2}),
        (0.4, {"servers": 2, "replication": 1, "by_launcher": True}),
    ),
    "server": (
        (0.4, {"servers": 3, "replication": 2}),
        (0.3, {"servers": 2, "replication": 1}),
        (0.3, {"servers": 3, "replication": 2, "by_launcher": True}),
    ),
    "worker": ((0.5, {"servers": 2, "replication": 1}), (0.5, {"servers": 3, "replication": 2})),
}


def _of_role(
    folder: Path, role: str, count: int, random_: random.Random, states: States, report: Report
) -> dict[str, Any]:
    tally = Tally(role, report)
    for number, (wanted, settings) in enumerate(_shared(count, JOBS[role])):
        checkpoints = folder / f"checkpoints-{number}"
        with Saving(folder / f"job-{number}", checkpoints, states, **settings) as saving:
            saving.must_go_on()
            saving.must_go_on()
            for _ in range(wanted):
                phase = kill_once(saving, role, random_, tally)
                saving.must_go_on()
                tally.add(phase, settings)
                if not saving.by_launcher:
                    retention.retain(Store(checkpoints), KEEP)
            tally.restored += sum(each["event"] == "restored" for each in saving.log.lines())
            saving.job.say("stop")
            saving.job.results()
        tally.leftovers += must_be_tidy(checkpoints)
    return tally.figures()


def _of_whole_jobs(
    folder: Path, role: str, count: int, random_: random.Random, states: States, report: Report
) -> dict[str, Any]:
    """Each job goes on where the last one was killed."""
    tally = Tally(role, report)
    checkpoints = folder / "checkpoints"
    committed, clock, seconds = 0, 0, [0.1]
    for number in range(count):
        settings: dict[str, Any] = {"servers": 2, "by_launcher": number % 2 == 1}
        settings["replication"] = 1 + number // 2 % 2
        with Saving(folder / f"job-{number}", checkpoints, states, **settings) as saving:
            saving.committed, saving.seconds = committed, seconds
            joined = saving.log.lines()[0]
            assert not joined["wrong"], f"after a resume: {joined['wrong']}"
            if number:
                assert "resumed from checkpoint" in saving.job.err, saving.job.err
                tally.restored += 1
                assert joined["clock"] == clock, (joined, clock)
            else:
                seconds.append(saving.save_anew())
            phase = kill_once(saving, role, random_, tally)
        found = saving.check("before the next job")
        tally.checks += 1
        committed, clock = found.number, found.clock
        tally.add(phase, settings)
        retention.retain(Store(checkpoints), KEEP)
    tally.leftovers += must_be_tidy(checkpoints)
    return tally.figures()


class Tally:
    """Counts of one role's kills.

    Attributes
    ----------
    missed : int
        Moments at which the save was over, so that nobody was killed.
    restored : int
        How often the job itself was restored, or resumed.
    leftovers : int
        Attempts of which files were left.
    """

    def __init__(self, role: str, report: Report) -> None:
        self._role, self._report = role, report
        self._phases: Counter[str] = Counter()
        self.missed = self.restored = self.leftovers = self.checks = 0

    @property
    def kills(self) -> int:
        return self._phases.total()

    def add(self, phase: str, settings: dict[str, Any]) -> None:
        self._phases[phase] += 1
        by = "launcher" if settings.get("by_launcher") else "worker"
        self._report(
            f"{self._role} {self.kills} killed while {phase}: {settings['servers']} servers, "
            f"{settings['replication']} copies, saved by the {by}"
        )

    def figures(self) -> dict[str, Any]:
        return {
            "kills": self.kills,
            **{phase: self._phases[phase] for phase in PHASES},
            "missed": self.missed,
            "checked": self.checks,
            "jobs_restored": self.restored,
            "leftovers": self.leftovers,
        }


def must_be_tidy(checkpoints: Path) -> int:
    """Require that nothing is there but checkpoints and what attempts left; how many these are.

    When an hour has gone by, retention leaves just the files of what it keeps.
    """
    store = Store(checkpoints)
    attempts = {tag: store.read_manifest(tag).attempt for tag in store.list_tags()}
    n_left = 0
    for tag in store.list_folders():
        left = [each for each in store.list_attempts(tag) if each != attempts.get(tag)]
        n_left += len(left)
        names = {path.name for path in (checkpoints / tag).iterdir()} - {*left, attempts.get(tag)}
        strange = {name for name in names if not name.endswith(PARTIAL)} - {"MANIFEST.json"}
        assert not strange, f"{tag}: {strange}"
    for path in checkpoints.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    retention.retain(store, 1)
    wanted = set()
    for manifest in Lineage.open(store, "latest").manifests:
        parts = {part.file for table in manifest.tables for part in table.parts}
        wanted |= {f"{manifest.tag}/{name}" for name in (*parts, "MANIFEST.json")}
    files = {str(path.relative_to(checkpoints)) for path in checkpoints.rglob("*.*")}
    assert files == wanted, files ^ wanted
    return n_left


def _shared(count: int, jobs: tuple[tuple[float, Any], ...]) -> Iterator[tuple[int, Any]]:
    """Yield the jobs, each with its share of the count; at least one while that lasts."""
    left = count
    for number, (share, settings) in enumerate(jobs):
        is_last = number == len(jobs) - 1
        mine = left if is_last else min(left, max(1, round(count * share)))
        left -= mine
        if mine:
            yield mine, settings


# The command.


def table_of(figures: dict[str, Any]) -> str:
    roles = [role for role in ROLES if role in figures]
    names = list(figures[roles[0]])
    lines = [" ".join([f"{'':10}", *(f"{name.replace('_', ' '):>13}" for name in names)])]
    for role in roles:
        lines.append(" ".join([f"{role:10}", *(f"{figures[role][name]:>13}" for name in names)]))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", choices=["kills"])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--role", choices=ROLES, action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="keep logs here")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fastps-deaths-") as temporary:
        folder = options.folder or Path(temporary)
        roles = tuple(options.role or ROLES)
        figures = kills(folder / "kills", options.count, options.seed, roles)
    print(table_of(figures))
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps({"run": "kills", "seed": options.seed, **figures}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
