"""client.save(tag=..., replace=True): a name whose checkpoint is always the best so far."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastps
from fastps.errors import CheckpointError, ConfigError

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
