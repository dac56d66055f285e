"""What a newer map does to what is under way: any calls, any maps, any order of what arrives.

Servers are a model: they apply writes by sequence, answer what they applied before as repeats, and
send away what names another view. What a client sees must be what one server would have shown it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastps import _core_test
from test_batch import floats, uint64s
from test_routing import cluster_map
from wire_examples import OPS, reply

Array = npt.NDArray[Any]

LIMITS = _core_test.limits
WRITES_MAX: int = LIMITS["writes_in_flight_per_shard_max"]
OK, RETRY, MOVED, GAP, DUPLICATE = range(5)
VALUE, LOST, TABLE_NOT_FOUND, CLOSED, MALFORMED = 19, 21, 17, 23, 16
WRITES = {"push", "assign", "remove"}
WIDTH = 2
TABLE = 5


class Shards:
    """The shards of a table of counters, wherever they are served."""

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards
        self.rows: dict[int, Array] = {}
        self.last = [0] * num_shards
        self.answers: list[deque[int]] = [deque(maxlen=WRITES_MAX) for _ in range(num_shards)]
        self.content: dict[tuple[int, int], tuple[str, bytes, bytes]] = {}

    def write(self, shard: int, sequence: int, op: str, keys: Array, values: Array) -> Any:
        """Return (code, detail) of a part."""
        content = (op, keys.tobytes(), values.tobytes())
        assert self.content.setdefault((shard, sequence), content) == content, "another content"
        if sequence > self.last[shard] + 1:
            return GAP, self.last[shard] + 1
        if sequence <= self.last[shard]:
            back = self.last[shard] - sequence
            assert back < len(self.answers[shard]), "its answer is forgotten"
            return DUPLICATE, self.answers[shard][-1 - back]
        self.last[shard] = sequence
        detail = self.apply(op, keys, values)
        self.answers[shard].append(detail)
        return OK, detail

    def apply(self, op: str, keys: Array, values: Array) -> int:
        removed = 0
        for key, row in zip(keys.tolist(), values.reshape(-1, WIDTH), strict=False):
            if op == "push":
                self.rows[key] = self.rows.get(key, np.zeros(WIDTH, np.float32)) + row
            elif op == "assign":
                self.rows[key] = row.copy()
        for key in keys.tolist() if op == "remove" else []:
            removed += self.rows.pop(key, None) is not None
        return removed


class Network:
    """A client's traffic, with verbs, and the servers that it reaches."""

    def __init__(self, chains: list[list[int]], threads: int = 1, **traffic: int) -> None:
        self.chains = chains
        self.threads = threads
        self.views = [1] * len(chains)
        self.lost: set[int] = set()
        self.version = 1
        self.now = 0
        self.shards = Shards(len(chains))
        self.traffic = _core_test.Traffic(self.map(), **traffic)
        self.requests: dict[tuple[int, int], deque[Any]] = defaultdict(deque)
        self.replies: dict[tuple[int, int], deque[Any]] = defaultdict(deque)
        self.newest_sent: Counter[int] = Counter()
        self.n_pieces = 0

    def map(self) -> dict[str, Any]:
        servers = dict.fromkeys(range(6), self.threads)
        return cluster_map(
            self.chains,
            servers,
            version=self.version,
            views=self.views,
            lost=self.lost,
            row_width=WIDTH,
        )

    def plan(self, op: str) -> Any:
        return self.traffic.plan(OPS[op], TABLE)

    def start(
        self, op: str, keys: Any = (), values: Any = (), plan: Any = None, gathered: bool = False
    ) -> Any:
        plan = plan or self.plan(op)
        return self.traffic.start(OPS[op], plan, uint64s(keys), floats(values).ravel(), gathered)

    def change(self, chains: dict[int, list[int]], lost: set[int] | None = None) -> None:
        """Give some shards other chains, and so other views."""
        self.version += 1
        for shard, chain in chains.items():
            self.chains = [*self.chains[:shard], chain, *self.chains[shard + 1 :]]
            self.views[shard] += 1
        self.lost |= lost or set()
        self.traffic.replan(self.map())

    def lose(self, *servers: int, arrived: int = 0) -> None:
        """Pause servers until they are lost; so many requests of a lane came in before, unheard."""
        for lane in list(self.requests):
            if lane[0] in servers:
                for _ in range(arrived):
                    self.serve(lane)
                self.requests[lane].clear()
                self.replies[lane].clear()
        self.change({}, lost=set(servers))

    def come_back(self, *servers: int) -> None:
        """Let servers be served again that were lost, with all they had."""
        self.lost -= set(servers)
        for lane in self.traffic.lanes:
            if lane[0] in servers:
                self.traffic.restart(*lane, self.now)
        self.change({})

    def send(self) -> None:
        for request in self.traffic.send(self.now):
            self.n_pieces += request["is_piece"]
            op = next(name for name, number in OPS.items() if number == request["op"])
            if op in WRITES:
                for shard, _, sequence, _, _ in request["parts"]:
                    assert sequence <= self.newest_sent[shard] + 1, "a write was left out"
                    self.newest_sent[shard] = max(self.newest_sent[shard], sequence)
            self.requests[request["lane"]].append((op, request))

    def serve(self, lane: tuple[int, int], codes: dict[int, int] | None = None) -> bool:
        """Answer the oldest request of a lane; `codes` refuse shards. False: none is there."""
        if not self.requests[lane]:
            return False
        op, request = self.requests[lane].popleft()
        if lane[0] in self.lost:
            return True
        end = 0 if op in WRITES else -1
        parts, keys, values, flags = [], [], [], []
        k = v = 0
        for shard, view, sequence, n_keys, n_values in request["parts"]:
            own_keys, own_values = (
                request["keys"][k : k + n_keys],
                request["values"][v : v + n_values],
            )
            k, v = k + n_keys, v + n_values
            code, detail = (codes or {}).get(shard, OK), 0
            if view != self.views[shard] or self.chains[shard][end] != lane[0]:
                code = MOVED
            elif code == OK and op in WRITES:
                code, detail = self.shards.write(shard, sequence, op, own_keys, own_values)
            got: Any = []
            if op == "pull" and code == OK:
                zeros = np.zeros(WIDTH, np.float32)
                got = [self.shards.rows.get(key, zeros) for key in own_keys.tolist()]
            if op == "contains":
                flags += [key in self.shards.rows and code == OK for key in own_keys.tolist()]
            fields = [100 + shard, 0, 0, 0, 0] if op == "stats" and code == OK else []
            parts.append((shard, code, len(fields), len(got) * WIDTH, detail))
            keys += fields
            values += got
        answer = reply(
            request_id=request["request_id"],
            parts=parts,
            keys=uint64s(keys),
            values=floats(values).ravel(),
            flags=np.array(flags, dtype=np.uint8),
        )
        self.replies[lane].append(_core_test.encode_reply(answer))
        return True

    def deliver(self, lane: tuple[int, int]) -> bool:
        if not self.replies[lane]:
            return False
        self.traffic.on_reply(*lane, self.replies[lane].popleft(), self.now)
        return True

    def settle(self) -> None:
        """Let everything arrive until nothing is under way."""
        for _ in range(10_000):
            self.now += 20
            self.send()
            lanes = [*self.requests, *self.replies]
            if not sum([self.serve(lane) + self.deliver(lane) for lane in lanes]):
                break
        assert self.traffic.bytes_in_flight == 0

    def answer_all(self) -> None:
        while sum([self.serve(lane) + self.deliver(lane) for lane in [*self.requests]]):
            pass


@pytest.fixture
def network() -> Network:
    """Six shards: three on server 0, three on server 1."""
    return Network([[0], [0], [0], [1], [1], [1]])


KEYS = list(range(40))
ONES = np.ones((40, WIDTH))


def test_what_was_sent_goes_again_in_pieces_to_where_its_shards_are(network: Network) -> None:
    push, pull = network.start("push", KEYS, ONES), network.start("pull", KEYS)
    network.send()
    assert network.n_pieces == 0
    network.change({0: [2], 1: [3], 2: [3]})
    network.send()
    assert network.n_pieces == 2 * 2
    network.settle()
    assert (push.code, pull.code) == (OK, OK)
    assert network.shards.last == [1] * 6
    again = network.start("pull", KEYS)
    network.settle()
    assert (again.rows == 1).all()


def test_pieces_are_cut_again(network: Network) -> None:
    removed = [network.start("push", KEYS, ONES), network.start("remove", KEYS)][1]
    flags = network.start("contains", KEYS)
    stats = network.start("stats")
    network.send()
    network.change({0: [2], 1: [2], 2: [3]})
    network.send()
    network.change({1: [4]})
    network.send()
    network.change({0: [5], 1: [5], 2: [5]})
    network.settle()
    assert removed.n_removed == 40
    assert sorted(stats.reports) == [(shard, 100 + shard) for shard in range(6)]
    assert set(flags.flags.tolist()) <= {0, 1}


def test_what_a_map_leaves_in_place_is_not_sent_again(network: Network) -> None:
    network.start("push", KEYS, ONES)
    network.send()
    network.change({0: [2]})
    network.send()
    assert len(network.requests[1, 0]) == 1
    assert [len(r["parts"]) for _, r in network.requests[0, 0]] == [3, 2]
    network.settle()


def test_another_view_on_the_same_server_goes_again(network: Network) -> None:
    push = network.start("push", KEYS, ONES)
    network.send()
    network.change({0: [0, 1]})
    network.send()
    assert [len(r["parts"]) for _, r in network.requests[0, 0]] == [3, 3]
    network.settle()
    assert push.code == OK


def test_an_answer_to_what_was_taken_back_is_dropped(network: Network) -> None:
    pull = network.start("pull", KEYS)
    network.send()
    network.serve((0, 0))
    network.serve((1, 0))
    network.change({shard: [2] for shard in range(6)})
    network.answer_all()
    assert not pull.done
    network.settle()
    assert pull.code == OK


def test_calls_planned_by_an_older_map_go_where_the_shards_are(network: Network) -> None:
    plan = network.plan("push")
    network.change({0: [2], 3: [0]})
    push = network.start("push", KEYS, ONES, plan=plan, gathered=True)
    network.send()
    assert {lane for lane, queue in network.requests.items() if queue} == {(0, 0), (1, 0), (2, 0)}
    network.settle()
    assert push.code == OK


def test_a_lost_shard_fails_its_call_and_the_others_get_their_part(network: Network) -> None:
    """Else they would wait for the number that it was given for ever."""
    network.change({0: [0, 2]})
    push = network.start("push", KEYS, ONES)
    network.send()
    network.change({}, lost={0})
    assert not push.done, "shard 0 has another member, 3 to 5 were sent to server 1"
    network.change({0: [2]})
    network.settle()
    assert push.code == LOST
    assert sorted(push.lost_shards) == [1, 2]
    assert push.lost_servers == [0]
    assert network.shards.last == [1, 0, 0, 1, 1, 1]
    assert (0, 0) not in network.traffic.lanes


def test_a_call_with_a_lost_shard_sends_nothing(network: Network) -> None:
    network.change({}, lost={1})
    pull = network.start("pull", KEYS)
    assert (pull.done, pull.code) == (True, LOST)
    assert sorted(pull.lost_shards) == [3, 4, 5]
    assert network.traffic.send(0) == []
    assert network.traffic.bytes_in_flight == 0


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("arrived", [0, 1, 2])
def test_a_shard_that_comes_back_gets_the_writes_that_were_under_way(
    network: Network, arrived: int, gathered: bool
) -> None:
    """Else it would answer later ones that there is a gap, for ever."""
    under_way = [network.start("push", KEYS, ONES, gathered=gathered) for _ in range(2)]
    removed = network.start("remove", KEYS[:3])
    network.send()
    under_way.append(network.start("push", KEYS, ONES, gathered=gathered))
    network.lose(1, arrived=arrived)
    network.settle()
    assert {push.code for push in [*under_way, removed]} == {LOST}
    assert network.traffic.bytes_kept > 0
    refused = network.start("push", KEYS, ONES)
    assert (refused.done, refused.code) == (True, LOST)
    network.change({})
    assert network.traffic.resumed == (0, 0, OK)
    network.come_back(1)
    assert network.traffic.bytes_kept == 0
    after = network.start("push", KEYS, ONES)
    network.settle()
    assert after.code == OK
    n_kept, n_done, failure = network.traffic.resumed
    assert n_kept == n_done > 6
    assert failure == OK
    rows = network.start("pull", KEYS)
    network.settle()
    assert (rows.rows.reshape(-1, WIDTH)[:3] == 2).all(), "one before, one after the removal"
    assert (rows.rows.reshape(-1, WIDTH)[3:] == 4).all()


def test_what_is_kept_is_lost_and_comes_back_again(network: Network) -> None:
    network.start("push", KEYS, ONES)
    network.lose(0, 1)
    network.come_back(0)
    network.lose(0)
    network.come_back(1)
    network.come_back(0)
    assert network.traffic.bytes_kept == 0
    network.settle()
    assert network.shards.last == [1] * 6
    assert all((row == 1).all() for row in network.shards.rows.values())


def test_more_than_may_be_kept_gives_the_shard_up() -> None:
    network = Network([[0], [1]], bytes_kept_max=1500)
    for _ in range(4):
        network.start("push", KEYS, ONES)
    network.lose(1)
    assert network.traffic.bytes_kept == 0
    network.come_back(1)
    refused = network.start("push", KEYS, ONES)
    assert (refused.done, refused.code) == (True, LOST)
    assert refused.lost_shards == [1]
    pull = network.start("pull", KEYS)
    only_0 = [key for key in KEYS if _core_test.shard_of_key(key, 2) == 0]
    push = network.start("push", only_0, np.ones((len(only_0), WIDTH)))
    network.settle()
    assert (pull.code, push.code) == (OK, OK)
    assert network.shards.last == [5, 0]
    network.start("push", only_0, np.ones((len(only_0), WIDTH)))
    network.lose(0)
    assert network.traffic.bytes_kept > 0, "what is given up takes no room"


def test_what_is_kept_ends_with_its_table_and_with_the_session(network: Network) -> None:
    for end in (
        network.traffic.fail_all,
        lambda: network.traffic.replan({**network.map(), "tables": []}),
    ):
        network.start("push", KEYS, ONES)
        network.lose(1)
        assert network.traffic.bytes_kept > 0
        end()
        assert network.traffic.bytes_kept == 0
        network.come_back(1)
        assert network.traffic.resumed == (0, 0, OK)


def test_a_dead_head_is_waited_for_until_the_view_changes(network: Network) -> None:
    network.change({shard: [0, 1] for shard in range(6)}, lost={0})
    push = network.start("push", KEYS, ONES)
    network.send()
    assert not push.done
    network.change({shard: [1] for shard in range(6)})
    network.settle()
    assert push.code == OK


def test_a_table_that_is_gone_ends_its_calls(network: Network) -> None:
    plan = network.plan("push")
    push = network.start("push", KEYS, ONES)
    network.traffic.replan({**network.map(), "tables": []})
    assert (push.done, push.code) == (True, TABLE_NOT_FOUND)
    late = network.start("push", KEYS, ONES, plan=plan)
    assert (late.done, late.code) == (True, TABLE_NOT_FOUND)


def test_a_refused_piece_fails_the_call_once_the_others_ended(network: Network) -> None:
    push = network.start("push", KEYS, ONES)
    network.change({0: [2]})
    network.send()
    network.serve((2, 0), codes={0: VALUE})
    network.deliver((2, 0))
    assert not push.done
    network.settle()
    assert push.code == VALUE


def test_a_piece_that_must_go_again_goes_alone(network: Network) -> None:
    push = network.start("push", KEYS, ONES)
    network.change({0: [2]})
    network.send()
    network.serve((2, 0), codes={0: RETRY})
    network.answer_all()
    network.now += 20
    network.send()
    assert [lane for lane, queue in network.requests.items() if queue] == [(2, 0)]
    network.settle()
    assert push.code == OK


def test_a_piece_whose_answer_does_not_fit_fails_the_call(network: Network) -> None:
    pull = network.start("contains", KEYS)
    network.change({0: [2]})
    network.send()
    _, request = network.requests[2, 0].popleft()
    odd = reply(request_id=request["request_id"], parts=[(0, OK, 0, 0, 0)])
    network.traffic.on_reply(2, 0, _core_test.encode_reply(odd), network.now)
    network.settle()
    assert pull.code == MALFORMED


def test_failing_all_ends_a_message_in_pieces_once(network: Network) -> None:
    push = network.start("push", KEYS, ONES)
    network.change({0: [2], 1: [3]})
    network.traffic.fail_all()
    assert (push.done, push.code) == (True, CLOSED)
    assert network.traffic.bytes_in_flight == 0


def test_no_more_writes_than_a_shard_remembers_pass_one_that_waits() -> None:
    """A server may answer later messages first: those whose shards have what they brought safe."""
    network = Network([[0], [0]])
    keys: list[list[int]] = [[], []]
    for key in range(200):
        keys[_core_test.shard_of_key(key, 2)].append(key)
    first = network.start("push", [keys[0][0], keys[1][0]], np.ones((2, WIDTH)))
    later = [network.start("push", [keys[0][0]], np.ones((1, WIDTH))) for _ in range(200)]
    network.send()
    network.serve((0, 0))
    withheld = network.replies[0, 0].popleft()
    for _ in range(300):
        network.send()
        network.serve((0, 0))
        network.deliver((0, 0))
    assert sum(call.done for call in later) == WRITES_MAX - 1
    network.traffic.on_reply(0, 0, withheld, network.now)
    assert first.done
    network.settle()
    assert all(call.done for call in later)
    assert network.shards.last == [201, 1]


# ---- Anything

small_keys = st.lists(st.integers(0, 30), min_size=1, max_size=12)
a_chain = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)


class ReplanMachine(RuleBasedStateMachine):
    """Any course of calls, maps, losses and late arrivals."""

    @initialize(chains=st.lists(a_chain, min_size=1, max_size=6), threads=st.integers(1, 2))
    def begin(self, chains: list[list[int]], threads: int) -> None:
        self.network = Network(chains, threads)
        self.one_server = Shards(len(chains))  # what the calls in their order come to
        self.old_plans: list[tuple[str, Any]] = []
        self.writes: list[tuple[str, Any, Any]] = []
        self.reads: list[tuple[str, list[int], Any]] = []
        self.zeros = np.zeros(WIDTH, np.float32)
        # What each key's row was after each write; None: there was none.
        self.history: dict[int, set[bytes | None]] = {key: {None} for key in range(31)}

    def lane(self, data: Any) -> tuple[int, int]:
        lanes = sorted(set(self.network.requests) | set(self.network.replies))
        return data.draw(st.sampled_from(lanes)) if lanes else (0, 0)

    @rule(op=st.sampled_from(sorted(WRITES)), keys=small_keys, data=st.data())
    def write(self, op: str, keys: list[int], data: Any) -> None:
        values = np.array([]) if op == "remove" else self.values(len(keys), data)
        plans = [plan for of, plan in self.old_plans if of == op]
        plan = data.draw(st.sampled_from([None, *plans[-3:]]))
        call = self.network.start(op, keys, values, plan=plan, gathered=data.draw(st.booleans()))
        if call.done:
            assert call.code == LOST
            return  # before any of it had a number
        if op == "assign":
            for key, row in zip(keys, floats(values), strict=True):
                self.one_server.apply(op, uint64s([key]), row)
            expected = 0
        else:
            unique = uint64s(dict.fromkeys(keys)) if op == "remove" else uint64s(keys)
            expected = self.one_server.apply(op, unique, floats(values))
        self.writes.append((op, call, expected))
        for key in keys:
            row = self.one_server.rows.get(key)
            self.history[key].add(None if row is None else row.tobytes())

    @staticmethod
    def values(n: int, data: Any) -> Array:
        start = data.draw(st.integers(-50, 50))
        return np.arange(start, start + n * WIDTH, dtype=np.float32).reshape(n, WIDTH)

    @rule(op=st.sampled_from(["pull", "contains", "stats"]), keys=small_keys)
    def read(self, op: str, keys: list[int]) -> None:
        keys = [] if op == "stats" else keys
        self.reads.append((op, keys, self.network.start(op, keys)))

    @rule(op=st.sampled_from(sorted(WRITES)))
    def keep_a_plan(self, op: str) -> None:
        self.old_plans.append((op, self.network.plan(op)))

    @rule(data=st.data())
    def newer_map(self, data: Any) -> None:
        chains, lost = self.network.chains, self.network.lost
        shards = st.integers(0, len(chains) - 1)
        drawn = data.draw(st.dictionaries(shards, a_chain, max_size=4))
        # With nobody left a shard keeps its chain.
        self.network.change(
            {shard: chain for shard, chain in drawn.items() if not lost.issuperset(chains[shard])}
        )

    @rule(server=st.integers(0, 5), arrived=st.integers(0, 3))
    def lose(self, server: int, arrived: int) -> None:
        self.network.lose(server, arrived=arrived)

    @precondition(lambda self: self.network.lost)
    @rule(data=st.data())
    def come_back(self, data: Any) -> None:
        self.network.come_back(data.draw(st.sampled_from(sorted(self.network.lost))))

    @rule()
    def send(self) -> None:
        self.network.now += 1
        self.network.send()

    @rule(data=st.data(), refusal=st.sampled_from([None, None, RETRY]))
    def serve(self, data: Any, refusal: int | None) -> None:
        lane = self.lane(data)
        shard = data.draw(st.integers(0, len(self.network.chains) - 1))
        self.network.serve(lane, {} if refusal is None else {shard: refusal})

    @rule(data=st.data())
    def lose_a_request(self, data: Any) -> None:
        """And with it all of the connection: it is made anew."""
        lane = self.lane(data)
        self.network.requests[lane].clear()
        self.network.traffic.restart(*lane, self.network.now)

    @rule(data=st.data(), n=st.integers(1, 5))
    def deliver(self, data: Any, n: int) -> None:
        lane = self.lane(data)
        for _ in range(n):
            self.network.deliver(lane)

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "network"):
            shards = self.network.shards
            for shard, newest in self.network.newest_sent.items():
                assert newest - shards.last[shard] <= WRITES_MAX

    @precondition(lambda self: self.writes or self.reads)
    @rule()
    def everything_arrives(self) -> None:
        self.network.come_back(*self.network.lost)
        self.network.settle()
        assert self.network.traffic.bytes_kept == 0
        n_kept, n_done, failure = self.network.traffic.resumed
        assert n_kept == n_done
        assert failure in (OK, LOST), "lost twice"
        for op, call, expected in self.writes:
            assert call.done
            assert call.code in (OK, LOST)
            if op == "remove" and call.code == OK:
                assert call.n_removed == expected
        rows = self.one_server.rows
        assert self.network.shards.rows.keys() == rows.keys()
        for key, row in rows.items():
            np.testing.assert_array_equal(self.network.shards.rows[key], row)
        for op, keys, call in self.reads:
            assert call.done
            if call.code == LOST:
                continue
            assert call.code == OK
            if op == "stats":
                n_shards = len(self.network.chains)
                assert sorted(call.reports) == [(shard, 100 + shard) for shard in range(n_shards)]
            for i, key in enumerate(keys):
                if op == "contains":
                    assert call.flags[i] in {state is not None for state in self.history[key]}
                else:
                    row = call.rows.reshape(-1, WIDTH)[i].tobytes()
                    assert row in {state or self.zeros.tobytes() for state in self.history[key]}
        self.writes, self.reads = [], []
        for op in ("pull", "contains"):  # unchanged meanwhile: they are cut into pieces and joined
            keys = list(range(31))
            call = self.network.start(op, keys)
            self.network.send()
            self.network.change({0: [5], len(self.network.chains) - 1: [4]})
            self.network.send()
            self.network.change({0: [3, 4]})
            self.network.settle()
            assert (call.done, call.code) == (True, OK)
            if op == "contains":
                assert call.flags.tolist() == [key in rows for key in keys]
            else:
                expected_rows = np.concatenate([rows.get(key, self.zeros) for key in keys])
                np.testing.assert_array_equal(call.rows, expected_rows)

    def teardown(self) -> None:
        if hasattr(self, "network"):
            self.everything_arrives()


ReplanMachine.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
TestReplanMachine = ReplanMachine.TestCase
