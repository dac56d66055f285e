"""Workers that train known states, and of which the first saves when the test says so.

What becomes of saves is in a log of lines, which outlives who writes it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import fastps
from fastps import errors
from jobs import Worker
from known_states import States, Tables

POLL_SECONDS = 0.004
RESTORE_SECONDS = 60.0
STEP_SECONDS_MAX = 0.008  # of work beside the pushes
# What a save may end with when something died. Anything else is a fault.
EXPECTED = (errors.CheckpointError, errors.EpochChangedError, errors.ServerLostError)


class Log:
    """Lines of JSON, one an event. Who reads sees whole lines only."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "saves"

    def say(self, event: str, **more: Any) -> None:
        line = json.dumps({"event": event, "time": time.monotonic(), **more})
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{line}\n".encode())
        os.close(file)

    def lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_bytes().splitlines()]

    def of(self, number: int) -> dict[str, dict[str, Any]]:
        """What was said of one save, by event."""
        return {each["event"]: each for each in self.lines() if each.get("n") == number}


def run(worker: Worker) -> int:
    """Train until the test says "stop"; return the last clock.

    Arguments of the worker: uri (of the checkpoints).
    """
    uri, log = worker.arguments["uri"], Log(worker.folder)
    random_ = random.Random(worker.rank)
    with fastps.connect(timeout=60) as client:
        tables = Tables(client)
        if worker.rank == 0:
            _check(tables, log)
            saver = threading.Thread(target=_save_when_told, args=(worker, client, log))
            saver.start()
        while not worker.said("stop"):
            try:
                tables.step()
            except errors.EpochChangedError:
                continue
            except (errors.ServerLostError, errors.CheckpointError) as error:
                # Whoever is told: the other one may wait for this one's step.
                _restore(client, uri, log, str(error))
            time.sleep(random_.uniform(0, STEP_SECONDS_MAX))
        if worker.rank == 0:
            saver.join()
        return client.clock_value


def _check(tables: Tables, log: Log) -> None:
    """Require that a worker that joins finds the state of its clock, also after a resume."""
    states = States()
    try:
        clock = tables.client.clock_value
        log.say("joined", clock=clock, pid=os.getpid(), wrong=tables.wrong(states))
    finally:
        states.close()


def _save_when_told(worker: Worker, client: fastps.Client, log: Log) -> None:
    """Save as often as the number says that the test gives; every third is an increment."""
    begun = max([each["n"] for each in log.lines() if each["event"] == "begin"], default=0)
    uri = worker.arguments["uri"]
    while not worker.said("stop"):
        if not worker.said(f"save-{begun + 1}"):
            time.sleep(POLL_SECONDS)
            continue
        begun += 1
        incremental = begun % 3 == 0
        log.say("begin", n=begun)
        try:
            if begun % 4 == 1:
                tag = client.save_async(uri, incremental=incremental, timeout=60).result(60)
            else:
                tag = client.save(uri, incremental=incremental, timeout=60)
        except EXPECTED as error:
            log.say("failed", n=begun, why=f"{type(error).__name__}: {error}")
        except BaseException as error:
            log.say("fault", n=begun, why=f"{type(error).__name__}: {error}")
            raise
        else:
            log.say("done", n=begun, tag=tag)


def _restore(client: fastps.Client, uri: str, log: Log, why: str) -> None:
    """Go back to the newest checkpoint: the only copies of some rows are gone."""
    deadline = time.monotonic() + RESTORE_SECONDS
    log.say("restoring", why=why)
    while True:
        try:
            tag = client.restore(uri, timeout=RESTORE_SECONDS)
        except errors.EpochChangedError:
            return  # the other one did
        except errors.CheckpointError as error:
            log.say("not restored", why=str(error))
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            log.say("restored", tag=tag, why=why)
            return
