"""What the launcher makes of a job's status, and how its words reach a scheduler that died."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from fastps.launch.elastic import (
    has_lost_shards,
    loss_of_server,
    n_servers_to_start,
    retired_boot_ids,
)
from fastps.launch.notifier import Notifier
from fastps.launch.scheduler_place import SchedulerPlace
from fastps.scheduler import messages as m


def _status(wanted: int = 2, **copies: int) -> dict[str, Any]:
    tables = [{"name": name, "replication": k, "lost_shards": 0} for name, k in copies.items()]
    return {"servers_wanted": wanted, "servers": [], "tables": tables}


@pytest.mark.parametrize(
    ("wanted", "there", "most", "start"), [(2, 2, 4, 0), (4, 2, 4, 2), (9, 2, 4, 2), (1, 2, 4, 0)]
)
def test_servers_are_started_up_to_the_most(wanted, there, most, start) -> None:
    assert n_servers_to_start(_status(wanted), there, most) == start


def test_only_retired_servers_are_ended() -> None:
    states = ["alive", "leaving", "retired", "lost (exit)", "suspect"]
    status = {
        "servers": [{"state": state, "boot_id": f"{n:032x}"} for n, state in enumerate(states)]
    }
    assert retired_boot_ids(status) == {f"{2:032x}"}


def test_what_is_said_of_a_lost_server() -> None:
    served, lost = "its shards are served by their other copies", "its shards are lost"
    assert loss_of_server(None, 1) == loss_of_server(_status(), 1) == lost
    assert loss_of_server(None, 2) == loss_of_server(_status(), 2) == served
    assert loss_of_server(_status(a=1, b=1), 2) == lost
    assert loss_of_server(_status(a=3, b=2), 1) == served
    mixed = loss_of_server(_status(a=2, b=1, c=1, d=1, e=1), 2)
    assert "with one copy are lost ('b', 'c', 'd' and 1 more)" in mixed
    assert mixed.endswith("served by their other copies")


def test_lost_shards() -> None:
    status = _status(a=1, b=2)
    assert not has_lost_shards(status)
    status["tables"][0]["lost_shards"] = 3
    assert has_lost_shards(status)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def _router(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    deadline = time.monotonic() + 5
    while True:
        try:
            router.bind(address)
            return router
        except zmq.ZMQError:  # a socket closed within this process goes a little later
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _turn_until(notifier: Notifier, router: zmq.Socket[bytes], n: int) -> list[Any]:
    """Let the notifier work until the router has so many words of ended processes."""
    got: list[Any] = []
    deadline = time.monotonic() + 10
    while len(got) < n:
        assert time.monotonic() < deadline, got
        notifier.turn()
        while router.poll(20):
            peer, data = router.recv_multipart()
            envelope = m.decode(data)
            if isinstance(envelope.message, m.ProcessExited):
                got.append((peer, envelope))
    return got


def test_words_that_a_scheduler_took_along_are_said_again_to_the_next(context) -> None:
    place = SchedulerPlace(None)
    router = _router(context, place.address)
    notifier = Notifier(place.address)
    words = [m.ProcessExited("worker", pid, "default", 0, True) for pid in (1, 2)]
    for word in words:
        notifier.tell(word)
    first = _turn_until(notifier, router, 2)
    peer, envelope = first[0]
    router.send_multipart([peer, m.encode(m.Envelope(envelope.request, 5, m.Done()))])
    deadline = time.monotonic() + 5
    while len(notifier._unanswered) == 2 and time.monotonic() < deadline:
        notifier.turn()
        time.sleep(0.01)
    router.close()  # it dies with the second
    router = _router(context, place.address)
    again = _turn_until(notifier, router, 1)
    assert [each.message for _, each in again] == words[1:]
    router.close()
    notifier.close()
    place.close()


def test_a_port_is_kept_while_nobody_listens_there(context) -> None:
    place = SchedulerPlace(None)
    folder = place.folder
    assert folder is not None
    assert folder.is_dir()
    for _ in range(2):
        router = _router(context, place.address)
        client = context.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        client.connect(place.address)
        client.send(b"x")
        assert router.poll(5000)
        router.close()
        client.close()
    place.close()
    place.close()
    assert not folder.exists()


def test_a_scheduler_that_ends_at_once_is_not_started_over_and_over() -> None:
    place = SchedulerPlace(None)
    waits = [place.seconds_until_restart(0.1) for _ in range(8)]
    assert waits == sorted(waits)
    assert (waits[0] < 1, waits[-1]) == (True, 5.0)
    assert place.seconds_until_restart(60.0) == 0.0
    assert place.seconds_until_restart(0.1) < 1
    place.close()
