"""Real clusters under kill -9, pauses, hostile bytes and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import errors
from jobs import Worker, is_running, paused, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90, method="signal")]


# kill -9 of a server in mid-push.


def push_until_an_error(worker: Worker) -> dict[str, Any]:
    client = fastps.connect(timeout=30)
    table = client.sparse_table("t", row_shape=(8,))
    keys = np.arange(2000, dtype=np.uint64)
    ones = np.ones((2000, 8), np.float32)
    for step in range(1_000_000):
        try:
            if worker.arguments["wait"]:
                table.push(keys, ones, timeout=20)
            else:
                for _ in range(5):
                    table.push_async(keys, ones)
                client.flush(timeout=20)
        except errors.ServerLostError as error:
            lost = error
            break
        if step == 3:
            worker.say(f"pushing-{worker.rank}")
    after = {}
    for key in range(60):  # each of the shards, lost ones and others
        try:
            row = table.pull([key], timeout=10)
            assert row.min() == row.max()
            after[key] = float(row[0, 0])
        except errors.ServerLostError as error:
            after[key] = "lost" if set(error.shards) <= set(lost.shards) else str(error)
    outcomes = {}
    calls = {
        "push": lambda: table.push(keys, ones, timeout=10),
        "pull": lambda: table.pull(keys, timeout=10),
        "pull_async": lambda: table.pull_async(keys).result(timeout=10),
        "push_async": lambda: table.push_async(keys, ones).result(timeout=10),
        "assign": lambda: table.assign(keys, ones, timeout=10),
        "contains": lambda: table.contains(keys, timeout=10),
        "remove": lambda: table.remove(keys, timeout=10),
        "len": lambda: len(table),
        "items": lambda: list(table.items()),
    }
    for name, call in calls.items():
        try:
            call()
            outcomes[name] = "no error"
        except errors.ServerLostError:
            outcomes[name] = "lost"
        except Exception as error:
            outcomes[name] = repr(error)
    with contextlib.suppress(errors.ServerLostError):
        client.flush(timeout=10)  # may tell of the un-awaited one
    client.flush(timeout=10)  # told once
    client.barrier(timeout=30)  # all workers are still there
    client.close()
    return {
        "servers": lost.servers,
        "table": lost.table,
        "shards": lost.shards,
        "steps": step,
        "after": after,
        "outcomes": outcomes,
        "message": str(lost),
    }


@pytest.mark.parametrize("wait", [True, False])
def test_kill_9_of_a_server_in_mid_push_is_told_to_every_worker(cluster, wait) -> None:
    job = cluster(push_until_an_error, servers=2, workers=3, wait=wait)
    for rank in range(3):
        job.wait_for(f"pushing-{rank}")
    victim = job.pids("server")[1]
    os.kill(victim, signal.SIGKILL)
    results = [job.wait_for(f"result-default-{rank}") for rank in range(3)]
    assert job.wait() == 1, job.err  # only a server was lost for good
    for result in results:
        assert len(result["servers"]) == 1
        assert result["servers"] == results[0]["servers"]
        assert result["table"] == "t"
        assert result["shards"]
        assert list(result["shards"]) == sorted(result["shards"])
        assert "lost" in result["after"].values()
        assert any(value != "lost" for value in result["after"].values())
        assert set(result["outcomes"].values()) == {"lost"}, result["outcomes"]
    # What the living server holds was applied for all workers alike.
    assert results[0]["after"].keys() == results[1]["after"].keys()


def unawaited(worker: Worker) -> list[Any]:
    client = fastps.connect(timeout=30)
    table = client.sparse_table("t")
    keys = np.arange(500, dtype=np.uint64)
    table.push(keys, np.ones(500))
    worker.say("ready")
    worker.wait_for("killed")
    found = []
    for name in worker.arguments["names"]:
        future = table.push_async(keys, np.ones(500))
        try:
            getattr(client, name)()
            found.append("no error")
        except errors.ServerLostError as error:
            found.append((error.servers, error.table, bool(error.shards)))
        assert isinstance(future.exception(timeout=5), errors.ServerLostError)
    return found


@pytest.mark.parametrize(
    "names",
    [["flush"], ["clock"], ["close"], ["flush", "flush"], ["flush", "clock"], ["clock", "close"]],
    ids=str,
)
def test_a_push_nobody_waited_for_that_fails_surfaces(cluster, names) -> None:
    """An un-awaited push that fails surfaces at flush(), clock() or close(): each one."""
    job = cluster(unawaited, names=names)
    job.wait_for("ready")
    os.kill(job.pids("server")[0], signal.SIGKILL)
    job.say("killed")
    found = job.wait_for("result-default-0")
    assert found == [((0,), "t", True)] * len(names)
    assert job.wait() == 1


# kill -9 of a worker.


def work_on_chunks(worker: Worker) -> list[int]:
    client = fastps.connect(timeout=30)
    table = client.sparse_table("t")
    got = []
    for item in client.chunks(range(30), timeout=60):
        if worker.rank == 1 and len(got) == 2:
            worker.say("holding", item)
            time.sleep(60)
        table.push([item], [1.0])
        got.append(item)
        if worker.rank != 1:
            worker.wait_for("holding")
    client.barrier(timeout=60)
    values = table.pull(range(30))
    assert values.min() >= 1
    return got


def test_kill_9_of_a_worker_and_the_others_finish_its_work(cluster) -> None:
    job = cluster(work_on_chunks, servers=2, workers=3)
    held = job.wait_for("holding")
    os.kill(job.pids("worker")[1], signal.SIGKILL)
    done = [job.wait_for(f"result-default-{rank}") for rank in (0, 2)]
    assert job.wait() == 128 + signal.SIGKILL, job.err
    items = sorted(done[0] + done[1])
    assert held in items
    assert len(set(items)) == len(items)
    assert len(items) == 28


def die_in_a_barrier(worker: Worker) -> bool:
    client = fastps.connect(timeout=30)
    if worker.rank == 0:
        worker.say("alone")
        time.sleep(60)
    client.barrier(timeout=60)
    return True


def test_a_killed_worker_is_not_waited_for_at_a_barrier(cluster) -> None:
    job = cluster(die_in_a_barrier, workers=3)
    job.wait_for("alone")
    os.kill(job.pids("worker")[0], signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL
    assert job.wait_for("result-default-1")
    assert job.wait_for("result-default-2")


def push_and_die(worker: Worker) -> float:
    client = fastps.connect(timeout=30)
    table = client.sparse_table("t")
    if worker.rank == 0:
        for step in range(1_000_000):
            table.push(range(100), np.ones(100))
            worker.say("acknowledged", step + 1)
    until(lambda: worker.said("dead"))
    client.barrier(timeout=60)
    values = table.pull(range(100))
    assert values.min() == values.max() or values.min() + 1 == values.max()
    return float(values.min())


def test_what_a_killed_worker_had_acknowledged_stays(cluster) -> None:
    job = cluster(push_and_die, servers=2, workers=2)
    until(lambda: job.wait_for("acknowledged") >= 20)
    os.kill(job.pids("worker")[0], signal.SIGKILL)
    acknowledged = job.wait_for("acknowledged")
    job.say("dead")
    value = job.wait_for("result-default-1")
    assert acknowledged <= value <= acknowledged + 2  # one unknown, one not yet said
    assert job.wait() == 128 + signal.SIGKILL


# kill -9 of the launcher.


def push_for_ever(worker: Worker) -> None:
    client = fastps.connect()
    table = client.sparse_table("t")
    worker.say(f"busy-{worker.rank}")
    while True:
        table.push(range(1000), np.ones(1000))


def wait_for_ever(worker: Worker) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = fastps.connect()
    worker.say(f"busy-{worker.rank}")
    if worker.rank == 0:
        client.barrier()
    time.sleep(600)


@pytest.mark.parametrize("work", [push_for_ever, wait_for_ever])
def test_kill_9_of_the_launcher_leaves_nothing_running(cluster, work) -> None:
    job = cluster(work, servers=2, workers=2)
    for rank in range(2):
        job.wait_for(f"busy-{rank}")
    pids = job.alive()
    assert len(pids) >= 6  # 2 servers, 2 workers, the scheduler, the launcher
    job.launcher.kill()
    job.launcher.wait()
    until(lambda: not any(is_running(pid) for pid in pids), 10, "all processes end")
    assert not job.alive()


# Pauses.


def push_exactly(worker: Worker) -> int:
    client = fastps.connect(timeout=60)
    table = client.sparse_table("t", row_shape=(4,))
    keys, ones = np.arange(3000), np.ones((3000, 4))
    steps = 0
    while not worker.said("enough"):
        for _ in range(4):
            table.push_async(keys, ones)
        table.push(keys, ones)
        steps += 5
        worker.say(f"steps-{worker.rank}", steps)
    client.flush()
    client.barrier()
    values = table.pull(keys)
    assert values.min() == values.max()
    return int(values.max()), steps


def test_a_paused_server_loses_nothing_and_doubles_nothing(cluster) -> None:
    """S2: it is applied exactly once per (session, shard, seq): through retries."""
    job = cluster(push_exactly, servers=2, workers=2, data_threads=2)
    servers = []
    for victim in (0, 1, 0):
        for rank in range(2):
            start = job.wait_for(f"steps-{rank}")
            until(lambda r=rank, s=start: job.wait_for(f"steps-{r}") > s + 10)
        servers = job.pids("server")
        with paused(servers[victim]):
            time.sleep(1.3)  # the pause itself
    job.say("enough")
    results = job.results()
    total = sum(steps for _, steps in results)
    assert [value for value, _ in results] == [total, total]


def test_a_timed_out_push_is_settled_by_flush_and_applied_once(cluster) -> None:
    """`timeout` ends the call, not the push: it is retried until acknowledged."""
    job = cluster(servers=1)
    with fastps.connect(address=job.scheduler, group="tests", timeout=30) as client:
        table = client.sparse_table("t")
        keys = np.arange(1000)
        table.push(keys, np.ones(1000))
        with paused(job.pids("server")[0]):
            with pytest.raises(errors.FastPSTimeoutError):
                table.pull(keys, timeout=0.3)
            with pytest.raises(errors.FastPSTimeoutError):
                table.push(keys, np.ones(1000), timeout=0.5)
            with pytest.raises(errors.FastPSTimeoutError):
                client.flush(timeout=0.3)
            future = table.pull_async(keys)
            with pytest.raises(TimeoutError):
                future.result(timeout=0.2)
            assert not future.done()
            late = table.push_async(keys, np.full(1000, 10.0))
        client.flush(timeout=30)
        assert late.result(timeout=20) is None
        assert np.all(table.pull(keys) == 12)
        assert set(future.result(timeout=20).tolist()) <= {1.0, 2.0, 12.0}


# Hostile bytes.


def addresses(job) -> list[tuple[str, int]]:
    found = [job.scheduler]
    for server in job.processes("server"):
        address = server["address"]
        found += address if isinstance(address, list) else address.replace(",", " ").split()
    result = []
    for each in found:
        host, _, port = each.removeprefix("tcp://").rpartition(":")
        result.append((host, int(port)))
    return result


GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
READY = (
    b"\x05READY\x0bSocket-Type"
    + struct.pack(">I", 6)
    + b"DEALER"
    + b"\x08Identity"
    + struct.pack(">I", 0)
)


def zmtp_frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def hostile_streams(random: np.random.Generator) -> list[bytes]:
    hello = GREETING + zmtp_frame(READY, 4)
    huge = bytes([2]) + struct.pack(">Q", 2**62) + b"x" * 100
    return [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        random.bytes(10_000),
        GREETING[:20],
        GREETING + random.bytes(2000),
        hello + huge,
        hello + bytes([2]) + struct.pack(">Q", 2**31) + b"y" * 5000,
        hello + zmtp_frame(b"", 1) * 5000 + zmtp_frame(b""),
        hello + b"".join(zmtp_frame(random.bytes(50), 1) for _ in range(200)),
        hello + zmtp_frame(random.bytes(100_000)) * 3,
        hello + zmtp_frame(b"\x04PING" + random.bytes(3000), 4),
    ]


MESSAGES: list[bytes] = [
    b"",
    b"\0",
    b"null",
    b"[]",
    b"{}",
    b'{"type": "Join"}',
    b'{"type": "Join", "request": -1, "group": 5, "rank": "x", "pid": 1e400, "boot_id": ""}',
    b'{"type": "Join", "request": 1, "group": "\\ud800", "rank": 0, "pid": 1, "boot_id": "00"}',
    b'{"type": "Leave", "request": 1, "session": 1}',
    b'{"type": "Clock", "request": 1, "session": 1, "clock": 18446744073709551615}',
    b'{"type": "Barrier", "request": 1, "session": 99999, "number": 0}',
    b'{"type": "CreateTable", "request": 1, "session": 1, "definition": {}}',
    b'{"type": "RegisterServer", "request": 1, "boot_id": "zz", "endpoints": [1], "pid": -5}',
    b'{"request": 1, "type": "NextChunk", "session": 1, "pass_number": -1, "n_items": 1e9}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 100_000,
    b"\xff\xfe" * 500,
    b"FPH1",
    b"FPH1" + b"\0" * 60,
    b"FPH1" + b"\xff" * 200,
    b"FPM1",
    b"FPM1" + b"\xff" * 1000,
]


def hostile_messages(random: np.random.Generator) -> list[list[bytes]]:
    messages = [[message] for message in MESSAGES]
    messages += [[message, random.bytes(300)] for message in MESSAGES]
    messages += [[b"", message] for message in MESSAGES]
    messages += [[random.bytes(int(random.integers(0, 3000)))] for _ in range(300)]
    messages += [[bytes(4)] * 300, [b"x"] * 50]
    for message in MESSAGES * 5:
        mutated = bytearray(message or b"x")
        mutated[int(random.integers(len(mutated)))] = int(random.integers(256))
        messages.append([bytes(mutated[: 1 + int(random.integers(len(mutated)))])])
    return messages


def assert_works(client, name: str) -> None:
    table = client.sparse_table(name, row_shape=(3,))
    dense = client.dense_table(name + " dense", shape=(10,))
    for _ in range(3):
        table.push(range(500), np.ones((500, 3)))
        dense.push(np.ones(10))
    assert np.all(table.pull(range(500)) == 3)
    assert np.all(dense.pull() == 3)
    assert len(table) == 500
    client.barrier(timeout=30)


def test_hostile_bytes_over_tcp_do_not_stop_the_cluster(cluster) -> None:
    job = cluster(servers=2, data_threads=2)
    random = np.random.default_rng(1)
    with fastps.connect(address=job.scheduler, group="tests", timeout=30) as client:
        assert_works(client, "before")
        pids = job.alive()
        sockets = []
        for address in addresses(job):
            for stream in hostile_streams(random):
                connection = socket.create_connection(address, timeout=10)
                sockets.append(connection)
                with contextlib.suppress(ConnectionError, TimeoutError):  # it had enough
                    connection.sendall(stream)
        assert_works(client, "with the connections open")
        for connection in sockets:
            connection.close()
        assert_works(client, "after")
        with fastps.connect(address=job.scheduler, group="more", timeout=30) as newcomer:
            assert_works(newcomer, "newcomer")
        assert set(pids) <= set(job.alive())


def valid_frames(job) -> list[bytes]:
    """Frames as a real client sends them: taken by a listener in place of a scheduler."""
    zmq = pytest.importorskip("zmq")
    taken: list[bytes] = []
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def connect() -> None:
            with contextlib.suppress(errors.FastPSError):
                fastps.connect(address=f"tcp://127.0.0.1:{port}", group="lost", timeout=1)

        thread = threading.Thread(target=connect)
        thread.start()
        while thread.is_alive():
            if router.poll(100):
                taken += router.recv_multipart()[1:]
        thread.join()
    return [frame for frame in taken if frame]


def test_hostile_messages_over_zeromq_do_not_stop_the_cluster(cluster) -> None:
    zmq = pytest.importorskip("zmq")
    job = cluster(servers=2, data_threads=2)
    random = np.random.default_rng(2)
    with fastps.connect(address=job.scheduler, group="tests", timeout=30) as client:
        assert_works(client, "before")
        pids = job.alive()
        real = valid_frames(job)
        assert real
        messages = hostile_messages(random)
        for frame in real * 40:
            mutated = bytearray(frame)
            for _ in range(int(random.integers(1, 4))):
                mutated[int(random.integers(len(mutated)))] ^= 1 << int(random.integers(8))
            messages.append([bytes(mutated)])
            messages.append([bytes(mutated[: int(random.integers(len(mutated)))])])
        with zmq.Context() as context:
            for host, port in addresses(job):
                with context.socket(zmq.DEALER) as dealer:
                    dealer.linger = 2000
                    dealer.connect(f"tcp://{host}:{port}")
                    for message in messages:
                        dealer.send_multipart(message)
                        while dealer.poll(0):
                            dealer.recv_multipart()
                    assert_works(client, f"during {port}")
            for kind in (zmq.REQ, zmq.SUB, zmq.PUSH, zmq.ROUTER, zmq.PAIR):
                for host, port in addresses(job):
                    with context.socket(kind) as stranger:
                        stranger.linger = 0
                        stranger.connect(f"tcp://{host}:{port}")
                        if kind == zmq.REQ:
                            stranger.send(b"hello")
        assert_works(client, "after")
        with fastps.connect(address=job.scheduler, group="more", timeout=30) as newcomer:
            assert_works(newcomer, "newcomer")
        assert set(pids) <= set(job.alive())


# Ctrl-C.


def be_interrupted(worker: Worker) -> dict[str, Any]:
    client = fastps.connect()
    table = client.sparse_table("t")
    table.push(range(100), np.ones(100))
    if worker.rank == 1:
        iterator = iter(client.chunks([0]))
        next(iterator)
        worker.say("has the item")
        worker.wait_for("finished")
        return {}
    worker.wait_for("has the item")
    calls = {
        "barrier": client.barrier,
        "chunks": lambda: list(client.chunks([0])),
        "pull": lambda: table.pull(range(100)),
        "push": lambda: table.push(range(100), np.ones(100)),
        "future": lambda: table.pull_async(range(100)).result(),
        "flush": lambda: (table.push_async(range(9), np.ones(9)), client.flush()),
        "len": lambda: len(table),
        "assign": lambda: table.assign(range(100), np.ones(100)),
    }
    ended = {}
    for name in worker.arguments["calls"]:
        worker.wait_for(f"start-{name}")
        worker.say(f"in-{name}")
        try:
            calls[name]()
            ended[name] = "returned"
        except KeyboardInterrupt:
            ended[name] = time.monotonic()
        except errors.FastPSError as error:
            ended[name] = repr(error)
        worker.say(f"out-{name}", ended[name])
    return ended


def test_ctrl_c_ends_any_call(cluster) -> None:
    waiting, stopped = ["barrier", "chunks"], ["pull", "push", "future", "flush", "len", "assign"]
    job = cluster(be_interrupted, workers=2, calls=waiting + stopped)
    job.wait_for("has the item")
    worker, server = job.pids("worker")[0], job.pids("server")[0]
    seconds = {}
    for name in waiting + stopped:
        with paused(server) if name in stopped else contextlib.nullcontext():
            job.say(f"start-{name}")
            job.wait_for(f"in-{name}")
            time.sleep(0.3)  # time to block
            sent = time.monotonic()
            os.kill(worker, signal.SIGINT)
            ended = job.wait_for(f"out-{name}", 20)
        assert isinstance(ended, float), (name, ended)
        seconds[name] = ended - sent
    job.say("finished")
    # Promised is 0.5 s; the rest is for a busy machine. A call that does not listen takes 60 s.
    assert max(seconds.values()) < 2, seconds
    assert job.wait() == 0, job.err


# A worker that slept through its lease.


def sleep_through_the_lease(worker: Worker) -> Any:
    client = fastps.connect(timeout=20)
    table = client.sparse_table("t")
    if worker.rank == 0:
        table.push([1], [1.0])
        worker.say("ready")
        worker.wait_for("wake")
        found: dict[str, str] = {}
        calls: dict[str, Callable[[], Any]] = {
            "push": lambda: table.push([1], [1.0]),
            "pull": lambda: table.pull([1]),
            "clock": client.clock,
            "barrier": lambda: client.barrier(timeout=10),
        }
        for name, call in calls.items():
            try:
                found[name] = f"returned {call()}"
            except errors.FastPSError as error:
                found[name] = type(error).__name__
        return found
    worker.wait_for("ready")
    client.barrier(timeout=60)  # opens when the other one is evicted
    worker.say("alone")
    worker.wait_for("result-default-0")
    return float(table.pull(1))


def test_a_worker_paused_beyond_its_lease_is_told_that_its_session_ended(cluster) -> None:
    job = cluster(sleep_through_the_lease, servers=1, workers=2)
    job.wait_for("ready")
    sleeper = job.pids("worker")[0]
    with paused(sleeper):
        job.wait_for("alone", 40)
        job.say("wake")
    found = job.wait_for("result-default-0")
    value = job.wait_for("result-default-1")
    assert found["push"] == "SessionEndedError"
    assert set(found.values()) == {"SessionEndedError"}
    assert value == 1  # what it had pushed before stays, later pushes are refused
    assert job.wait() == 0
