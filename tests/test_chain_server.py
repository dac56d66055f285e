"""One server of a chain, told by hand what others say: what it takes, answers and passes over."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from fastps import _core, _core_test
from wire_examples import (
    BOOT_ID,
    OPS,
    OTHER_BOOT_ID,
    Frames,
    chain_message,
    cluster_map,
    entry,
    floats,
    request,
    uint64s,
    view,
)

OK, MOVED, NEED_KEYS, WRONG_CLUSTER = 0, 2, 5, 25
EPOCH: int = cluster_map()["epoch"]
TABLE = {
    **cluster_map()["tables"][0],
    "num_shards": 1,
    "row_width": 1,
    "replication": 2,
    "rule": (1, []),
    "initializer": (1, 0, 0.0, 0.0),
}


class Story:
    """Server 1, which is given maps and messages; server 3 is the test itself."""

    def __init__(self, *chain: int, joiner: int | None = None, **table: Any) -> None:
        self.server = _core_test.ChainServer(BOOT_ID, 1)
        self.version = 0
        self.n_writes = 0
        self.map(*chain, joiner=joiner, **table)

    def map(
        self,
        *chain: int,
        number: int = 1,
        joiner: int | None = None,
        sealed: bool = False,
        epoch: int = EPOCH,
        **table: Any,
    ) -> None:
        self.version += 1
        views = [view(number, chain, joiner=joiner, sealed=sealed)]
        tables = [{**TABLE, "views": views, **table}]
        message = cluster_map(version=self.version, epoch=epoch, tables=tables)
        self.server.install_map(_core_test.encode_map(message), 0)

    def push(self, key: int, value: float, omit: bool = False, again: bool = False) -> None:
        """Push as part 1 of a key set, which is that key."""
        self.n_writes += not again
        keys, values = uint64s([key]), floats([value])
        parts = [(0, 1, self.n_writes, 1, 1)]
        head, *others = _core_test.encode_request(
            request(op=OPS["push"], parts=parts, keys=keys, values=values)
        )
        changed = bytearray(head + b"key set of a key")
        changed[7] = 1
        struct.pack_into("<I", changed, 88 + 24, 1)  # set_part
        if omit:
            struct.pack_into("<I", changed, 80, 0)
            struct.pack_into("<I", changed, 88 + 16, 0)
            struct.pack_into("<I", changed, 88 + 28, 1)
            others = others[1:]
        self.server.request(b"client", [bytes(changed), *others], 0)

    def hear(self, kind: str, **fields: Any) -> None:
        """Take a message of server 3."""
        stamp = {"from": OTHER_BOOT_ID, "to": BOOT_ID}
        message = chain_message(kind, **{**stamp, **fields})
        self.server.chain_message(b"peer", _core_test.encode_chain_message(message), 0)

    def sent(self) -> list[dict[str, Any]]:
        """Return what the server says to other servers."""
        return [
            _core_test.decode_chain_message(frames)
            for where, _, frames in self.server.take_out()
            if where != "reply"
        ]

    def answers(self) -> list[Frames]:
        return [frames for where, _, frames in self.server.take_out() if where == "reply"]

    @property
    def index(self) -> int:
        return self.server.digest(5, 0)[1]


def codes(answers: list[Frames]) -> list[int]:
    return [_core_test.decode_reply(frames)["parts"][0][1] for frames in answers]


def is_remembered(answer: Frames) -> bool:
    return answer[0][64 + 5] == 1


def push_entry(index: int, **fields: int) -> dict[str, Any]:
    one = entry(**{"index": index, "sequence": index, "n_keys": 1, "n_values": 1, **fields})
    return {"entries": [one], "keys": uint64s([7]), "values": floats([1.0])}


def ack(held: int, committed: int | None = None, number: int = 1) -> dict[str, Any]:
    return {"acks": [(5, 0, number, 0, held, held if committed is None else committed)]}


def test_a_head_answers_once_the_tail_has_it() -> None:
    story = Story(1, 3)
    story.push(7, 1.0)
    (sent,) = story.sent()
    assert (sent["kind"], sent["keys"].tolist()) == ("entries", [7])
    story.hear("acks", **ack(0))
    assert story.answers() == []
    story.hear("acks", **ack(1))
    assert codes(story.answers()) == [OK]
    story.hear("acks", **ack(1))
    assert story.answers() == []


def test_a_repeat_is_answered_when_its_entry_is_at_the_tail() -> None:
    story = Story(1, 3)
    story.push(7, 1.0)
    story.push(7, 1.0, again=True)
    assert (story.index, story.answers()) == (1, [])
    story.hear("acks", **ack(1))
    assert codes(story.answers()) == [OK, OK]


@pytest.mark.parametrize(
    "wrong",
    [
        {"from": bytes(16)},
        {"to": OTHER_BOOT_ID},
        {"cluster_id": 0xC2},
        {"epoch": 3},
        {"acks": [(5, 0, 2, 0, 1, 1)]},
        {"acks": [(6, 0, 1, 0, 1, 1)]},
        {"acks": [(5, 1, 1, 0, 1, 1)]},
    ],
    ids=str,
)
def test_what_is_not_of_the_neighbour_in_this_view_is_passed_over(wrong: dict[str, Any]) -> None:
    story = Story(1, 3)
    story.push(7, 1.0)
    story.sent()
    story.hear("acks", **{**ack(1), **wrong})
    assert story.answers() == []


def test_nobody_has_more_than_was_sent() -> None:
    story = Story(1, 3)
    story.push(7, 1.0)
    story.hear("acks", **ack(2**63))
    assert codes(story.answers()) == [OK]
    story.push(7, 1.0)
    assert story.answers() == []


def test_entries_are_taken_in_turn_and_only_from_the_predecessor() -> None:
    story = Story(3, 1)
    story.hear("entries", **push_entry(2))
    (asked,) = story.sent()
    assert asked["acks"] == [(5, 0, 1, 1, 0, 0)]  # send again what comes after 0
    for index in (1, 2, 2):
        story.hear("entries", **push_entry(index))
    assert story.index == 2
    assert story.sent()[-1]["acks"] == [(5, 0, 1, 0, 2, 2)]
    story.hear("entries", **push_entry(3, view=2))
    story.hear("entries", **{**push_entry(3), "from": bytes(16)})
    assert (story.index, story.sent()) == (2, [])
    assert story.server.pull(5, uint64s([7]))[0].tolist() == [2.0]


def test_a_push_that_goes_on_needs_its_keys() -> None:
    """Entries without keys would stop whoever is being filled."""
    story = Story(1)
    story.push(7, 1.0)
    (answer,) = story.answers()
    assert is_remembered(answer)
    story.push(7, 1.0, omit=True)
    assert codes(story.answers()) == [OK]
    story.map(1, joiner=3)
    story.sent()
    story.push(7, 1.0, omit=True)
    assert codes(story.answers()) == [NEED_KEYS]
    story.push(7, 1.0, again=True)  # no sequence was used
    (answer,) = story.answers()
    assert codes([answer]) == [OK]
    assert not is_remembered(answer)
    assert story.server.pull(5, uint64s([7]))[0].tolist() == [3.0]


@pytest.mark.parametrize(
    "other",
    [
        {"num_shards": 4, "views": [view()] * 4},
        {"kind": "dense", "n_rows": 10},
        {"row_width": 2},
        {"rule": (2, [0.5, 0.0])},
        {"rounds": (0, 0)},
    ],
    ids=str,
)
def test_a_map_that_makes_another_table_of_a_known_one_is_refused(other: dict[str, Any]) -> None:
    """A fuzzer's finding: more shards than before were looked for past the end."""
    story = Story(1)
    with pytest.raises(ValueError, match="another table under the number 5"):
        story.map(1, **other)
    story.push(7, 1.0)
    assert codes(story.answers()) == [OK]
    assert story.server.map_version == 1


# A restore.


def test_a_loaded_shard_says_that_it_has_an_entry() -> None:
    """The joiner counts from its image; both must report the same number to be in one chain."""
    story = Story(1)
    story.server.finish_load(5, 0)  # the thread of this chain does not see that
    story.map(1, joiner=3)
    (image,) = story.sent()
    assert image["kind"] == "slice"
    (number, total) = image["slice"][3], image["slice"][5]
    story.hear("progress", progress=[(5, 0, 1, 0, number, total)])
    story.map(1, joiner=3, sealed=True)
    report = _core.decode_report(story.server.report())
    assert [shard[:4] for shard in report.shards] == [(5, 0, 1, 1)]
    story.map(1, 3, number=2)
    assert story.sent() == []
    assert not story.server.needs_ticks, "both have all"


@pytest.mark.parametrize("chain", [(1, 3), (3, 1)], ids=["head", "tail"])
@pytest.mark.parametrize("num_shards", [1, 4])
def test_an_epoch_begins_with_nothing_of_the_former(
    chain: tuple[int, int], num_shards: int
) -> None:
    """Also under the same number, in the same view."""
    story = Story(*chain)
    if chain == (1, 3):
        story.push(7, 1.0)
    else:
        story.hear("entries", **push_entry(1))
    assert story.index == 1
    story.sent()
    views = [view(1, chain)] * num_shards
    story.map(epoch=EPOCH + 1, num_shards=num_shards, views=views)
    assert story.index == 0
    assert [code for answer in story.answers() for code in codes([answer])] == (
        [MOVED] if chain == (1, 3) else []
    ), "it waited for the tail"
    # What is under way is passed over, and refused.
    story.hear("acks", **ack(1))
    story.hear("entries", **push_entry(1))
    assert (story.index, story.sent()) == (0, [])
    story.push(7, 1.0)
    (answer,) = story.answers()
    assert _core_test.decode_reply(answer)["code"] == WRONG_CLUSTER
    story.server.tick(10_000)
    assert not story.server.needs_ticks
    if chain == (3, 1):
        story.hear("entries", **push_entry(1), epoch=EPOCH + 1)
        assert story.index == 1


def test_an_epoch_may_begin_without_the_tables_of_the_former() -> None:
    story = Story(1, 3)
    story.push(7, 1.0)
    story.sent()
    story.map(1, 3, epoch=EPOCH + 1, id=6)
    assert codes(story.answers()) == [MOVED]
    assert story.server.digest(6, 0)[1] == 0
    story.server.tick(10_000)
    assert story.sent() == []


def test_a_map_of_a_former_epoch_is_refused() -> None:
    story = Story(1)
    story.push(7, 1.0)
    with pytest.raises(ValueError, match="epoch"):
        story.map(1, epoch=EPOCH - 1)
    story.push(7, 1.0)
    assert codes(story.answers()) == [OK, OK]
    assert story.server.map_version == 1


def test_an_epoch_whose_map_is_refused_changes_nothing() -> None:
    story = Story(1, rounds=(0, 0))
    story.map(1, rounds=(0, 0))
    with pytest.raises(ValueError, match="rule"):
        story.map(1, epoch=EPOCH + 1, rule=(99, []), rounds=(0, 0))
    assert story.server.map_version == 2
