"""What users may pass and what is refused in words, before anything is sent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastps
from fastps import errors
from fastps.control import SocketControl

pytestmark = pytest.mark.timeout(60, method="signal")

SURROGATE = "half \ud800 of a pair"
_names = (f"table {number}" for number in itertools.count())


@pytest.fixture(scope="module")
def client() -> Iterator[fastps.Client]:
    with fastps.connect(embedded=True, num_servers=2) as client:
        yield client


@pytest.fixture(scope="module")
def sparse(client) -> fastps.SparseTable:
    return client.sparse_table("sparse")


@pytest.fixture(scope="module")
def dense(client) -> fastps.DenseTable:
    return client.dense_table("dense", shape=(4, 2))


# Strings.


@pytest.mark.parametrize(
    "call",
    [
        lambda client, text: client.sparse_table(text),
        lambda client, text: client.dense_table(text, shape=(1,)),
        lambda client, text: client.table(text),
        lambda client, text: client.worker(5, group=text),
        lambda client, text: client.save("/nonexistent", tag=text),
        lambda client, text: client.save(f"/nonexistent/{text}"),
        lambda client, text: client.save_async(f"/nonexistent/{text}"),
        lambda client, text: client.restore(f"/nonexistent/{text}"),
        lambda client, text: client.restore("/nonexistent", text),
        lambda client, text: fastps.connect(embedded=True, group=text),
        lambda client, text: fastps.connect(address="tcp://127.0.0.1:9", group=text),
        lambda client, text: fastps.connect(address=f"tcp://{text}:9"),
    ],
)
def test_strings_that_utf8_cannot_write_are_refused(client, call) -> None:
    with pytest.raises(errors.ConfigError, match="surrogate"):
        call(client, SURROGATE)


@pytest.mark.processes
def test_a_string_that_utf8_cannot_write_is_refused_over_tcp_at_once(shared_job) -> None:
    with fastps.connect(address=shared_job.scheduler, group="surrogates", timeout=30) as client:
        with pytest.raises(errors.ConfigError, match="surrogate"):
            client.sparse_table(SURROGATE, timeout=math.inf)
        with pytest.raises(errors.ConfigError, match="surrogate"):
            client.table(SURROGATE, timeout=math.inf)


@pytest.mark.parametrize("uri", [5, None, ["x"], b"bytes", "", True, 2.5, "zero \0 byte"], ids=repr)
@pytest.mark.parametrize("verb", ["save", "save_async", "restore"])
def test_what_is_no_path_is_no_folder_of_checkpoints(client, verb, uri) -> None:
    with pytest.raises(errors.ConfigError, match="needed is a path or a URL"):
        getattr(client, verb)(uri)


@pytest.mark.parametrize("tag", [5, b"x", ["x"], True], ids=repr)
def test_what_is_no_str_is_no_tag(client, tag, tmp_path) -> None:
    for verb in (client.save, client.save_async, client.restore):
        with pytest.raises(errors.ConfigError, match="tag is"):
            verb(tmp_path, tag=tag)


@pytest.mark.parametrize(
    "address",
    [
        *("tcp://127.0.0.1:99999", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:0"),
        *("tcp://127.0.0.1:-1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:", "tcp://127.0.0.1"),
        *("tcp://:5000", "127.0.0.1:5000", "http://127.0.0.1:5000", "", "ipc://", 5000, b"tcp"),
        *(True, "tcp://127.0.0.1:5000 "),
    ],
    ids=repr,
)
def test_an_address_that_cannot_be_is_refused_at_once(address) -> None:
    with pytest.raises(errors.ConfigError, match="address"):
        fastps.connect(address=address, timeout=math.inf)
    with pytest.raises(errors.ConfigError, match="address"):
        SocketControl(address)


def test_so_is_one_of_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("FASTPS_SCHEDULER", "tcp://127.0.0.1:99999")
    with pytest.raises(errors.ConfigError, match="FASTPS_SCHEDULER"):
        fastps.connect(timeout=math.inf)


def test_a_group_of_the_environment_is_checked_like_an_argument(monkeypatch) -> None:
    monkeypatch.setenv("FASTPS_GROUP", b"\xff".decode(errors="surrogateescape"))
    with pytest.raises(errors.ConfigError, match="FASTPS_GROUP"):
        fastps.connect(embedded=True)


@pytest.mark.parametrize("text", ["ssp:", "ssp:-1", "ssp:1.5", "ssp:" + "9" * 5000, "bsp:x", ""])
def test_consistency_by_name_is_named_right_or_refused(client, text) -> None:
    with pytest.raises(errors.ConfigError, match="is no consistency"):
        client.sparse_table("new", consistency=text)


# Numbers: those of Python and numpy, never bools.


class Nothing:
    """An object of no use, with the same name in every process."""

    def __repr__(self) -> str:
        return "Nothing"


NO_NUMBERS = [True, False, np.True_, "5", b"5", [5], {}, 1j]


@pytest.mark.parametrize("seconds", [5, 5.0, np.int64(5), np.uint8(5), np.float32(5), math.inf])
def test_seconds_may_be_of_any_kind_of_number(client, sparse, dense, seconds) -> None:
    client.flush(timeout=seconds)
    client.barrier(timeout=seconds)
    sparse.pull([1], timeout=seconds, gate_timeout=seconds)
    dense.pull(timeout=seconds)
    assert sparse.pull_async([1]).result(timeout=seconds).tolist() == [0.0]


@pytest.mark.parametrize("seconds", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_no_timeout(client, sparse, seconds, tmp_path) -> None:
    for call in (
        client.flush,
        client.clock,
        client.barrier,
        lambda timeout: client.chunks([1], timeout=timeout),
        lambda timeout: client.sparse_table("sparse", timeout=timeout),
        lambda timeout: client.save(tmp_path, timeout=timeout),
        lambda timeout: client.restore(tmp_path, values_only=True, timeout=timeout),
        lambda timeout: client.restore(tmp_path, timeout=timeout),
        lambda timeout: client.save_async(tmp_path, timeout=timeout),
        lambda timeout: sparse.pull([1], timeout=timeout),
        lambda timeout: sparse.pull([1], gate_timeout=timeout),
        lambda timeout: sparse.push([1], [1.0], timeout=timeout),
        lambda timeout: sparse.items(timeout=timeout),
        lambda timeout: sparse.stats(timeout=timeout),
        lambda timeout: sparse.pull_async([1]).result(timeout=timeout),
        lambda timeout: fastps.connect(embedded=True, timeout=timeout),
    ):
        with pytest.raises(errors.ConfigError, match="needed are seconds"):
            call(timeout=seconds)


@pytest.mark.parametrize(
    "seconds",
    [-1, math.nan, np.float64(-0.5), -(10**400)],
    ids=lambda each: f"{each:.3}"[:9] if isinstance(each, float) else "int",
)
def test_seconds_are_not_negative(client, seconds) -> None:
    with pytest.raises(errors.ValueRangeError):
        client.flush(timeout=seconds)


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, -1, 0, 1.0, np.float64(1)], ids=repr)
def test_counts_are_integers(client, sparse, wrong) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.sparse_table("new", num_shards=wrong),
        lambda: client.sparse_table("new", replication=wrong),
        lambda: sparse.items(wrong),
        lambda: sparse.items(batch_rows=wrong),
        lambda: fastps.connect(embedded=True, num_servers=wrong),
        lambda: fastps.connect(embedded=True, num_workers=wrong),
    ]
    if not (type(wrong) is int and wrong == 0):
        calls += [
            lambda: fastps.connect(embedded=True, rank=wrong),
            lambda: fastps.connect(address="tcp://127.0.0.1:9", rank=wrong, timeout=math.inf),
            lambda: client.worker(wrong),
        ]
    for call in calls:
        with pytest.raises(errors.ConfigError, match="needed is an integer"):
            call()


def test_counts_may_be_numpys(client) -> None:
    two = np.int32(2)
    table = client.sparse_table(next(_names), num_shards=two, replication=np.uint8(1))
    assert (table.num_shards, type(table.num_shards)) == (2, int)
    table.push(range(5), np.ones(5))
    assert [len(keys) for keys, _ in table.items(batch_rows=two)] == [2, 2, 1]
    assert fastps.SSP(np.int64(3)) == fastps.SSP(3)
    assert fastps.BSP(np.uint8(1)) == fastps.BSP(1)
    with fastps.connect(embedded=True, num_servers=two, num_workers=two, rank=np.int64(1)) as other:
        assert (other.rank, other.num_workers) == (1, 2)
    assert fastps.hash_keys(["a"], seed=np.uint64(7)) == fastps.hash_keys(["a"], seed=7)


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        (3, (3,)),
        (np.int64(3), (3,)),
        ((np.int8(3), 4), (3, 4)),
        ([3, 4], (3, 4)),
        (np.array([3, 4]), (3, 4)),
        ((), ()),
    ],
    ids=repr,
)
def test_shapes_may_be_of_any_kind_of_integer(client, shape, taken) -> None:
    assert client.sparse_table(next(_names), row_shape=shape).row_shape == taken
    assert client.dense_table(next(_names), shape=shape).shape == taken


@pytest.mark.parametrize(
    "shape",
    [
        *(True, (True,), (np.True_, 2), [2, False], 2.0, (2.0,), "2", ("2",), b"22", {2}, {2: 2}),
        *(0, -1, (2, 0), 2**63, np.array([2.0]), np.array([True]), Nothing()),
    ],
    ids=repr,
)
def test_what_is_no_integer_is_no_dimension(client, shape) -> None:
    with pytest.raises(errors.ConfigError, match="row_shape is"):
        client.sparse_table("new", row_shape=shape)
    with pytest.raises(errors.ConfigError, match="shape is"):
        client.dense_table("new", shape=shape)


@pytest.mark.parametrize("seed", [*NO_NUMBERS, 1.5], ids=repr)
def test_a_seed_is_an_integer(seed) -> None:
    with pytest.raises(errors.ConfigError, match="seed is"):
        fastps.hash_keys(["a"], seed=seed)


# Items of chunks().


@pytest.mark.parametrize(
    "items",
    [iter([1]), (i for i in [1]), {1: 2}, {1, 2}, {1: 2}.keys(), 5, None, np.array(5), Nothing()],
    ids=lambda items: type(items).__name__,
)
def test_chunks_need_a_sequence(client, items) -> None:
    with pytest.raises(errors.ConfigError, match="needed is a sequence"):
        client.chunks(items)


@pytest.mark.parametrize("deterministic", [1, 0, None, "yes", np.int64(1)], ids=repr)
def test_chunks_are_deterministic_or_not(client, deterministic) -> None:
    with pytest.raises(errors.ConfigError, match="needed is True or False"):
        client.chunks([1], deterministic=deterministic)


@pytest.mark.parametrize("items", [[], [1, 2, 3]], ids=len)
def test_one_pass_has_one_mode(items) -> None:
    """Also once it is finished."""
    with fastps.connect(embedded=True, num_workers=2) as client, client.worker(1) as other:
        assert list(client.chunks(items, deterministic=False)) == items
        with pytest.raises(errors.ConfigError, match="deterministic=True"):
            list(other.chunks(items, deterministic=True))


def test_chunks_take_whatever_has_numbers(client) -> None:
    for items in ("ab", range(3), (1, 2), np.arange(3), b"ab", [[1], [2]]):
        assert list(client.chunks(items)) == list(items)
        assert list(client.chunks(items, deterministic=np.True_)) == list(items)


# Keys and rows.


@pytest.mark.parametrize("key", [2**64, -1, 10**30, -(10**30)], ids=repr)
def test_keys_out_of_range_are_named_whatever_their_size(sparse, key) -> None:
    for keys in (key, [key], [[0, key]]):
        with pytest.raises(errors.KeyTypeError, match=str(key)):
            sparse.pull(keys)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, float])
def test_ids_that_are_floats_are_said_to_be_damaged(sparse, kind) -> None:
    keys = [1.0] if kind is float else np.ones(1, kind)
    with pytest.raises(errors.KeyTypeError, match="lost digits already") as caught:
        sparse.pull(keys)
    assert "astype" not in str(caught.value)
    with pytest.raises(errors.KeyTypeError, match="lost digits already"):
        fastps.KeySet(keys)


@pytest.mark.parametrize(
    "rows",
    [
        *(2**63, [2**63], -(2**63) - 1, [0, -(2**64)], 10**30, [[10**30]], 4, -5, [4], [-5]),
        *(
            np.uint64(2**64 - 1),
            np.array([2**63], np.uint64),
            np.int64(-(2**63)),
            range(2**64, 2**64 + 1),
        ),
        slice(0, 4, 0),
    ],
    ids=repr,
)
def test_rows_out_of_range_are_named_whatever_their_size(dense, rows) -> None:
    with pytest.raises(errors.ValueRangeError, match="row"):
        dense.pull(rows=rows)
    with pytest.raises(errors.ValueRangeError, match="row"):
        dense.push(np.zeros((1, 2)), rows=rows)


@pytest.mark.parametrize(
    "rows",
    [1.5, [1.5], "1", ["1"], True, [True, 1], Nothing(), ..., slice("a"), slice(1.5), b"1", {1}],
    ids=repr,
)
def test_what_is_no_row_is_refused(dense, rows) -> None:
    with pytest.raises(errors.KeyTypeError, match="rows are of type"):
        dense.pull(rows=rows)


@pytest.mark.parametrize(
    "rows",
    [
        *([True, False, True, False], [np.True_, np.False_] * 2, np.array([True] * 4)),
        *(-1, np.int8(-4), slice(None, None, -2), range(3), [3, -4], np.empty(0, np.int64)),
    ],
    ids=repr,
)
def test_rows_are_what_numpy_takes(dense, rows) -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    dense.assign(values)
    np.testing.assert_array_equal(dense.pull(rows=rows), values[rows])


def test_no_rows_are_rows(dense) -> None:
    assert dense.pull(rows=[]).shape == (0, 2)
    assert dense.pull(rows=[[]]).shape == (1, 0, 2)
