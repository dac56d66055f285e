"""The table registry: defaults, comparisons, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastps import initializers, optimizers
from fastps.errors import (
    ConfigError,
    TableMismatchError,
    TableNotFoundError,
    ValueRangeError,
)
from fastps.scheduler.actions import JobShape
from fastps.scheduler.messages import TableDefinition
from fastps.scheduler.tables import (
    DENSE_BLOCK_ELEMENTS,
    TABLES_MAX,
    TableRegistry,
    check_replication,
    complete,
    default_num_shards,
)

SGD = optimizers.SGD(lr=0.1).to_json()


def _sparse(**given_fields: object) -> TableDefinition:
    return TableDefinition("w", "sparse", **given_fields)


def _registry(wanted: TableDefinition, n_servers: int = 2) -> TableRegistry:
    registry = TableRegistry()
    definition = complete(wanted, n_servers, "default")
    registry.add(definition, [(0,)] * (definition.num_shards or 0), 2)
    return registry


def test_what_is_not_given_has_a_default() -> None:
    definition = complete(_sparse(), 2, "g")
    assert definition == _sparse(
        shape=(),
        optimizer={"name": "Accumulate"},
        initializer={"name": "Zeros"},
        consistency={"name": "ASP"},
        num_shards=256,
        replication=1,
        group="g",
    )


@pytest.mark.parametrize(
    ("shape", "n_servers", "expected"),
    [
        ((), 1, 1),
        ((), 3, 1),  # never more than elements
        ((2,), 3, 2),
        ((784, 256), 1, 1),
        ((784, 256), 3, 3),  # one for each server
        ((1 << 20,), 1, 1),
        (((1 << 20) + 1,), 1, 2),  # at most 1 Mi floats in a block
        ((1 << 14, 1 << 10), 2, 16),
        ((1 << 20, 1 << 10), 2, 256),  # at most 256
    ],
)
def test_dense_shards_follow_the_size(
    shape: tuple[int, ...], n_servers: int, expected: int
) -> None:
    assert default_num_shards("dense", shape, n_servers) == expected


@given(st.lists(st.integers(1, 3000), max_size=3).map(tuple), st.integers(1, 64))
def test_dense_shards_keep_their_bounds(shape: tuple[int, ...], n_servers: int) -> None:
    elements = 1
    for n in shape:
        elements *= n
    shards = default_num_shards("dense", shape, n_servers)
    assert min(n_servers, elements) <= shards <= min(256, elements)
    assert shards == 256 or elements / shards <= DENSE_BLOCK_ELEMENTS


def test_only_what_is_given_is_compared() -> None:
    registry = _registry(_sparse(shape=(3,), optimizer=SGD, num_shards=8))
    for same in (
        _sparse(),
        _sparse(shape=(3,)),
        _sparse(optimizer={"name": "SGD", "lr": 0.1}),
        _sparse(num_shards=8, replication=1, consistency={"name": "ASP"}),
        _sparse(initializer=initializers.Zeros().to_json()),
    ):
        table = registry.find(same)
        assert table is not None
        assert table.table_id == 1


def test_optimizers_that_a_server_cannot_tell_apart_are_the_same() -> None:
    registry = _registry(_sparse(optimizer=SGD))
    assert registry.find(_sparse(optimizer={"name": "SGD", "lr": 0.1 + 1e-12})) is not None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (_sparse(shape=(4,)), r"row_shape is \(3,\), asked for was \(4,\)"),
        (
            _sparse(optimizer={"name": "SGD", "lr": 0.2}),
            r"SGD\(lr=0.1, weight_decay=0.0\), asked for was SGD\(lr=0.2",
        ),
        (_sparse(num_shards=9), "num_shards is 256, asked for was 9"),
        (TableDefinition("w", "dense", (3,)), "kind is 'sparse', asked for was 'dense'"),
        (_sparse(shape=(4,), num_shards=9), r"row_shape .*; num_shards"),
    ],
)
def test_a_mismatch_says_exactly_what_differs(wanted: TableDefinition, said: str) -> None:
    registry = _registry(_sparse(shape=(3,), optimizer=SGD))
    with pytest.raises(TableMismatchError, match=said):
        registry.find(wanted)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (TableDefinition("", "sparse"), "0 bytes"),
        (TableDefinition("é" * 257, "sparse"), "514 bytes"),
        (TableDefinition("a\0b", "sparse"), "zero"),
        (TableDefinition("w", "graph"), "not sparse or dense"),
        (TableDefinition("w", "dense"), "give its shape"),
        (TableDefinition("w", "dense", (3, 0)), "at least 1"),
        (TableDefinition("w", "dense", (1,) * 33), "32"),
        (TableDefinition("w", "dense", (2**20, 2**22)), "elements"),
        (TableDefinition("w", "dense", (2,), num_shards=3), "only 2 elements"),
        (_sparse(shape=(2**22 + 1,)), "4194304"),
        (_sparse(num_shards=0), "num_shards is 0"),
        (_sparse(num_shards=2**16 + 1), "65536"),
        (_sparse(replication=4), "replication is 4; needed are 1 to 3 copies"),
        (_sparse(consistency={"name": "SSP"}), "field 'staleness' is missing"),
        (_sparse(consistency={"name": "SSP", "staleness": "3"}), "staleness is '3'"),
        (_sparse(consistency={"name": "ASP", "more": 1}), "unknown field 'more'"),
        (_sparse(consistency={"name": "EASGD"}), "there are ASP, SSP, BSP"),
        (_sparse(group="other"), "a worker of group 'g' cannot make it for group 'other'"),
        (_sparse(optimizer={"name": "Sgd"}), "'Sgd' is not there"),
        (_sparse(optimizer={"name": "SGD", "rate": 1}), "rate"),
        (_sparse(optimizer={"name": "SGD", "lr": "1"}), "lr is '1'"),
        (_sparse(optimizer={"lr": 1}), "optimizer None"),
        (_sparse(initializer={"name": "Ones"}), "Ones"),
    ],
)
def test_what_is_not_legal_is_refused(wanted: TableDefinition, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        complete(wanted, 2, "g")


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueRangeError):
        complete(_sparse(optimizer={"name": "SGD", "lr": -1}), 2, "g")
    with pytest.raises(ValueRangeError):
        complete(_sparse(initializer={"name": "Uniform", "low": 1, "high": 0}), 2, "g")
    with pytest.raises(ValueRangeError):
        complete(_sparse(consistency={"name": "SSP", "staleness": -1}), 2, "g")
    with pytest.raises(ValueRangeError, match="4294967295"):
        complete(_sparse(consistency={"name": "BSP", "backup": 1 << 32}), 2, "g")


def test_lookup_names_what_is_there() -> None:
    with pytest.raises(TableNotFoundError, match="no table was created"):
        TableRegistry().lookup("v")
    with pytest.raises(TableNotFoundError, match="there are 'w'"):
        _registry(_sparse()).lookup("v")
    assert _registry(_sparse()).lookup("w").table_id == 1


def test_tables_are_bounded() -> None:
    registry = TableRegistry()
    for n in range(TABLES_MAX):
        registry.check_room()
        registry.add(complete(TableDefinition(f"t{n}", "sparse", num_shards=1), 1, "g"), [(0,)], 2)
    assert [table.table_id for table in registry.all()[:3]] == [1, 2, 3]
    with pytest.raises(ConfigError, match="4096"):
        registry.check_room()


def test_rules_with_state_per_row_need_rows_that_fit_a_message() -> None:
    wanted = TableDefinition(
        name="w",
        kind="dense",
        shape=(1, 1 << 24),
        optimizer=optimizers.Adam().to_json(),
        num_shards=1,
    )
    with pytest.raises(ConfigError, match="num_shards"):
        complete(wanted, 1, "g")
    assert complete(dataclasses.replace(wanted, num_shards=16), 1, "g").num_shards == 16


def test_a_table_belongs_to_the_group_that_created_it_and_any_may_ask() -> None:
    registry = _registry(_sparse(consistency={"name": "SSP", "staleness": 3}))
    found = registry.find(_sparse())
    assert found is not None
    assert found.definition.group == "default"
    assert found.definition.consistency == {"name": "SSP", "staleness": 3}
    assert registry.find(_sparse(consistency={"name": "SSP", "staleness": 3})) is found
    for other in ({"name": "SSP", "staleness": 2}, {"name": "ASP"}):
        with pytest.raises(TableMismatchError, match=r"consistency is SSP\(staleness=3\)"):
            registry.find(_sparse(consistency=other))


def test_a_consistency_with_a_default_is_the_same_with_and_without_it() -> None:
    registry = _registry(_sparse(consistency={"name": "BSP"}))
    assert registry.find(_sparse(consistency={"name": "BSP", "backup": 0})) is not None


def test_a_group_has_one_number_of_backup_workers() -> None:
    """BSP(backup=b): one number per group."""
    registry = _registry(_sparse(consistency={"name": "BSP", "backup": 1}))

    def check(name: str, group: str, consistency: dict[str, object]) -> None:
        wanted = TableDefinition(name, "sparse", consistency=consistency)
        registry.check_backup(complete(wanted, 1, group))

    check("v", "default", {"name": "BSP", "backup": 1})
    check("v", "default", {"name": "ASP"})
    check("v", "other", {"name": "BSP", "backup": 2})
    with pytest.raises(ConfigError, match=r"'v' was given BSP\(backup=2\).*'w'.*BSP\(backup=1\)"):
        check("v", "default", {"name": "BSP", "backup": 2})


@pytest.mark.parametrize(
    ("copies", "shape", "servers", "message"),
    [
        (2, JobShape(4, {}, embedded=True), 4, "an embedded cluster is one process"),
        (3, JobShape(2, {}), 2, "so 3 servers are needed, but the job has 2"),
        (1, JobShape(2, {}, min_copies=2), 2, "give at least 2"),
    ],
)
def test_copies_that_a_job_cannot_have_are_refused(
    copies: int, shape: JobShape, servers: int, message: str
) -> None:
    definition = complete(_sparse(replication=copies), servers, "default")
    with pytest.raises(ConfigError, match=message):
        check_replication(definition, shape, servers)


def test_the_jobs_replication_is_the_default() -> None:
    assert complete(_sparse(), 3, "default", replication=2).replication == 2
    assert complete(_sparse(replication=1), 3, "default", replication=2).replication == 1
