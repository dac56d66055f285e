"""connect(): the way into a cluster, or to one of its own."""

from __future__ import annotations

import logging
import os
from functools import partial

from fastps import _core, _libzmq
from fastps.arguments import checked_address, checked_count, checked_seconds, checked_text
from fastps.client import Client, join_embedded
from fastps.config import RANK_MAX, Settings
from fastps.control import SocketControl, new_boot_id
from fastps.embedded import EmbeddedCluster
from fastps.errors import ConfigError
from fastps.life import Entry
from fastps.lives import Lives
from fastps.scheduler import messages as m

__all__ = ["connect"]

logger = logging.getLogger("fastps")


def connect(
    *,
    address: str | None = None,
    group: str | None = None,
    rank: int | None = None,
    embedded: bool = False,
    num_servers: int = 1,
    num_workers: int = 1,
    require_cluster: bool = False,
    timeout: float | None = None,
) -> Client:
    """Join a cluster; without one, start an embedded one inside this process.

    Under ``fastps-launch``, or with FASTPS_SCHEDULER set, or with an `address`, this joins that
    cluster. Otherwise it makes a cluster of its own in this process, with the same API and meaning,
    and logs one INFO line that says so.

    Parameters
    ----------
    address : str, optional
        The scheduler's, for example ``tcp://10.0.0.1:5000``. None: FASTPS_SCHEDULER.
    group : str, optional
        The worker group. None: FASTPS_GROUP, else ``default``.
    rank : int, optional
        This worker's rank. None: FASTPS_RANK, else the lowest free one of the group. A rank whose
        worker is at work is refused; one whose process is gone is free when the launcher, or the
        end of its lease (10 s), says so, for which this waits.
    embedded : bool, default False
        Make an embedded cluster even where a scheduler's address is known.
    num_servers, num_workers : int, default 1
        Of the embedded cluster. Its other workers: ``client.worker(rank)``.
    require_cluster : bool, default False
        Raise instead of starting an embedded cluster.
    timeout : float, optional
        Seconds; None: FASTPS_TIMEOUT.

    Returns
    -------
    Client

    Raises
    ------
    ConfigError
        The arguments contradict each other, `require_cluster` is set and no address is known, or
        libzmq is missing, or another process is at work under the rank.
    FastPSTimeoutError
        The scheduler does not answer.

    Examples
    --------
    >>> import fastps
    >>> with fastps.connect(embedded=True) as client:
    ...     client.rank, client.num_workers
    (0, 1)
    """
    settings = Settings.from_environment()
    if settings.kernels is not None:
        _core.force_kernels(settings.kernels)
    if embedded and (address is not None or require_cluster):
        raise ConfigError("embedded=True contradicts address= and require_cluster=True; give one")
    seconds = checked_seconds("timeout", settings.timeout if timeout is None else timeout)
    name = checked_text(*(("FASTPS_GROUP", settings.group) if group is None else ("group", group)))
    if rank is not None:
        rank = checked_count("rank", rank, 0, RANK_MAX)
    if address is not None:
        address = checked_address("address", address)
    elif not embedded and settings.scheduler is not None:
        address = checked_address("FASTPS_SCHEDULER", settings.scheduler)
    if address is None:
        if require_cluster:
            raise ConfigError(
                "require_cluster=True, but there is no cluster: start the script with "
                "fastps-launch, set FASTPS_SCHEDULER, or give address="
            )
        logger.info(
            "fastps: embedded cluster in this process (%d server(s)); start the script with "
            "fastps-launch for a real one",
            num_servers,
        )
        cluster = EmbeddedCluster(num_servers, num_workers)
        return join_embedded(cluster, settings, rank, name, seconds)
    if (num_servers, num_workers) != (1, 1):
        raise ConfigError(
            f"num_servers={num_servers}, num_workers={num_workers} are for embedded=True; the "
            f"cluster at {address} has its own"
        )
    _libzmq.load()
    control = SocketControl(address)
    join = partial(_join, control, name)
    try:
        entry = join(settings.rank if rank is None else rank, 0, seconds)
    except BaseException:
        control.close()
        raise
    return Client(Lives(control, join, entry, name, settings), name, settings)


def _join(
    control: SocketControl, group: str, rank: int | None, former: int, seconds: float
) -> Entry:
    """Begin a session."""
    boot_id = new_boot_id()
    joined, blob = control.call(m.Join(group, rank, os.getpid(), boot_id.hex(), former), seconds)
    assert blob is not None
    core = _core.Client(joined.session, boot_id, joined.clock, blob, control.address)
    return Entry(joined, core, blob)
