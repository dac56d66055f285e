"""A bad network between clients and a server: loss, duplicates, damaged copies from strangers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastps
from fastps import errors
from jobs import is_running, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90, method="signal")]


class Network:
    """A scheduler and one server behind proxy_server.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version = folder, 0
        (folder / "faults.json").write_text('{"version": 0}')
        path = os.pathsep.join(str(Path(each).resolve()) for each in sys.path if each)
        environment = {**os.environ, "PYTHONPATH": path}
        self.scheduler = subprocess.Popen(
            [sys.executable, "-m", "fastps", "scheduler", "--servers", "1", "--group", "g=2"],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.scheduler.stdout is not None
        self.address = json.loads(self.scheduler.stdout.readline())["address"]
        proxy = Path(__file__).parent / "proxy_server.py"
        self.server = subprocess.Popen(
            [sys.executable, str(proxy), self.address, str(folder)], env=environment
        )

    def faults(self, **probabilities: float) -> None:
        """Set the faults, and wait until the proxy knows."""
        self.version += 1
        new = self.folder / "faults.new"
        new.write_text(json.dumps({"version": self.version, **probabilities}))
        new.rename(self.folder / "faults.json")
        until(lambda: self.done("version") == self.version, 20, "the proxy's faults")

    def done(self, what: str) -> int:
        try:
            return json.loads((self.folder / "done.json").read_text()).get(what, 0)
        except OSError:
            return 0

    def connect(self) -> fastps.Client:
        return fastps.connect(address=self.address, group="g", timeout=60)

    def stop(self) -> None:
        for process in (self.server, self.scheduler):
            process.kill()
            process.wait()
        assert self.scheduler.stdout is not None
        self.scheduler.stdout.close()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    started = Network(tmp_path)
    yield started
    started.stop()


@pytest.mark.parametrize(
    "faults",
    [
        {"duplicate": 0.5, "duplicate_reply": 0.3},
        {"drop": 0.06, "drop_reply": 0.1},
        {"drop": 0.06, "drop_reply": 0.1, "duplicate": 0.3, "duplicate_reply": 0.2},
    ],
    ids="+".join,
)
def test_pushes_are_applied_exactly_once_through_loss_and_duplicates(network, faults) -> None:
    """S2: applied exactly once per (session, shard, seq): through retries."""
    keys, ones = np.arange(400), np.ones((400, 4))
    with network.connect() as first, network.connect() as second:
        table = first.sparse_table("t", row_shape=(4,), num_shards=3)
        dense = first.dense_table("d", shape=(50,), num_shards=3)
        network.faults(**faults)
        failures: list[BaseException] = []

        def work(client) -> None:
            mine, mine_dense = client.table("t"), client.table("d")
            try:
                for step in range(1, 9):
                    mine.push_async(keys[::-1], ones)
                    mine.push(keys, ones)
                    mine_dense.push(np.ones(50))
                    values = mine.pull(keys)
                    assert values.min() >= 2 * step
                    assert values.max() <= 2 * step + 16
                client.flush()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(each,)) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert np.all(table.pull(keys) == 32)
        assert np.all(dense.pull() == 16)
        table.assign(keys, 5 * ones)
        table.push(keys[:7], ones[:7])
        assert table.remove(keys[:3]) == 3
        np.testing.assert_array_equal(table.pull(keys[:8,])[:, 0], [0, 0, 0, 6, 6, 6, 6, 5])
        for fault in faults:
            until(lambda fault=fault: network.done(fault), 10, f"a {fault} fired")
        network.faults()


def test_damaged_copies_of_real_messages_do_not_stop_a_server(network) -> None:
    """Strangers may not crash it or make it hang; what they forge in a session's name may count."""
    with network.connect() as client:
        table = client.sparse_table("t", row_shape=(4,), num_shards=3)
        dense = client.dense_table("d", shape=(50, 2), num_shards=3)
        network.faults(mutate=1.0)
        random = np.random.default_rng(0)
        for step in range(150):
            n = int(random.integers(0, 40))
            keys = random.integers(0, 2**64, n, dtype=np.uint64)
            try:
                table.push(keys, np.ones((n, 4)), timeout=5)
                table.pull(keys, timeout=5)
                table.contains(keys, timeout=5)
                table.assign(keys, np.ones((n, 4)), timeout=5)
                table.remove(keys[:3], timeout=5)
                dense.push(np.ones((2, 2)), rows=[step % 50, 3], timeout=5)
                dense.pull(timeout=5)
                if step % 10 == 0:
                    len(table)
                    table.stats()
                    sum(1 for _ in table.items(batch_rows=16))
            except errors.ServerLostError:
                raise
            except errors.FastPSError:
                pass  # a forged push may have used this session's next number; no worse
            assert is_running(network.server.pid)
        until(lambda: network.done("mutate") > 500, 10, "many damaged copies")
        network.faults()
    with network.connect() as newcomer:
        fresh = newcomer.sparse_table("fresh", row_shape=(4,))
        for _ in range(5):
            fresh.push(range(300), np.ones((300, 4)))
        assert np.all(fresh.pull(range(300)) == 5)
        assert len(fresh) == 300
        assert newcomer.dense_table("fresh dense", shape=(9,)).pull().tolist() == [0] * 9
