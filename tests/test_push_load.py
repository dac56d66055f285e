"""The checks of the runs with faults find what they are there for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job_health import percentiles
from lane_sums import N_KEYS, PULL, PUSH, Call, Log, Page, Sums, pages_in


@pytest.fixture
def pages(tmp_path: Path) -> list[Page]:
    made = pages_in(tmp_path, 2)
    for page in made:
        page["called"], page["returned"] = 10, 8
    return made


def pulled(*lanes: float) -> Any:
    return np.tile(np.array(lanes, np.float32), (N_KEYS, 1))


def test_what_is_acknowledged_or_under_way_may_be_there(pages: list[Page]) -> None:
    sums = Sums(pages)
    for values in (pulled(8, 8), pulled(8, 10), pulled(9, 10)):
        sums.check(lambda values=values: values, "pull")
    assert sums.n_pulls == 3
    assert not sums.found


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (pulled(8, 8), pulled(7, 9), "acknowledged pushes are lost"),
        (pulled(8, 8), pulled(8, 11), "more than was ever pushed"),
        (pulled(9, 9), pulled(9, 8), "a value went back"),
    ],
)
def test_what_is_lost_doubled_or_gone_back_is_found(
    pages: list[Page], first: Any, second: Any, found: str
) -> None:
    sums = Sums(pages)
    sums.check(lambda: first, "pull")
    assert not sums.found
    sums.check(lambda: second, "pull")
    assert any(found in each for each in sums.found)


def test_one_wrong_key_is_enough(pages: list[Page]) -> None:
    sums, values = Sums(pages), pulled(8, 8)
    values[17, 1] = 7
    sums.check(lambda: values, "pull")
    assert "1 values, for example" in sums.found[0]


def test_a_push_that_ends_while_a_pull_is_under_way_may_be_missed(pages: list[Page]) -> None:
    def pull() -> Any:
        pages[0]["returned"] = pages[0]["called"] = 12
        return pulled(8, 8)

    sums = Sums(pages)
    sums.check(pull, "pull")
    assert not sums.found


def test_of_others_a_session_may_miss_something_but_never_what_it_saw(pages: list[Page]) -> None:
    sums = Sums(pages, own=0)
    sums.check(lambda: pulled(8, 5), "pull")
    assert not sums.found
    sums.check(lambda: pulled(8, 4), "pull")
    assert ["a value went back" in each for each in sums.found] == [True]
    sums.check(lambda: pulled(7, 4), "pull")
    assert "acknowledged pushes are lost" in sums.found[1]


def test_in_the_end_all_must_be_there(pages: list[Page]) -> None:
    sums = Sums(pages)
    sums.must_be(pulled(10, 10), "end")
    assert not sums.found
    sums.must_be(pulled(10, 9), "end")
    assert sums.found


def test_a_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    writer, reader = Log(tmp_path / "log"), Log(tmp_path / "log")
    assert list(reader.new()) == []
    writer.append(Call(PUSH, 1.0, 3.0))
    assert list(reader.new()) == [Call(PUSH, 1.0, 3.0)]
    writer.append(Call(PULL, 2.0, 2.5))
    assert [call.seconds for call in reader.new()] == [0.5]
    writer.close()
    reader.close()


def test_percentiles_are_values_that_were_measured() -> None:
    hundred = [float(n) for n in range(1, 101)]
    assert percentiles(hundred) == {"n": 100, "p50": 50.0, "p99": 99.0, "max": 100.0}
    assert percentiles([3.0, 1.0, 2.0]) == {"n": 3, "p50": 2.0, "p99": 3.0, "max": 3.0}
    assert percentiles([]) == {"n": 0}
