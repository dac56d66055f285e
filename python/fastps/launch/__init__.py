"""Starting the processes of a job on one machine: ``run(JobSpec(...)) -> JobResult``."""

from fastps.launch.launcher import run
from fastps.launch.spec import JobResult, JobSpec, WorkerGroup

__all__ = ["JobResult", "JobSpec", "WorkerGroup", "run"]
