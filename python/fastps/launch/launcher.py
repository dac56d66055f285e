"""The supervisor of a job on one machine: starts the roles, watches them, ends them.

One thread, one loop: move output, look who has ended, act. Nothing in the loop waits longer than
`TURN_SECONDS`, so that a signal is obeyed at once whatever the children do.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from typing import Any

from fastps.config import child_environment
from fastps.control import new_boot_id
from fastps.errors import FastPSError
from fastps.launch import elastic
from fastps.launch.checkpoints import Checkpoints
from fastps.launch.folder_lock import FolderLock
from fastps.launch.job_file import JobFile, ProcessEntry
from fastps.launch.notifier import Notifier
from fastps.launch.orphans import adopts_orphans, reap_orphans
from fastps.launch.output import Relay
from fastps.launch.process import ChildProcess, Guardian, describe_exit
from fastps.launch.scheduler_place import SchedulerPlace
from fastps.launch.signals import stop_signals
from fastps.launch.slot import Slot
from fastps.launch.spec import JobResult, JobSpec
from fastps.launch.summary import pace_lines
from fastps.scheduler.messages import ProcessExited

__all__ = ["run"]

TURN_SECONDS = 0.1
# The scheduler imports numpy and the core; on a cold, busy machine that takes seconds.
SCHEDULER_START_SECONDS = 60.0
# After a signal everything is stopped within 5 s: workers may clean up for so long, then servers.
WORKER_GRACE_SECONDS = 2.0
ROLE_GRACE_SECONDS = 1.0
# When SIGTERM stops a job with checkpoints, its last save comes first.
STOP_SAVE_SECONDS = 20.0
# A pipe may be held open by a process that left its group; nobody waits for it longer.
PIPE_GRACE_SECONDS = 0.5
# How it went is worth so long a wait at the end.
STATUS_SECONDS = 1.0


def run(spec: JobSpec) -> JobResult:
    """Run a job and wait for its end.

    What the processes print goes to file descriptors 1 and 2. SIGINT, SIGTERM and SIGHUP stop the
    job when this runs in the main thread, and SIGUSR1 saves it. Whatever happens, even to this
    process, no process of the job outlives it.

    Parameters
    ----------
    spec : JobSpec
        What to run.

    Returns
    -------
    JobResult
        What became of it.
    """
    with contextlib.ExitStack() as stack:
        if spec.checkpoints is not None:
            try:
                stack.callback(FolderLock(spec.checkpoints.uri).close)
            except FastPSError as error:
                print(f"fastps-launch: {error}", file=sys.stderr, flush=True)
                return JobResult(1, 0.0)
        return _run(spec)


def _run(spec: JobSpec) -> JobResult:
    supervisor = Supervisor(spec)
    with stop_signals(supervisor.stop, supervisor.save, supervisor.wake_up_by):
        return supervisor.run()


class Supervisor:
    """One run of one job. One thread uses it; `stop` may be called by a signal handler."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._relay = Relay()
        self._job_file = JobFile(spec.job_file) if spec.job_file else None
        self._place = SchedulerPlace(spec.journal)
        files = (spec.job_file, self._place.folder)
        self._guardian = Guardian([each.absolute() for each in files if each is not None])
        self._notifier: Notifier | None = None
        self._checkpoints: Checkpoints | None = None
        self._address: str | None = None
        self._scheduler_since = self._scheduler_until = 0.0
        self._scheduler_due = math.inf
        self._slots: list[Slot] = []
        self._scalings_seen = 0
        self._stop_signal: int | None = None
        self._kill_now = False
        self._save_asked = False
        self._workers_began = False
        self._ending = False
        self._first_failure: int | None = None
        self._scheduler_failed = False
        self._server_lost = False
        self._status: dict[str, Any] | None = None  # as it was when the workers had ended
        self._adopts_orphans = adopts_orphans()
        self._started = time.monotonic()

    def stop(self, number: int) -> None:
        """End the job because of a signal; a second one ends it without grace."""
        self._kill_now = self._stop_signal is not None
        self._stop_signal = self._stop_signal or number

    def save(self) -> None:
        """Save a checkpoint soon; called by a signal handler."""
        self._save_asked = True

    def wake_up_by(self, pipe: int) -> None:
        """Let bytes in `pipe` end a wait; what they are does not matter."""
        self._relay.wake = pipe

    def run(self) -> JobResult:
        """Run the job to its end."""
        try:
            if self._start_scheduler():
                self._start_servers()
                if self._resume():
                    self._workers_began = True
                    self._start_workers()
                    while self._stop_signal is None and self._running("worker"):
                        self._turn()
        finally:
            self._end_all()
        return self._result()

    # Starting.

    def _start_scheduler(self) -> bool:
        spec = self._spec
        arguments = (
            f"--address={self._place.address}",
            f"--journal={self._place.journal}",
            f"--servers={spec.num_servers}",
            f"--max-servers={self._max_servers}",
            f"--replication={spec.replication}",
            f"--min-copies={spec.min_copies}",
            "--workers=0",
            *(f"--group={group.name}={group.num_workers}" for group in spec.groups),
            f"--lease={spec.lease!r}",
        )
        command = (*spec.role_command, "scheduler", *arguments)
        scheduler = Slot("scheduler", None, 0, "scheduler", command, child_environment({}))
        self._slots.append(scheduler)
        self._start(scheduler)
        deadline = time.monotonic() + SCHEDULER_START_SECONDS
        while scheduler.address is None and scheduler.process is not None:
            if self._stop_signal is not None:
                return False
            if time.monotonic() > deadline:
                self._say(f"the scheduler was not ready within {SCHEDULER_START_SECONDS:g} s")
                self._scheduler_failed = True
                return False
            self._turn()
        self._address = scheduler.address
        if self._address is None:
            self._say("the scheduler could not start, so nothing was run; it says why above")
            return False
        self._notifier = Notifier(self._address)
        return True

    def _start_servers(self) -> None:
        for _ in range(self._spec.num_servers):
            self._start(self._add_server())

    def _resume(self) -> bool:
        """Bring the job to its newest checkpoint; return whether the workers may begin."""
        if self._spec.checkpoints is None:
            return True
        assert self._address is not None
        self._checkpoints = Checkpoints(self._spec.checkpoints, self._address)
        self._checkpoints.resume()
        while self._checkpoints.is_busy and self._stop_signal is None:
            self._turn()
        self._say_all(self._checkpoints.said())
        return self._stop_signal is None and not self._checkpoints.failed

    def _start_workers(self) -> None:
        assert self._address is not None
        for n, group in enumerate(self._spec.groups):
            for rank in range(group.num_workers):
                environment = child_environment(
                    {
                        "FASTPS_SCHEDULER": self._address,
                        "FASTPS_RANK": str(rank),
                        "FASTPS_NUM_WORKERS": str(group.num_workers),
                        "FASTPS_GROUP": group.name,
                    },
                    {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
                )
                name = f"{'worker' if n == 0 else group.name} {rank}"
                worker = Slot("worker", group.name, rank, name, group.command, environment)
                self._slots.append(worker)
        for slot in self._slots:
            if slot.role == "worker":
                self._start(slot)

    def _add_server(self) -> Slot:
        data_threads = f"--data-threads={self._spec.data_threads}"
        command = (*self._spec.role_command, "server", f"--scheduler={self._address}", data_threads)
        rank = sum(slot.role == "server" for slot in self._slots)
        slot = Slot("server", None, rank, f"server {rank}", command, child_environment({}))
        self._slots.append(slot)
        return slot

    def _start(self, slot: Slot) -> None:
        slot.n_started += 1
        slot.address = None
        ready, ready_of_child = os.pipe()
        is_worker = slot.role == "worker"
        try:
            command = slot.command if is_worker else (*slot.command, f"--ready-fd={ready_of_child}")
            if slot.role == "server":
                slot.boot_id = new_boot_id().hex()
                command = (*command, f"--boot-id={slot.boot_id}")
            fds = () if is_worker else (ready_of_child,)
            process = ChildProcess(command, slot.environment, fds, is_role=not is_worker)
        except OSError as error:
            os.close(ready)
            self._say(f"{slot.name} cannot be started: {error}")
            self._ended(slot, 127, may_restart=False)
            return
        finally:
            os.close(ready_of_child)
        self._guardian.add(process)
        slot.process = process
        prefix = f"[{slot.name}] " if self._spec.prefix else ""
        self._relay.add(process.stdout, 1, prefix)
        self._relay.add(process.stderr, 2, prefix)
        line = bytearray()

        def take_ready(data: bytes) -> None:
            line.extend(data)
            if line.endswith(b"\n") and slot.process is process:
                with contextlib.suppress(ValueError, KeyError):
                    slot.address = str(json.loads(line)["address"])
                if slot.role == "scheduler":
                    self._scheduler_is_ready()
                self._write_job_file()

        self._relay.add_reader(ready, take_ready)
        self._write_job_file()

    # Watching.

    def _turn(self) -> None:
        self._relay.pump(TURN_SECONDS)
        if self._notifier is not None and self._notifier.turn():
            self._follow(self._notifier.status or {})
        self._save_if_asked()
        if time.monotonic() >= self._scheduler_due and not self._ending:
            self._scheduler_due = math.inf
            self._start(self._slots[0])
        for slot in self._slots:
            process = slot.process
            if process is None:
                continue
            code = process.reap()
            if code is not None:
                self._guardian.remove(process)
                slot.process = None
                self._ended(slot, code, process.pid)
        if self._adopts_orphans:
            running = {slot.process.pid for slot in self._slots if slot.process is not None}
            reap_orphans({self._guardian.pid, *running})

    def _save_if_asked(self) -> None:
        """Begin the save that SIGUSR1 asked for, and tell of those that have ended."""
        checkpoints = self._checkpoints
        if checkpoints is not None:
            self._say_all(checkpoints.said())
        if not self._save_asked or not self._workers_began or self._ending:
            return
        if checkpoints is None:
            self._say("SIGUSR1 saves a checkpoint, but no --checkpoint was given")
        elif checkpoints.is_busy:
            return  # what it holds may be older than the signal
        elif self._stop_signal is None and self._running("worker"):
            checkpoints.save_now()
        self._save_asked = False

    def _ended(self, slot: Slot, code: int, pid: int = 0, may_restart: bool = True) -> None:
        """Decide what follows from the end of a process, by itself or by our hand."""
        slot.code = code
        if slot.role == "worker" and code == 0:
            self._tell(slot, pid, final=True)
        elif self._ending or self._stop_signal is not None:
            pass  # it was asked to end
        elif slot.role == "scheduler":
            self._scheduler_ended(code)
        elif slot.is_retired:
            self._tell(slot, pid, final=True)
            self._say(f"{slot.name} gave its shards away and has ended")
        elif may_restart and slot.n_started <= self._spec.max_restarts:
            self._restart(slot, code, pid)
        else:
            self._tell(slot, pid, final=True)
            self._lost_for_good(slot, code)
        self._write_job_file()

    def _scheduler_ended(self, code: int) -> None:
        """Start the next one: the job is in its journal."""
        if self._address is None:
            self._scheduler_failed = True
            return
        now = time.monotonic()
        wait = self._place.seconds_until_restart(now - self._scheduler_since)
        self._scheduler_since = math.inf
        self._scheduler_until, self._scheduler_due = now, now + wait
        self._say(
            f"the scheduler {describe_exit(code)}; it is started again and goes on from its "
            "journal. Pushes and pulls go on meanwhile; who joins, waits or asks for chunks waits"
        )

    def _scheduler_is_ready(self) -> None:
        self._scheduler_since = time.monotonic()
        if self._scheduler_until:
            seconds = self._scheduler_since - self._scheduler_until
            self._say(f"the scheduler is back after {seconds:.2f} s")

    def _follow(self, status: dict[str, Any]) -> None:
        """Start and end servers as the scheduler wants, and save when it is time."""
        if self._ending or self._stop_signal is not None:
            return
        if self._checkpoints is not None and self._running("worker"):
            self._checkpoints.turn(status)
        retired = elastic.retired_boot_ids(status)
        servers = [slot for slot in self._slots if slot.role == "server"]
        scalings = int(status.get("servers_scaled", 0))
        if scalings > self._scalings_seen:
            self._scalings_seen = scalings
            for slot in servers:
                slot.is_free = slot.process is None
        places = [slot for slot in servers if not (slot.is_retired or slot.is_free)]
        for slot in places:
            if slot.process is not None and slot.boot_id in retired:
                slot.is_retired = True
                slot.process.signal_group(signal.SIGTERM)
        n_places = sum(not slot.is_retired for slot in places)
        for _ in range(elastic.n_servers_to_start(status, n_places, self._max_servers)):
            slot = self._add_server()
            self._say(f"{slot.name} is started: {status['servers_wanted']} are wanted")
            self._start(slot)

    def _restart(self, slot: Slot, code: int, pid: int) -> None:
        self._tell(slot, pid, final=False)
        what = "it is started again"
        if slot.role == "server":
            what = f"{self._loss()}; a new, empty one is started"
        self._say(
            f"{slot.name} {describe_exit(code)}; {what} "
            f"({slot.n_started} of {self._spec.max_restarts})"
        )
        self._start(slot)

    def _lost_for_good(self, slot: Slot, code: int) -> None:
        if slot.role == "server":
            self._server_lost = True
            self._say(f"{slot.name} {describe_exit(code)}; {self._loss()}")
            return
        if self._first_failure is None:
            self._first_failure = code
        self._say(f"{slot.name} {describe_exit(code)}")

    def _loss(self) -> str:
        status = None if self._notifier is None else self._notifier.status
        return elastic.loss_of_server(status, self._spec.replication)

    @property
    def _max_servers(self) -> int:
        return self._spec.max_servers or self._spec.num_servers

    def _tell(self, slot: Slot, pid: int, final: bool) -> None:
        """Tell the scheduler that a process ended."""
        if self._notifier is None:
            return
        rank = slot.rank if slot.role == "worker" else None
        self._notifier.tell(
            ProcessExited(slot.role, pid, slot.group or "", rank, final, slot.boot_id)
        )

    # Ending.

    def _end_all(self) -> None:
        """End what still runs: workers, then servers, then the scheduler."""
        self._save_last()
        self._ending = True
        self._end("worker", self._stop_signal or signal.SIGTERM, WORKER_GRACE_SECONDS)
        if self._checkpoints is not None:
            self._checkpoints.close()
        if self._notifier is not None and self._stop_signal is None and self._running("scheduler"):
            self._status = self._notifier.ask_status(STATUS_SECONDS)
        self._end("server", signal.SIGTERM, ROLE_GRACE_SECONDS)
        self._end("scheduler", signal.SIGTERM, ROLE_GRACE_SECONDS)
        if self._notifier is not None:
            self._notifier.close()
        if self._job_file is not None:
            self._job_file.remove()
        self._guardian.close()
        self._place.close()
        deadline = time.monotonic() + PIPE_GRACE_SECONDS
        while self._relay.n_open and time.monotonic() < deadline:
            self._relay.pump(TURN_SECONDS)
        self._relay.close()
        self._summarize()
        # The reader of a finished job's output may take its time; that of a stopped one may not.
        while not self._relay.flush(TURN_SECONDS) and self._stop_signal is None:
            pass

    def _save_last(self) -> None:
        """Let a save under way end, and save how the job ended, unless it failed.

        A job that SIGTERM stops is saved as it is, while its workers still run, if that takes no
        longer than `STOP_SAVE_SECONDS`.
        """
        checkpoints = self._checkpoints
        if checkpoints is None or checkpoints.failed or not self._workers_began:
            return  # a scheduler that is being restarted is waited for
        was_begun, until = False, math.inf
        while checkpoints.is_busy or not was_begun:
            if self._stop_signal not in (None, signal.SIGTERM) or self._kill_now:
                break
            if self._stop_signal is not None:
                until = min(until, time.monotonic() + STOP_SAVE_SECONDS)
            if time.monotonic() > until:
                self._say(f"no checkpoint was written within {STOP_SAVE_SECONDS:g} s of SIGTERM")
                break
            if not checkpoints.is_busy:
                was_begun = True
                if self._stop_signal is not None or self._first_failure is None:
                    checkpoints.save_last()
            self._turn()
        self._say_all(checkpoints.said())

    def _end(self, role: str, number: int, grace: float) -> None:
        deadline = time.monotonic() + grace
        for slot in self._slots:
            if slot.role == role and slot.process is not None:
                slot.process.signal_group(number)
        # Even SIGKILL may have to wait for a disk; when we end, the kernel sends it once more.
        while self._running(role) and time.monotonic() < deadline + ROLE_GRACE_SECONDS:
            if self._kill_now or time.monotonic() > deadline:
                for slot in self._slots:
                    if slot.role == role and slot.process is not None:
                        slot.process.signal_group(signal.SIGKILL)
            self._turn()

    def _running(self, role: str) -> bool:
        return any(slot.role == role and slot.process is not None for slot in self._slots)

    def _summarize(self) -> None:
        seconds = time.monotonic() - self._started
        for line in pace_lines(self._status or {}):
            self._say(line)
        codes = [slot.code for slot in self._slots if slot.role == "worker"]
        failed = sum(code != 0 for code in codes)
        self._say(
            f"{len(codes) - failed} of {len(codes)} workers succeeded, {seconds:.1f} s, exit code "
            f"{self._result().exit_code}"
        )

    def _result(self) -> JobResult:
        if self._stop_signal is not None:
            exit_code = 128 + self._stop_signal
        elif self._first_failure is not None:
            failure = self._first_failure
            exit_code = failure if failure > 0 else 128 - failure
        else:
            checkpoints = self._checkpoints
            has_failed = checkpoints is not None and (
                bool(checkpoints.failed) or checkpoints.last_failed
            )
            exit_code = 1 if self._scheduler_failed or has_failed or self._has_loss() else 0
        workers = {
            (slot.group or "", slot.rank): slot.code
            for slot in self._slots
            if slot.role == "worker" and slot.code is not None
        }
        groups = (self._status or {}).get("groups", [])
        return JobResult(exit_code, time.monotonic() - self._started, workers, groups)

    def _has_loss(self) -> bool:
        """Whether a server was lost for good that held the only copy of something."""
        if not self._server_lost:
            return False
        if self._spec.replication == 1 or self._status is None:
            return True
        return elastic.has_lost_shards(self._status)

    def _say_all(self, texts: list[str]) -> None:
        for text in texts:
            self._say(text)

    def _say(self, text: str) -> None:
        self._relay.say(f"fastps-launch: {text}")

    def _write_job_file(self) -> None:
        if self._job_file is None:
            return
        entries = [
            ProcessEntry(slot.role, slot.rank, slot.group, slot.process.pid, slot.address)
            for slot in self._slots
            if slot.process is not None
        ]
        try:
            self._job_file.write(self._address, entries)
        except OSError as error:
            self._say(f"the job file cannot be written: {error}")
            self._job_file = None
