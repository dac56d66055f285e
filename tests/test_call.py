"""How a call takes the replies to its messages: results, repeats, refusals, nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastps import _core_test
from test_batch import plan_of, uint64s
from wire_examples import OPS, floats, reply

Array = npt.NDArray[Any]

OK, RETRY, MOVED, GAP, DUPLICATE = range(5)
MALFORMED, TABLE_NOT_FOUND, SHAPE, VALUE = 16, 17, 18, 19
SESSION_ENDED, LOST, WRONG_CLUSTER = 20, 21, 25
WIDTH = 2
KEYS = uint64s(range(40))


def new_call(op: str, n_servers: int = 1, keys: Array = KEYS) -> Any:
    return _core_test.Call(OPS[op], plan_of(6, n_servers, row_width=WIDTH), keys)


def answer(call: Any, message: int = 0, codes: dict[int, int] | None = None, **fields: Any) -> bool:
    """Whether the message has ended; each part is answered with its code, else OK."""
    n_values = fields["values"].size if "values" in fields else 0
    n_keys = fields["keys"].size if "keys" in fields else 0
    parts = []
    for i, (shard, _, _) in enumerate(call.parts_of(message)):
        detail = fields.get("detail", 0)
        counts = (n_keys, n_values) if i == 0 else (0, 0)
        parts.append((shard, (codes or {}).get(shard, OK), *counts, detail))
    fields.pop("detail", None)
    done: bool = call.on_reply(message, _core_test.encode_reply(reply(parts=parts, **fields)))
    return done


def n_wanted(call: Any, message: int = 0) -> int:
    """Floats that a pull expects for a message."""
    return sum(n_keys for _, n_keys, _ in call.parts_of(message)) * WIDTH


def test_a_pull_names_no_values_and_a_push_does() -> None:
    assert all(n_values == 0 for _, _, n_values in new_call("pull").parts_of(0))
    assert all(n == k * WIDTH for _, k, n in new_call("push").parts_of(0))


def test_only_pushes_of_replicated_tables_always_carry_their_keys() -> None:
    """They go on down the chain; and whoever takes them answers no pulls by the set's name."""
    for op, replication, may_omit in (
        ("pull", 1, True),
        ("push", 1, True),
        ("pull", 2, True),
        ("push", 2, False),
    ):
        plan = plan_of(6, 1, row_width=WIDTH, replication=replication)
        call = _core_test.Call(OPS[op], plan, KEYS, of_set=True)
        assert call.may_omit_keys(0) == may_omit
        assert call.set_parts_of(0) == [int(may_omit)] * 6
    assert new_call("pull").set_parts_of(0) == [0] * 6


def test_a_pull_ends_with_its_last_message() -> None:
    call = new_call("pull", n_servers=2)
    assert call.n_messages == 2
    assert answer(call, 1, values=floats(np.ones(n_wanted(call, 1))))
    assert not call.done
    assert answer(call, 0, values=floats(np.ones(n_wanted(call, 0))))
    assert call.done
    assert call.code == OK
    assert (call.rows == 1).all()


@pytest.mark.parametrize("surplus", [-1, 1, 2])
def test_a_pull_of_another_size_is_refused(surplus: int) -> None:
    call = new_call("pull")
    assert answer(call, values=floats(np.ones(n_wanted(call) + surplus)))
    assert call.done
    assert call.code == MALFORMED
    assert (call.rows == -1).all(), "nothing was written"


def test_contains_takes_one_flag_a_key() -> None:
    call = new_call("contains")
    assert answer(call, flags=np.ones(40, dtype=np.uint8))
    assert call.code == OK
    assert call.flags.tolist() == [1] * 40
    for n in (0, 39, 41):
        call = new_call("contains")
        assert answer(call, flags=np.ones(n, dtype=np.uint8))
        assert call.code == MALFORMED


def test_remove_adds_up() -> None:
    call = new_call("remove", n_servers=2)
    n_parts = [len(call.parts_of(message)) for message in (0, 1)]
    for message in (0, 1):
        assert answer(call, message, detail=3)
    assert call.n_removed == 3 * sum(n_parts)


@pytest.mark.parametrize("code", [RETRY, MOVED, GAP, WRONG_CLUSTER])
def test_what_may_go_again_goes_again(code: int) -> None:
    call = new_call("remove")
    assert not call.on_reply(0, _core_test.encode_reply(reply(code=code)))
    assert not answer(call, codes={2: code}, detail=1)
    assert not answer(call, codes={2: code, 3: VALUE}), "before it is told that it failed"
    assert not call.done
    assert call.n_removed == 0, "the answers of the other parts come again"
    assert answer(call, codes={2: DUPLICATE}, detail=1)
    assert call.done
    assert call.code == OK
    assert call.n_removed == len(call.parts_of(0))


@pytest.mark.parametrize("code", [TABLE_NOT_FOUND, SHAPE, VALUE, SESSION_ENDED, 255])
def test_a_refusal_ends_the_call_with_its_code(code: int) -> None:
    for refuse in (
        lambda call: call.on_reply(0, _core_test.encode_reply(reply(code=code))),
        lambda call: answer(call, codes={2: code}),
    ):
        call = new_call("push")
        assert refuse(call)
        assert call.done
        assert call.code == code
        assert call.message


def test_the_first_failure_is_told() -> None:
    call = new_call("push", n_servers=2)
    assert answer(call, 0, codes={call.parts_of(0)[0][0]: VALUE})
    assert not call.done
    assert answer(call, 1, codes={call.parts_of(1)[0][0]: SHAPE})
    assert call.done
    assert call.code == VALUE


def test_a_lost_server_names_its_shards() -> None:
    call = new_call("push", n_servers=2)
    call.fail_lost(1)
    assert answer(call, 0)
    assert call.done
    assert call.code == LOST
    assert call.lost_shards == [shard for shard, _, _ in call.parts_of(1)]


@pytest.mark.parametrize("n_parts", [0, 1, 7])
def test_a_reply_of_another_number_of_parts_is_refused(n_parts: int) -> None:
    call = new_call("push")
    parts = [(0, OK, 0, 0, 0)] * n_parts
    assert call.on_reply(0, _core_test.encode_reply(reply(parts=parts)))
    assert call.code == MALFORMED


def test_a_detached_call_touches_nothing() -> None:
    call = new_call("pull")
    call.detach()
    assert answer(call, values=floats(np.ones(n_wanted(call))))
    assert call.done
    assert (call.rows == -1).all()


def test_a_scan_takes_rows_and_a_cursor() -> None:
    call = new_call("scan")
    assert answer(call, keys=uint64s([7, 8]), values=floats(range(4)), detail=99)
    keys, values, cursor = call.scanned()
    assert keys.tolist() == [7, 8]
    assert values.tolist() == [0, 1, 2, 3]
    assert cursor == 99


@pytest.mark.parametrize(("n_keys", "n_values"), [(2, 3), (2, 6), (0, 1), (1, 0)])
def test_a_scan_whose_rows_do_not_fit_is_refused(n_keys: int, n_values: int) -> None:
    """The values would have been copied past the end of the array for them."""
    call = new_call("scan")
    assert answer(call, keys=uint64s(range(n_keys)), values=floats(range(n_values)))
    assert call.code == MALFORMED
    assert call.scanned()[0].size == 0


def test_stats_report_each_shard() -> None:
    call = new_call("stats", n_servers=2)
    for message in range(2):
        n = len(call.parts_of(message))
        assert answer(call, message, keys=uint64s(range(100, 100 + 5 * n)))
    assert call.code == OK
    assert [shard for shard, _, _ in call.reports()] == list(range(6))
    assert [server for _, server, _ in call.reports()] == [0, 0, 0, 1, 1, 1]
    assert [rows for _, _, rows in call.reports()] == [100, 105, 110] * 2
    call = new_call("stats")
    assert answer(call, keys=uint64s([1, 2]))
    assert call.code == MALFORMED


def test_a_call_without_messages_is_done() -> None:
    call = new_call("push", keys=uint64s())
    assert call.n_messages == 0
    assert call.done
    assert call.code == OK
