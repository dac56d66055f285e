"""Settings from the environment: the only module of fastps that reads environment variables.

=======================  =======  ==================================================================
Variable                 Default  Meaning
=======================  =======  ==================================================================
``FASTPS_SCHEDULER``     none     address of the cluster's scheduler; none: an embedded cluster
``FASTPS_RANK``          none     this worker's rank in its group; none: the lowest free one
``FASTPS_NUM_WORKERS``   none     how many workers of this group were launched
``FASTPS_GROUP``         default  the worker group
``FASTPS_TIMEOUT``       60       seconds that a call may take; ``inf`` is legal
``FASTPS_GATE_TIMEOUT``  600      seconds to wait for other workers; ``inf`` is legal
``FASTPS_LIBZMQ``        none     path of the libzmq to use
``FASTPS_KERNELS``       none     kernel set to use: see ``fastps doctor``
``FASTPS_LOG``           info     what the command line tools log: debug, info, warning or error
=======================  =======  ==================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from fastps.errors import ConfigError

__all__ = ["DEFAULT_GROUP", "RANK_MAX", "Settings", "child_environment"]

DEFAULT_GROUP = "default"
LOG_LEVELS = ("debug", "info", "warning", "error")
# A rank travels as u64, but ranks index tables of workers: a typing error must not fill memory.
RANK_MAX = (1 << 20) - 1


@dataclass(frozen=True)
class Settings:
    """What the environment says, checked.

    Attributes
    ----------
    scheduler : str or None
        Address of the scheduler, for example ``tcp://127.0.0.1:5000``.
    rank, num_workers : int or None
        Set by the launcher.
    group : str
        The worker group.
    timeout, gate_timeout : float
        Seconds, more than 0; may be ``math.inf``.
    libzmq, kernels : str or None
        Forced choices; None: found by themselves.
    log : str
        One of debug, info, warning, error.
    """

    scheduler: str | None = None
    rank: int | None = None
    num_workers: int | None = None
    group: str = DEFAULT_GROUP
    timeout: float = 60.0
    gate_timeout: float = 600.0
    libzmq: str | None = None
    kernels: str | None = None
    log: str = "info"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Parameters
        ----------
        environment : mapping of str to str, optional
            Read instead of the process environment.

        Raises
        ------
        ConfigError
            A variable has a value that cannot be used; the message says which and what is needed.
            An empty value counts as not set.
        """
        source = os.environ if environment is None else environment
        given = {name: value.strip() for name, value in source.items() if name[:7] == "FASTPS_"}
        given = {name: value for name, value in given.items() if value}
        num_workers = _whole_number(given, "FASTPS_NUM_WORKERS", 1, RANK_MAX + 1)
        log = given.get("FASTPS_LOG", "info").lower()
        if log not in LOG_LEVELS:
            raise ConfigError(f"FASTPS_LOG is {log!r}; use one of {', '.join(LOG_LEVELS)}")
        scheduler = given.get("FASTPS_SCHEDULER")
        if scheduler is not None and not scheduler.startswith(("tcp://", "ipc://")):
            raise ConfigError(
                f"FASTPS_SCHEDULER is {scheduler!r}; use an address such as tcp://127.0.0.1:5000"
            )
        return cls(
            scheduler=scheduler,
            rank=_whole_number(given, "FASTPS_RANK", 0, RANK_MAX),
            num_workers=num_workers,
            group=given.get("FASTPS_GROUP", DEFAULT_GROUP),
            timeout=_seconds(given, "FASTPS_TIMEOUT", 60.0),
            gate_timeout=_seconds(given, "FASTPS_GATE_TIMEOUT", 600.0),
            libzmq=given.get("FASTPS_LIBZMQ"),
            kernels=given.get("FASTPS_KERNELS"),
            log=log,
        )


def child_environment(
    updates: Mapping[str, str], defaults: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a child process of the launcher.

    Parameters
    ----------
    updates : mapping of str to str
        Set in any case.
    defaults : mapping of str to str, optional
        Set where this process's environment has no such variable.

    Returns
    -------
    dict
        A copy of the environment without the variables that tell a worker its place (they are of
        this process, not of the child), with `defaults` and `updates`.
    """
    place = ("FASTPS_SCHEDULER", "FASTPS_RANK", "FASTPS_NUM_WORKERS", "FASTPS_GROUP")
    environment = {name: value for name, value in os.environ.items() if name not in place}
    return {**(defaults or {}), **environment, **updates}


def _whole_number(given: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise ConfigError(f"{name} is {text!r}; use a whole number from {least} to {most}")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise ConfigError(f"{name} is {text!r}; use seconds, a number above 0 (inf is legal)")
    return value
