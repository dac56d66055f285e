"""Sparse tables: keys, rows, pull, push, assign, contains, remove, len, items, stats."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastps
import reference

pytestmark = pytest.mark.timeout(60, method="signal")

LAST = 2**64 - 1
INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8"]


# Keys.


@pytest.mark.parametrize("dtype", INTEGERS)
def test_keys_of_any_integer_dtype_name_the_same_rows(sparse, dtype: str) -> None:
    table = sparse()
    table.assign(np.array([3, 100, 7], dtype), [1.0, 2.0, 3.0])
    assert table.pull([7, 3, 100]).tolist() == [3, 1, 2]
    assert table.pull(np.array([100, 7, 3], dtype)).tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("keys", "shape"),
    [
        (5, ()),
        (np.uint64(LAST), ()),
        (np.int8(5), ()),
        (np.array(5), ()),
        ([5], (1,)),
        ((5, 6), (2,)),
        (range(4), (4,)),
        ([[1, 2, 3], [4, 5, 6]], (2, 3)),
        ([np.int32(1), 2, np.uint64(LAST)], (3,)),
        (np.arange(24).reshape(2, 3, 4), (2, 3, 4)),
        (np.asfortranarray(np.arange(12).reshape(3, 4)), (3, 4)),
        (np.arange(20)[::-2], (10,)),
        (np.arange(12).reshape(3, 4).T, (4, 3)),
        (np.broadcast_to(np.uint64(9), (3, 2)), (3, 2)),
    ],
)
@pytest.mark.parametrize("row_shape", [(), (3,), (2, 2)])
def test_results_have_the_shape_of_the_keys_then_of_a_row(sparse, keys, shape, row_shape) -> None:
    table = sparse(row_shape=row_shape)
    flat = np.array(keys, dtype=np.uint64).ravel()
    distinct, inverse = np.unique(flat, return_inverse=True)
    rows = np.arange(distinct.size * int(np.prod(row_shape)), dtype=np.float32)
    rows = rows.reshape(distinct.size, *row_shape) + 1
    expected = rows[inverse].reshape((*shape, *row_shape))

    table.assign(keys, expected)
    pulled = table.pull(keys)
    assert pulled.shape == (*shape, *row_shape)
    np.testing.assert_array_equal(pulled, expected)
    np.testing.assert_array_equal(table.pull(distinct), rows)
    contains = table.contains(keys)
    assert np.shape(contains) == shape
    assert np.asarray(contains).dtype == np.bool_
    assert np.all(contains)
    assert table.remove(keys) == distinct.size
    assert len(table) == 0


def test_the_first_and_the_last_key_live_in_one_list(sparse) -> None:
    table = sparse()
    table.push([0, LAST, 2**63, 2**63 - 1], [1.0, 2.0, 3.0, 4.0])
    assert table.pull([LAST, 0, 1, 2**63, 2**63 - 1]).tolist() == [2, 1, 0, 3, 4]
    assert table.contains([0, LAST, 1, LAST - 1]).tolist() == [True, True, False, False]
    keys = np.concatenate([keys for keys, _ in table.items()])
    assert sorted(keys.tolist()) == [0, 2**63 - 1, 2**63, LAST]
    assert table.remove([LAST, 0]) == 2
    assert table.contains([0, LAST]).tolist() == [False, False]


@pytest.mark.parametrize("dtype", [*INTEGERS, "f4", "f8", "?", "O", "U3", "c8"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_keys_of_any_dtype_are_a_call_that_does_nothing(sparse, dtype, shape) -> None:
    table = sparse(row_shape=(4,))
    keys = np.zeros(shape, dtype)
    assert table.pull(keys).shape == (*shape, 4)
    assert table.pull(keys).dtype == np.float32
    table.push(keys, np.zeros((*shape, 4)))
    table.assign(keys, np.zeros((*shape, 4), np.float32))
    assert table.contains(keys).shape == shape
    assert table.remove(keys) == 0
    assert len(table) == 0


def test_empty_lists(sparse) -> None:
    table = sparse()
    assert table.pull([]).shape == (0,)
    table.push([], np.zeros(0))
    assert table.remove([]) == 0
    assert table.pull([[], []]).shape == (2, 0)


def test_duplicates_add_in_a_push_and_the_last_wins_in_an_assign(sparse) -> None:
    table = sparse(row_shape=(2,))
    table.push([4, 9, 4, 4], [[1, 10], [2, 20], [3, 30], [5, 50.0]])
    np.testing.assert_array_equal(table.pull([4, 9]), [[9, 90], [2, 20]])
    table.assign([4, 9, 4], [[1, 1], [2, 2], [3, 3.0]])
    np.testing.assert_array_equal(table.pull([9, 4, 4]), [[2, 2], [3, 3], [3, 3]])
    assert table.remove([4, 4, 4, 9, 77]) == 2


def test_duplicates_of_one_push_add_left_to_right_before_one_update(sparse) -> None:
    # 1 + 2^-24 + 2^-24 depends on the order; AdaGrad's square on adding before the update.
    tiny = 2.0**-24
    table = sparse()
    table.push([1, 1, 1], [tiny, tiny, 1.0])
    table.push([2, 2, 2], [1.0, tiny, tiny])
    assert table.pull([1, 2]).tolist() == [1 + 2**-23, 1.0]
    adagrad = sparse(optimizer=fastps.optimizers.AdaGrad(lr=1.0))
    adagrad.push([1, 1, 2], [1.0, 2.0, 3.0])
    one, other = adagrad.pull([1, 2])
    assert one == other != 0


# Rows.


@pytest.mark.parametrize("row_shape", [(), (1,), (7,), (16,), (64,), (257,), (4, 4), (2, 3, 5)])
def test_rows_of_every_shape(sparse, row_shape) -> None:
    table = sparse(row_shape=row_shape)
    random = np.random.default_rng(1)
    keys = random.integers(0, 2**64, 501, dtype=np.uint64)
    ones = random.integers(-9, 9, (501, *row_shape)).astype(np.float64)
    for _ in range(3):
        table.push(keys, ones)
    order = random.permutation(501)
    np.testing.assert_array_equal(table.pull(keys[order]), 3 * ones[order])
    assert len(table) == 501
    assert table.stats()["rows"] == 501


def test_a_pull_creates_no_row_and_a_push_and_an_assign_do(sparse) -> None:
    table = sparse(initializer=fastps.initializers.Constant(2.5))
    assert table.pull([1, 2]).tolist() == [2.5, 2.5]
    assert len(table) == 0
    assert table.contains([1, 2]).tolist() == [False, False]
    table.push([1], [0.0])
    table.assign([2], [7.0])
    assert table.contains([1, 2, 3]).tolist() == [True, True, False]
    assert table.pull([1, 2, 3]).tolist() == [2.5, 7.0, 2.5]
    table.push([3], [1.0])
    assert table.pull(3) == 3.5
    assert table.remove([1, 2, 3, 4]) == 3
    assert table.pull([1, 2, 3, 4]).tolist() == [2.5] * 4
    assert len(table) == 0


@pytest.mark.parametrize(
    "initializer",
    [
        fastps.initializers.Zeros(),
        fastps.initializers.Constant(-0.25),
        fastps.initializers.Uniform(-0.01, 0.01, seed=7),
        fastps.initializers.Normal(0.5, 2.0, seed=11),
    ],
)
def test_initial_rows_are_a_function_of_seed_key_and_column(sparse, initializer) -> None:
    keys = np.array([0, 1, 2**33, LAST], np.uint64)
    expected = reference.initial(initializer, keys, range(5))
    table = sparse(row_shape=(5,), initializer=initializer)
    assert table.pull(keys).tobytes() == expected.tobytes()
    table.push(keys[::-1], np.zeros((4, 5)))
    assert table.pull(keys).tobytes() == (expected + np.float32(0)).tobytes()
    table.push(keys, np.ones((4, 5)))
    assert table.pull(keys).tobytes() == (expected + np.float32(1)).tobytes()
    table.remove(keys[:2])
    assert table.pull(keys[:2]).tobytes() == expected[:2].tobytes()


def test_assign_resets_the_optimizer_and_keeps_the_value(sparse) -> None:
    for optimizer in (
        fastps.optimizers.AdaGrad(lr=0.5),
        fastps.optimizers.FTRL(alpha=0.3, beta=1.0, l1=0.5, l2=0.1),
    ):
        used, fresh = sparse(optimizer=optimizer), sparse(optimizer=optimizer)
        used.push([1, 2], [3.0, -4.0])
        for table in (used, fresh):
            table.assign([1, 2, 3], [0.75, -0.125, 0.0])
        assert used.pull([1, 2, 3]).tolist() == [0.75, -0.125, 0.0]
        for table in (used, fresh):
            table.push([1, 2, 3], [0.5, 0.5, 2.0])
        assert used.pull([1, 2, 3]).tobytes() == fresh.pull([1, 2, 3]).tobytes()


# Gradients and values.


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
def test_gradients_of_float_dtypes_in_any_memory_order(sparse, dtype) -> None:
    table = sparse(row_shape=(3,))
    whole = np.arange(24, dtype=dtype).reshape(8, 3)
    for given in (whole, np.asfortranarray(whole), np.repeat(whole, 2, axis=1)[:, ::2]):
        given.flags.writeable = False
        before = given.copy()
        table.push(range(8), given)
        np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(table.pull(range(8)), 3 * whole)
    table.assign(range(8), whole[::-1])
    np.testing.assert_array_equal(table.pull(range(8)), whole[::-1])


def test_float64_is_rounded_to_float32_before_it_is_added(sparse) -> None:
    table = sparse()
    value = 1 + 2.0**-25  # rounds to 1
    table.push([1, 1], [value, -1.0])
    assert table.pull(1) == 0
    table.assign([2], [0.1])
    assert table.pull(2) == np.float32(0.1)


def test_results_are_fresh_writable_and_contiguous(sparse) -> None:
    table = sparse(row_shape=(4,))
    table.push([1, 2], np.ones((2, 4)))
    keys = [[1], [2]]
    one, two = table.pull(keys), table.pull(keys)
    for result in (one, two, table.pull([2, 1, 2]), table.pull_async([1, 1]).result(timeout=20)):
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32
        assert result.dtype.isnative
        assert result.flags.writeable
        assert result.flags.c_contiguous
    assert not np.shares_memory(one, two)
    one[...] = 99
    np.testing.assert_array_equal(two, np.ones((2, 1, 4)))
    np.testing.assert_array_equal(table.pull(keys), np.ones((2, 1, 4)))


# Strings.


def test_hash_keys_is_xxh64_of_utf8() -> None:
    hashed = fastps.hash_keys(np.array(["", "a", "abc"]))
    assert hashed.dtype == np.uint64
    # From the description of xxHash by its author.
    assert hashed.tolist() == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0x44BC2CF5AD770999]
    assert fastps.hash_keys(["abc"], seed=1)[0] != hashed[2]
    words = np.array([["ä", "日本"], ["x" * 1000, "\0a"]], dtype=object)
    two = fastps.hash_keys(words)
    assert two.shape == (2, 2)
    assert len(set(two.ravel().tolist())) == 4
    assert two[0, 1] == fastps.hash_keys(["日本"])[0]
    assert fastps.hash_keys([]).shape == (0,)


@pytest.mark.parametrize("words", [[1, 2], [1.5], ["a", 1], [None], np.array([1, 2])])
def test_hash_keys_takes_only_strings(words) -> None:
    with pytest.raises(fastps.FastPSError):
        fastps.hash_keys(words)


def test_strings_as_keys(sparse) -> None:
    table = sparse()
    table.push(fastps.hash_keys(["to", "be", "or", "not", "to", "be"]), np.ones(6))
    assert table.pull(fastps.hash_keys(["be", "or", "question"])).tolist() == [2, 1, 0]


# Big batches, many calls, many threads.


def test_batches_of_any_size(sparse) -> None:
    table = sparse(row_shape=(32,))
    n = 400_000  # 51 MB of values
    keys = np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    table.push(keys, np.ones((n, 32), np.float32))
    table.push(keys[::-1], np.full((n, 32), 2.0, np.float32))
    values = table.pull(keys)
    assert values.shape == (n, 32)
    assert np.all(values == 3)
    assert len(table) == n
    assert table.remove(keys[: n // 2]) == n // 2
    assert len(table) == n - n // 2


def test_pushes_nobody_waits_for_are_all_there_after_flush(client, sparse) -> None:
    table = sparse()
    for step in range(500):
        table.push_async(np.arange(step % 7 + 1), np.ones(step % 7 + 1))
    client.flush()
    expected = [sum(step % 7 >= key for step in range(500)) for key in range(7)]
    assert table.pull(range(7)).tolist() == expected


def test_calls_of_one_client_take_effect_in_call_order(client, sparse) -> None:
    table = sparse()
    keys = np.arange(300)
    for step in range(20):
        table.push_async(keys, np.full(300, 100.0 + step))
        table.assign(keys, np.full(300, float(step)))
        table.push_async(keys, np.full(300, 0.5))
    client.flush()
    assert np.all(table.pull(keys) == 19.5)
    table.push_async(keys, np.ones(300))
    assert table.remove(keys) == 300
    assert len(table) == 0


def test_a_pull_sees_every_push_acknowledged_before(sparse) -> None:
    table = sparse()
    keys = np.arange(100)
    for step in range(1, 50):
        table.push(keys, np.ones(100))
        assert np.all(table.pull_async(keys).result(timeout=20) == step)


def test_a_client_is_thread_safe(sparse) -> None:
    table = sparse(row_shape=(2,))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for step in range(40):
                keys = random.permutation(200)
                table.push(keys, np.ones((200, 2)))
                values = table.pull(keys)
                assert values.min() >= step + 1
                assert values.max() <= 160
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert np.all(table.pull(range(200)) == 160)


def test_futures_are_like_those_of_concurrent_futures(sparse) -> None:
    table = sparse()
    called = threading.Event()
    push = table.push_async([1, 2], [1.0, 2.0])
    push.add_done_callback(lambda future: called.set())
    assert push.result(timeout=20) is None
    assert push.done()
    assert push.exception(timeout=1) is None
    assert called.wait(20)
    pull = table.pull_async([2, 1])
    assert pull.result(timeout=20).tolist() == [2, 1]
    assert pull.result().tolist() == [2, 1]


# items, stats and a model.


def collect(table, **options) -> dict[int, list[float]]:
    rows: dict[int, list[float]] = {}
    for keys, values in table.items(**options):
        assert keys.dtype == np.uint64
        assert values.dtype == np.float32
        assert values.shape[:1] == keys.shape
        for key, value in zip(keys.tolist(), values.tolist(), strict=True):
            assert key not in rows, f"key {key} came twice"
            rows[key] = value
    return rows


@pytest.mark.parametrize("batch_rows", [1, 7, 1000, 65536])
def test_items_gives_every_row_once_in_batches(sparse, batch_rows) -> None:
    table = sparse(row_shape=(2, 2))
    assert collect(table, batch_rows=batch_rows) == {}
    n = 20 if batch_rows == 1 else 3000
    keys = np.random.default_rng(0).permutation(n).astype(np.uint64) ** 3
    values = np.random.default_rng(1).random((n, 2, 2), np.float32)
    table.assign(keys, values)
    for got, rows in table.items(batch_rows=batch_rows):
        assert 0 < got.size <= batch_rows
        assert rows.shape == (got.size, 2, 2)
    assert collect(table, batch_rows=batch_rows) == dict(
        zip(keys.tolist(), values.tolist(), strict=True)
    )


def test_items_is_complete_while_the_table_changes(sparse) -> None:
    """Rows that nobody touches come once with their value, whatever is done to others."""
    table = sparse()
    still = np.arange(5000, dtype=np.uint64) * np.uint64(3)
    table.assign(still, still.astype(np.float32))
    stop, failures, rounds = threading.Event(), [], [0]

    def disturb() -> None:
        random = np.random.default_rng(3)
        try:
            while not stop.is_set():
                moving = random.integers(0, 60_000, 3000) * 3 + 1
                table.push(moving, np.ones(moving.size))
                table.remove(moving[::2])
                rounds[0] += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(5):
            at_start, seen = rounds[0], {}
            for keys, values in table.items(batch_rows=500):
                for key, value in zip(keys.tolist(), values.tolist(), strict=True):
                    if key % 3 == 0:
                        assert key not in seen, f"key {key} came twice"
                        seen[key] = value
                    else:
                        assert key % 3 == 1
            while rounds[0] == at_start and not failures:  # it did change meanwhile
                pass
            assert seen == {int(key): float(key) for key in still}
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_items_may_be_left_early_and_the_table_is_still_usable(sparse) -> None:
    table = sparse()
    table.push(range(1000), np.ones(1000))
    iterator = iter(table.items(batch_rows=10))
    next(iterator)
    table.push(range(1000), np.ones(1000))
    del iterator
    assert sum(keys.size for keys, _ in table.items()) == 1000


def test_stats(sparse) -> None:
    table = sparse(row_shape=(16,), num_shards=4)
    assert table.stats()["rows"] == 0
    table.push(range(1000), np.ones((1000, 16)))
    stats = table.stats()
    assert stats["rows"] == len(table) == 1000
    assert stats["bytes"] >= 1000 * 16 * 4
    assert stats["bytes_per_row"] >= 16 * 4
    assert len(stats["shards"]) == 4
    assert all(isinstance(shard, dict) for shard in stats["shards"])


@pytest.mark.parametrize("num_shards", [1, 2, 7, 64])
def test_the_number_of_shards_changes_nothing_to_see(sparse, num_shards) -> None:
    table = sparse(num_shards=num_shards)
    keys = np.random.default_rng(5).integers(0, 2**64, 2000, dtype=np.uint64)
    table.push(keys, np.arange(2000.0))
    np.testing.assert_array_equal(table.pull(keys), np.arange(2000.0))
    assert len(table.stats()["shards"]) == num_shards


@pytest.mark.parametrize("seed", range(6))
def test_any_series_of_calls_gives_what_a_dict_gives(client, sparse, seed) -> None:
    random = np.random.default_rng(seed)
    shape = [(), (3,), (2, 2)][seed % 3]
    initial = np.full(shape, float(seed % 2), np.float32)
    table = sparse(row_shape=shape, initializer=fastps.initializers.Constant(seed % 2))
    pool = np.append(random.integers(0, 2**64, 40, dtype=np.uint64), np.array([0, LAST], np.uint64))
    model: dict[int, np.ndarray] = {}
    for _ in range(150):
        keys = random.choice(pool, random.integers(0, 60)).astype(np.uint64)
        rows = random.integers(-50, 50, (keys.size, *shape)).astype(np.float32)
        what = random.choice(["push", "push_async", "assign", "remove", "pull", "contains", "len"])
        if what in ("push", "push_async"):
            future = getattr(table, what)(keys, rows)
            if random.random() < 0.5 and future is not None:
                future.result(timeout=20)
            for key, row in zip(keys.tolist(), rows, strict=True):
                model[key] = model.get(key, initial) + row
        elif what == "assign":
            table.assign(keys, rows)
            model.update(zip(keys.tolist(), rows, strict=True))
        elif what == "remove":
            gone = {key for key in keys.tolist() if key in model}
            assert table.remove(keys) == len(gone)
            for key in gone:
                del model[key]
        else:
            client.flush()
            expected = [model.get(key, initial) for key in keys.tolist()]
            np.testing.assert_array_equal(
                table.pull(keys), np.array(expected).reshape(keys.size, *shape)
            )
            there = [key in model for key in keys.tolist()]
            assert table.contains(keys).tolist() == there
            assert len(table) == len(model)
    client.flush()
    assert collect(table, batch_rows=9) == {key: row.tolist() for key, row in model.items()}


# Ids of fields, options by name, values of other libraries.


@pytest.mark.parametrize(
    "ids", [[7, 9], [[0, 2**64 - 1]], [-1, -(2**63)], [], np.int8(3), np.arange(5, dtype=np.uint16)]
)
def test_ids_of_a_field_are_hashes_of_field_and_id(ids: Any) -> None:
    array = np.array(ids, dtype=object)
    texts = np.array([f"user={each}" for each in array.ravel()], dtype=object)
    expected = fastps.hash_keys(texts.reshape(array.shape))
    got = fastps.hash_ids("user", ids)
    assert got.dtype == np.uint64
    np.testing.assert_array_equal(got, expected.reshape(got.shape))
    assert got.shape == array.shape


def test_ids_that_are_none_are_refused() -> None:
    for ids in ([1.5], ["7"], [True], np.array([1.0]), [2**64], [-1, 2**63], [[1], [1, 2]]):
        with pytest.raises((fastps.KeyTypeError, fastps.ShapeError)):
            fastps.hash_ids("user", ids)
    for field in (3, None, "\ud800", b"user"):
        with pytest.raises(fastps.KeyTypeError, match="field"):
            fastps.hash_ids(field, [1])


def test_options_by_name(embedded: Any) -> None:
    table = embedded.sparse_table("named", optimizer="Adagrad", consistency="ssp:3")
    same = {"optimizer": fastps.optimizers.AdaGrad(), "consistency": fastps.SSP(3)}
    assert embedded.sparse_table("named", **same).name == table.name
    with pytest.raises(fastps.TableMismatchError):
        embedded.sparse_table("named", consistency="bsp")
    assert fastps.optimizers.Adagrad is fastps.optimizers.AdaGrad
    assert fastps.optimizers.RMSprop is fastps.optimizers.RMSProp
    with pytest.raises(fastps.ConfigError, match="'adagrad'"):
        embedded.dense_table("other", shape=2, optimizer="adamw")
    with pytest.raises(fastps.ConfigError, match="ssp:S"):
        embedded.dense_table("other", shape=2, consistency="ssp")


class _Tensor:
    """As much of a PyTorch tensor of bfloat16 that requires a gradient as matters here."""

    dtype = "torch.bfloat16"

    def __init__(self, values: list[float], *, is_detached: bool = False) -> None:
        self._values, self._is_detached = values, is_detached

    def detach(self) -> _Tensor:
        return _Tensor(self._values, is_detached=True)

    def float(self) -> _Tensor:
        as_float = _Tensor(self._values, is_detached=self._is_detached)
        as_float.dtype = "torch.float32"
        return as_float

    def numpy(self) -> Any:
        assert self._is_detached
        assert self.dtype == "torch.float32"
        return np.array(self._values, np.float32)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()


def test_tensors_of_other_libraries(sparse: Callable[..., Any]) -> None:
    table = sparse()
    table.push([1, 2], _Tensor([0.5, 2.0]))
    assert table.pull([1, 2]).tolist() == [0.5, 2.0]
    torch = pytest.importorskip("torch")
    table.push([1], torch.ones(1, dtype=torch.bfloat16, requires_grad=True))
    assert table.pull([1]).tolist() == [1.5]


def test_bfloat16_of_numpy(sparse: Callable[..., Any]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    table = sparse()
    table.push([1], np.array([1.5], ml_dtypes.bfloat16))
    assert table.pull([1]).tolist() == [1.5]
