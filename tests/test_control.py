"""Control over real sockets and inside one process: calls, waits, timeouts, strangers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from fastps import errors
from fastps.control import Control, EmbeddedControl, SocketControl, new_boot_id
from fastps.errors import ClosedError, ConfigError, FastPSTimeoutError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import PublishMap
from fastps.scheduler.journal import Journal
from fastps.scheduler.records import Record, SessionStarted
from fastps.scheduler.state import JobShape, SchedulerState
from scheduler_story import Beat

service = pytest.importorskip("fastps.scheduler.service")  # needs the compiled core
pytestmark = pytest.mark.timeout(60)


class Scheduler:
    """A scheduler in a thread of the test."""

    def __init__(self, servers: int = 0, workers: int = 2, journal: Journal | None = None) -> None:
        shape = JobShape(servers, {"default": workers})
        self.state = SchedulerState(shape, 77, time.monotonic())
        self.context = zmq.Context()
        self.service = service.SchedulerService(
            "tcp://127.0.0.1:*", self.state, self.context, journal
        )
        self.address = self.service.address
        self.thread = threading.Thread(target=self.service.run)
        self.thread.start()

    def end(self) -> None:
        self.service.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.context.term()


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    running = Scheduler()
    yield running
    running.end()


def _ignore(*_: object) -> None:
    """Take news of an embedded scheduler."""


@pytest.fixture(params=["socket", "embedded"])
def control(request: pytest.FixtureRequest) -> Iterator[Control]:
    if request.param == "embedded":
        embedded = EmbeddedControl(1, 2, _ignore, _ignore, _ignore)
        yield embedded
        embedded.close()
    else:
        running = Scheduler()
        over_socket = SocketControl(running.address)
        yield over_socket
        over_socket.close()
        running.end()


def join(control: Control, rank: int | None = None) -> m.Joined:
    joined, blob = control.call(m.Join("default", rank, 1, new_boot_id().hex()), 5)
    assert blob
    return joined


def test_two_workers_meet_in_a_barrier(control: Control) -> None:
    first, second = join(control), join(control)
    assert (first.rank, second.rank) == (0, 1)
    passed: list[int] = []

    def wait(joined: m.Joined, number: int) -> None:
        control.call(m.Barrier(joined.session, number), 10)
        passed.append(number)

    for number in (1, 2):
        thread = threading.Thread(target=wait, args=(first, number))
        thread.start()
        time.sleep(0.2)
        assert passed == [1, 1][: 2 * (number - 1)]
        wait(second, number)
        thread.join()
    assert passed == [1, 1, 2, 2]


def test_many_threads_share_one_control(control: Control) -> None:
    joined = join(control)
    items: list[int] = []
    lock = threading.Lock()

    def work(pass_number: int) -> None:
        done = None
        while True:
            ask = m.NextChunk(joined.session, pass_number, 20, False, done)
            done = control.call(ask, 10)[0].index
            if done is None:
                return
            with lock:
                items.append(done)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(items) == sorted(list(range(20)) * 8)


def test_a_deadline_says_what_was_waited_for(control: Control) -> None:
    joined = join(control)
    before = time.monotonic()
    with pytest.raises(FastPSTimeoutError, match=r"Barrier number 1 within 0\.3 s"):
        control.call(m.Barrier(joined.session, 1), 0.3)
    assert 0.25 < time.monotonic() - before < 1.5
    # The control is as good as before.
    assert control.call(m.ReturnChunk(joined.session, 1, None), 5)[0] == m.Passed(0)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (m.Barrier(99, 1), errors.SessionEndedError),
        (m.LookupTable(1, "w"), errors.TableNotFoundError),
        (m.CreateTable(1, m.TableDefinition("w", "cube")), errors.ConfigError),
        (m.Join("default", None, 1, "?"), errors.WireError),
    ],
)
def test_refusals_are_raised_as_their_class(
    control: Control, message: m.Request[m.Message], kind: type[Exception]
) -> None:
    assert join(control).session == 1
    with pytest.raises(kind):
        control.call(message, 5)


def test_a_closed_control_refuses_and_ends_open_calls(control: Control) -> None:
    joined = join(control)
    closing = threading.Timer(0.3, control.close)
    closing.start()
    before = time.monotonic()
    with pytest.raises(ClosedError, match="closed"):
        control.call(m.Barrier(joined.session, 1), 30)
    assert time.monotonic() - before < 2
    with pytest.raises(ClosedError):
        control.call(m.GetStatus(), 5)
    control.close()


def _use_after_fork(control: Control, answers: multiprocessing.queues.SimpleQueue) -> None:
    try:
        control.call(m.GetStatus(), 2)
    except ClosedError as error:
        answers.put(str(error))
    control.close()
    os._exit(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_use_after_fork_is_refused(control: Control) -> None:
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=_use_after_fork, args=(control, answers))
    child.start()
    assert "fork" in answers.get()
    child.join(20)
    assert control.call(m.GetStatus(), 5)


def test_nobody_at_the_address() -> None:
    control = SocketControl("tcp://127.0.0.1:1")
    with pytest.raises(FastPSTimeoutError, match=r"tcp://127.0.0.1:1 did not answer GetStatus"):
        control.call(m.GetStatus(), 0.3)
    control.close()
    with pytest.raises(ConfigError, match="address is 'here'"):
        SocketControl("here")


def test_a_request_is_sent_again_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastps.control.sockets.RESEND_SECONDS", 0.2)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.bind("tcp://127.0.0.1:*")
    control = SocketControl(router.getsockopt_string(zmq.LAST_ENDPOINT))
    peers = set()

    def answer_the_third() -> None:
        for n in range(3):
            peer, content = router.recv_multipart()
            peers.add(peer)
            envelope = m.decode(content)
            if n == 2:
                for request in (envelope.request - 1, envelope.request):  # one stale answer
                    reply = m.Envelope(request, 5, m.Status({"n": request}))
                    router.send_multipart([peer, m.encode(reply)])

    thread = threading.Thread(target=answer_the_third)
    thread.start()
    reply, _ = control.call(m.GetStatus(), 10)
    thread.join()
    assert reply == m.Status({"n": 1})
    assert len(peers) == 3
    control.close()
    router.close()
    context.term()


def test_strangers_are_dropped_and_the_job_goes_on(scheduler: Scheduler) -> None:
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    stranger.connect(scheduler.address)
    good = m.encode(m.Envelope(1, 0, m.GetStatus()))
    for frames in (
        [b""],
        [b"x" * 1000],
        [b"\xff\x00{"],
        [b"FPH1"],
        [b"FPH1" + bytes(200)],
        [b"FPM1abc"],
        [good, b"more"],
        [good[:-1]],
        [b'{"fastps":1}'],
        [b"[" * 10_000],
    ):
        stranger.send_multipart(frames)
    control = SocketControl(scheduler.address)
    assert join(control).session == 1
    deadline = time.monotonic() + 5
    while scheduler.service.dropped.total() < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert scheduler.service.dropped.total() == 10
    assert not stranger.poll(100)  # nobody answered
    control.close()
    stranger.close()
    context.term()


def test_another_jobs_client_is_told_so(scheduler: Scheduler) -> None:
    control = SocketControl(scheduler.address)
    joined = join(control)
    scheduler.state.cluster_id = 78  # as if another job had got the same port
    with pytest.raises(errors.SessionEndedError, match="another job"):
        control.call(m.Barrier(joined.session, 1), 5)
    control.close()


def test_an_address_in_use_is_said(scheduler: Scheduler) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        service.SchedulerService(scheduler.address, scheduler.state, scheduler.context)


def test_a_fault_of_ours_does_not_end_the_scheduler(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = SocketControl(scheduler.address)
    join(control)
    monkeypatch.setattr(scheduler.state, "bump", lambda: 1 / 0)
    with pytest.raises(FastPSTimeoutError):
        control.call(m.Join("default", None, 1, new_boot_id().hex()), 0.5)
    monkeypatch.undo()
    assert control.call(m.GetStatus(), 5)
    assert scheduler.service.dropped["fault"] == 1
    control.close()


class Disk(Journal):
    """A journal on a disk that can refuse."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.full = False

    def write(self, new: Sequence[Record]) -> None:
        if self.full:
            raise OSError("no space left")
        super().write(new)


def test_nobody_is_told_what_the_journal_does_not_have(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "journal")
    running = Scheduler(journal=disk)
    control = SocketControl(running.address)
    first = join(control, 0)
    assert [type(each).__name__ for each in disk.read()] == ["JobStarted", "SessionStarted"]
    disk.full = True
    request = m.Join("default", 1, 1, new_boot_id().hex())
    with pytest.raises(FastPSTimeoutError):
        control.call(request, 0.5)
    with pytest.raises(FastPSTimeoutError):
        control.call(m.GetStatus(), 0.5)
    disk.full = False
    second = control.call(request, 5)[0]  # sent again, it is the same session
    assert second.session == first.session + 1
    control.close()
    running.end()
    sessions = [each.session for each in disk.read() if isinstance(each, SessionStarted)]
    assert sessions == [first.session, second.session]
    disk.close()


def test_embedded_maps_come_in_order_and_before_the_answer() -> None:
    maps: list[bytes] = []
    control = EmbeddedControl(2, 1, maps.append, _ignore, _ignore)
    assert len(maps) == 1
    joined = join(control)
    n_before = len(maps)
    definition = m.TableDefinition("w", "sparse")
    info, blob = control.call(m.CreateTable(joined.session, definition), 5)
    assert info.table_id == 1
    assert len(maps) == n_before + 1
    assert blob == maps[-1]
    control.close()


class Embedded:
    """An embedded control and what it told, in order."""

    def __init__(self, num_servers: int = 2, num_workers: int = 2) -> None:
        self.news: list[tuple[object, ...]] = []
        self.control = EmbeddedControl(
            num_servers,
            num_workers,
            lambda blob: self.news.append(("map", blob)),
            lambda blob: self.news.append(("rounds", blob)),
            lambda *notice: self.news.append(("clocks", *notice)),
        )

    def since(self) -> list[tuple[object, ...]]:
        """Return the news since the last look."""
        news, self.news[:] = self.news[:], []
        return news


def test_embedded_workers_hear_of_each_others_clocks() -> None:
    job = Embedded()
    first, second = join(job.control), join(job.control)
    for joined in (first, second):
        job.control.beat(joined.session, 0, 0)
    job.since()
    job.control.beat(first.session, 1, 10)
    assert job.since() == []
    job.control.beat(second.session, 1, 10)
    # session, number, clock, minimum, rounds, backup
    assert job.since() == [
        ("clocks", first.session, 1, 1, 1, 1, 0),
        ("clocks", second.session, 1, 1, 1, 1, 0),
    ]
    late = join(job.control, 7)
    assert late.clock == 1
    job.since()
    job.control.beat(late.session, 1, 0)
    assert job.since() == [("clocks", late.session, 1, 1, 1, 1, 0)]
    job.control.call(m.Leave(late.session), 5)
    job.since()
    job.control.beat(late.session, 2, 0)
    assert job.since() == []
    job.control.close()
    with pytest.raises(ClosedError):
        job.control.beat(first.session, 2, 0)


def test_embedded_rounds_are_closed_once_and_before_anybody_is_told() -> None:
    job = Embedded()
    first, second = join(job.control), join(job.control)
    definition = m.TableDefinition("w", "sparse", consistency={"name": "BSP", "backup": 0})
    job.control.call(m.CreateTable(first.session, definition), 5)
    for joined in (first, second):
        job.control.beat(joined.session, 0, 0)
    job.since()
    for clock in (1, 2):
        for joined in (first, second):
            job.control.beat(joined.session, clock, 0)
        assert [news[0] for news in job.since()] == ["rounds", "clocks", "clocks"]
    # One who leaves: the map, then the rounds it held up, then the other's gate.
    job.control.beat(first.session, 3, 0)
    assert job.since() == []
    job.control.call(m.Leave(second.session), 5)
    assert [news[0] for news in job.since()] == ["map", "rounds", "clocks"]
    job.control.close()


def test_an_embedded_barrier_returns_after_the_news_that_it_rests_on() -> None:
    job = Embedded(num_workers=2)
    first, second = join(job.control), join(job.control)
    for joined in (first, second):
        job.control.beat(joined.session, 0, 0)
    returned: list[int] = []

    def wait() -> None:
        ask = m.Barrier(first.session, 1, clean=True)
        returned.append(job.control.call(ask, 10)[0].clock)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 10
    while not job.control.call(m.GetStatus(), 5)[0].status["groups"][0]["in_barrier"]:
        assert time.monotonic() < deadline
    job.control.beat(second.session, 3, 0)
    assert job.control.call(m.Barrier(second.session, 1, clean=True), 5)[0] == m.Passed(3, (0, 1))
    thread.join()
    assert returned == [3]
    job.control.close()


def test_a_thousand_dead_servers_at_once_are_no_recursion() -> None:
    state = SchedulerState(JobShape(1000, {}), 77, 0.0)
    with zmq.Context() as context:
        serving = service.SchedulerService("tcp://127.0.0.1:*", state, context)
        peers = []
        for n in range(1000):
            boot_id = f"{n:032x}"
            state.handle(b"p", n, m.RegisterServer(boot_id, ("tcp://h:1",), 1), 0.0)
            peers.append(b"server %d" % n)
            beat = Beat("server", n, bytes.fromhex(boot_id), state.version)
            state.heartbeat(peers[-1], beat, 0.0)
        serving._act([PublishMap(tuple(peers))], 5.0)
        serving._socket.close()
    assert {server.lost for server in state.servers.all()} == {"disconnect"}
