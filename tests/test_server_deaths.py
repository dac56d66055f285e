"""Servers killed, paused, cut off, joining and leaving under load; training goes on through it.

A few faults of each kind. `FAILOVER=full` runs as many as the design asks for; `make failover` does
that with counts of your own, and prints what was measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import elastic_runs
import hanging_calls
import lost_copies
import partitions
import server_deaths
import training_deaths
from namespaces import NotPermitted

FULL = os.environ.get("FAILOVER") == "full"
SECONDS = 3600 if FULL else 120

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SECONDS, method="signal")]


def few(few_: int, many: int) -> int:
    return many if FULL else few_


def test_servers_killed_under_load(tmp_path: Path) -> None:
    found = server_deaths.kills(tmp_path, few(1, 200))
    assert found["failover_s"]["max"] <= 5.0


def test_servers_killed_without_a_word_of_the_launcher(tmp_path: Path) -> None:
    found = server_deaths.kills(tmp_path, few(1, 50), unheard=1)
    assert found["failover_s"]["max"] <= 5.0


def test_two_of_three_copies_killed_at_once(tmp_path: Path) -> None:
    server_deaths.pairs(tmp_path, few(1, 50), servers=3)


def test_servers_paused(tmp_path: Path) -> None:
    server_deaths.pauses(tmp_path, few(2, 50), longest=20.0 if FULL else 3.0)


def test_the_only_copy_lost_is_named(tmp_path: Path) -> None:
    lost_copies.lose_a_server(tmp_path)


def test_the_only_copy_lost_for_a_while_comes_back_with_all_pushes(tmp_path: Path) -> None:
    lost_copies.lose_it_for_a_while(tmp_path)


def test_servers_join_and_leave_and_are_killed_meanwhile(tmp_path: Path) -> None:
    server_deaths.RUNS["moves"](tmp_path, few(3, 2 * len(elastic_runs.PLANS)))


def test_servers_join_and_leave_while_there_is_one_copy(tmp_path: Path) -> None:
    server_deaths.RUNS["moves"](tmp_path, few(3, 10), replication=1)


@pytest.mark.skipif(not FULL, reason="minutes; others test restarts of the scheduler")
def test_faults_of_all_kinds(tmp_path: Path) -> None:
    server_deaths.RUNS["mixed"](tmp_path, 20)


def test_links_cut_one_way_and_both(tmp_path: Path) -> None:
    try:
        partitions.partitions(tmp_path, few(1, 20), longest=8.0 if FULL else 3.0)
    except NotPermitted as error:
        pytest.skip(str(error))


def test_bsp_gives_the_same_bits_through_kills_and_moves(tmp_path: Path) -> None:
    training_deaths.bsp(tmp_path, few(1, 30), steps=few(25, 150))


def test_ssp_holds_through_kills_and_moves(tmp_path: Path) -> None:
    training_deaths.ssp(tmp_path, few(1, 30), steps=few(600, 3000))


CASES: list[Any] = [
    pytest.param(situation, copies, delay, id=f"{situation}-{copies}-{delay:g}".replace(" ", "-"))
    for situation in hanging_calls.SITUATIONS
    for copies in (1, 2)
    for delay in (0.0, 3.0)
    if FULL or (copies, delay) == (1, 0.0)
]


@pytest.mark.parametrize(("situation", "copies", "delay"), CASES)
def test_no_call_hangs(tmp_path: Path, situation: str, copies: int, delay: float) -> None:
    outcomes = hanging_calls.call_all(tmp_path, situation, copies, delay)
    hanging_calls.must_have_ended(outcomes, situation)
