"""A job as data: a specification in, a result out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastps.launch.commands import FASTPS_COMMAND

if TYPE_CHECKING:
    from fastps.launch.checkpoints import CheckpointPlan

__all__ = ["JobResult", "JobSpec", "WorkerGroup"]


@dataclass(frozen=True)
class WorkerGroup:
    """Workers that run one command.

    Attributes
    ----------
    name : str
        FASTPS_GROUP of the workers.
    num_workers : int
        How many, at least 1; ranks 0 .. num_workers - 1.
    command : tuple of str
        Program and arguments.
    """

    name: str
    num_workers: int
    command: tuple[str, ...]


@dataclass(frozen=True)
class JobSpec:
    """What to run.

    Attributes
    ----------
    num_servers : int
        How many servers.
    groups : tuple of WorkerGroup
        Names are distinct. Workers of the first are printed as ``[worker 0]``, those of the others
        by their group's name.
    data_threads : int
        Of each server.
    replication : int
        Copies of each shard of tables that do not say.
    min_copies : int
        Copies that a shard needs to take pushes.
    max_servers : int or None
        The most that ``fastps scale`` may ask for. None: `num_servers`.
    max_restarts : int
        How often each worker, and each server, is started again after it failed.
    lease : float
        Seconds of silence that end a worker's session; ``math.inf``: never.
    checkpoints : CheckpointPlan or None
        Where to begin, and what to save. None: neither.
    journal : Path or None
        A new file for the scheduler's journal, which is kept. None: it is removed at the end.
    job_file : Path or None
        Where to tell of the running processes.
    summary : Path or None
        Where to write, at the end, what became of the job, as JSON.
    prefix : bool
        Whether lines of output say who printed them.
    role_command : tuple of str
        What runs the roles: ``(*role_command, "scheduler", ...)``.
    """

    num_servers: int
    groups: tuple[WorkerGroup, ...]
    data_threads: int = 1
    replication: int = 1
    min_copies: int = 1
    max_servers: int | None = None
    max_restarts: int = 0
    lease: float = 10.0
    checkpoints: CheckpointPlan | None = None
    journal: Path | None = None
    job_file: Path | None = None
    summary: Path | None = None
    prefix: bool = True
    role_command: tuple[str, ...] = FASTPS_COMMAND


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes
    ----------
    exit_code : int
        0: every worker succeeded. 130, 143, 129: ended by SIGINT, SIGTERM, SIGHUP. Otherwise that
        of the last attempt of the first worker that failed for good (128 + N for signal N), or 1:
        only a server was lost for good, and with it shards that have no other copy; or the
        scheduler could not start, or the job could not go on from its checkpoint.
    seconds : float
        From start to end.
    workers : dict of (str, int) to int
        The exit code of the last attempt of each (group, rank), negative: minus the signal.
    groups : list of dict
        What the scheduler said of the groups at the end: step times, seen staleness, late pushes
        (scheduler/CONTROL.md lists the names). Empty when it could not be asked.
    """

    exit_code: int
    seconds: float
    workers: dict[tuple[str, int], int] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values, for ``--summary``."""
        return {
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "workers": [
                {"group": group, "rank": rank, "code": code}
                for (group, rank), code in sorted(self.workers.items())
            ],
            "groups": self.groups,
        }
