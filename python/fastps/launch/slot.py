"""Places that processes of a job fill, one after another."""

from __future__ import annotations

from dataclasses import dataclass

from fastps.launch.process import ChildProcess

__all__ = ["Slot"]


@dataclass
class Slot:
    """A place that a process fills, and those that are started after it.

    Attributes
    ----------
    name : str
        For people: ``worker 0``.
    process : ChildProcess or None
        The running one.
    n_started : int
        So many have been started.
    code : int or None
        How the last one ended; negative: minus the signal.
    address : str or None
        Where the running one can be reached, once it is ready.
    boot_id : str
        Servers: of the running one, by which the scheduler knows it.
    is_retired : bool
        Servers: it gave its shards away, so its process ends and nobody takes its place.
    is_free : bool
        Servers: the last one ended for good, and a number of servers was asked for since: others
        make up that number.
    """

    role: str
    group: str | None
    rank: int
    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    process: ChildProcess | None = None
    n_started: int = 0
    code: int | None = None
    address: str | None = None
    boot_id: str = ""
    is_retired: bool = False
    is_free: bool = False
