"""client.save(tag=..., replace=True): a name whose checkpoint is always the best so far."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastps
from fastps.checkpoint import driver
from fastps.control.answers import checked
from fastps.errors import CheckpointError, ConfigError
from fastps.scheduler import messages as m
from fastps.scheduler.actions import refusal

pytest.importorskip("fastps._core")


def test_the_new_one_takes_the_place(tmp_path: Path) -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("w")
        for n in (1, 2, 3):
            table.assign([1], [float(n)])
            assert client.save(tmp_path, tag="best", replace=True) == "best"
            assert [path.name for path in tmp_path.iterdir()] == ["best"]
            assert len([path for path in (tmp_path / "best").iterdir() if path.is_dir()]) == 1
        with pytest.raises(CheckpointError, match="already"):
            client.save(tmp_path, tag="best")
        table.assign([1], [9.0])
        client.save_async(tmp_path, tag="best", incremental=True, replace=True).result()
        table.assign([1], [0.0])
        assert client.restore(tmp_path, "best") == "best"
        assert table.pull([1]) == [9.0]


def test_what_others_build_on_is_not_replaced(tmp_path: Path) -> None:
    with fastps.connect(embedded=True) as client:
        table = client.sparse_table("w")
        table.assign([1], [1.0])
        client.save(tmp_path, tag="best")
        table.assign([2], [2.0])
        client.save(tmp_path, tag="next", incremental=True)
        with pytest.raises(CheckpointError, match="'next' builds on it"):
            client.save(tmp_path, tag="best", replace=True)
        client.save(tmp_path, tag="next", incremental=True, replace=True)
        table.assign([1], [0.0])
        client.restore(tmp_path, "best")
        assert table.pull([1]) == [1.0]
        client.restore(tmp_path, "next")
        assert table.pull([2]) == [2.0]


@pytest.mark.parametrize(("tag", "replace"), [(None, True), ("best", 1), ("best", "yes")])
def test_what_replaces_nothing_is_refused(tmp_path: Path, tag: str | None, replace: bool) -> None:
    with fastps.connect(embedded=True) as client, pytest.raises(ConfigError, match="replace"):
        client.save(tmp_path, tag=tag, replace=replace)


@pytest.mark.parametrize(("again", "times"), [(False, 1), (True, driver.ATTEMPTS)])
def test_words_in_a_failure_do_not_make_a_save_anew(monkeypatch, again: bool, times: int) -> None:
    tried = []

    def fail(*arguments: object) -> None:
        tried.append(arguments)
        raise CheckpointError("cannot write /data/save again/ck: no space is left", again=again)

    monkeypatch.setattr(driver, "_begin_save", fail)
    monkeypatch.setattr(driver, "AGAIN_SECONDS", 0.0)
    with pytest.raises(CheckpointError):
        driver.save(None, lambda: (0, 0), "/data/save again/ck")
    assert len(tried) == times


def test_a_refusal_carries_whether_to_try_again() -> None:
    for again in (False, True):
        sent = refusal((b"", 1), CheckpointError("why", again=again)).message
        envelope = m.decode(m.encode(m.Envelope(1, 0, sent)))
        with pytest.raises(CheckpointError) as raised:
            checked(m.AbortSave("0" * 32), envelope.message)
        assert raised.value.again is again
