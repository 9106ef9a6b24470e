"""Snapshots over two nodes, and at the command line."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import penstock
import pytest

from support.daemon import Cli
from support.waiting import until

PREFIX = "ckpt/m"


def state(value: int) -> dict[str, Any]:
    return {"w": np.full((300, 1000), value), "b": np.full(4, value), "step": value}


def internal(store: penstock.Store) -> list[str]:
    return [info.name for info in store.list(".penstock/")]


@pytest.fixture
def pair(stores):
    a, b = stores
    yield a, b
    for number in b.snapshots(PREFIX):
        b.remove_snapshot(PREFIX, number)
    assert internal(a) == [] == internal(b)


def check(loaded: dict[str, Any], value: int) -> None:
    assert (loaded["w"] == value).all() and (loaded["b"] == value).all() and loaded["step"] == value


def test_a_snapshot_is_read_from_the_other_node(pair):
    a, b = pair
    a.put_state_dict(PREFIX, state(1))
    assert b.latest(PREFIX) == 1
    check(b.get_state_dict(PREFIX), 1)
    into = {"w": np.zeros((300, 1000), dtype=np.int64), "b": np.zeros(4, dtype=np.int64), "step": 0}
    check(b.get_state_dict(PREFIX, into=into), 1)


def test_both_nodes_write_snapshots_of_one_prefix(pair):
    a, b = pair
    for value, store in enumerate((a, b, b, a), start=1):
        assert store.put_state_dict(PREFIX, state(value), keep_last=3).number == value
        for reader in pair:
            assert reader.latest(PREFIX) == value
            check(reader.get_state_dict(PREFIX), value)
    assert a.snapshots(PREFIX) == [2, 3, 4] == b.snapshots(PREFIX)
    assert len([name for name in internal(a) if "/t/" in name]) == 3 * 3, "two tensors and a manifest each"


def test_what_two_hosts_have_staged_makes_one_snapshot_and_goes_with_it(pair):
    a, b = pair
    whole = np.arange(600_000).reshape(600, 1000)
    stages = [store._open_stage() for store in pair]
    parts = [whole[:300], whole[300:]]
    for stage, part in zip(stages, parts):
        assert stage.put_many([part]) == 0
    writer = a._open_snapshot(PREFIX, 1, None, None, 0, 2, 60.0)
    other = b._open_snapshot(PREFIX, 1, None, None, 1, 2, 60.0, writer.id)
    for rank, one in enumerate((writer, other)):
        one.put_many([("w", parts[rank], (300 * rank, 0), whole.shape, stages[rank].id, 0)])
    other.vote()
    writer.commit()
    for stage in stages:
        stage.drop()
    for reader in pair:
        assert np.array_equal(reader.get_state_dict(PREFIX)["w"], whole)


def test_what_is_staged_here_is_published_under_a_prefix_of_the_other_node(pair):
    a, b = pair
    a.put_state_dict(PREFIX, state(1))
    stage = b._open_stage()
    values = np.arange(300_000)
    assert stage.put_many([values]) == 0
    writer = b._open_snapshot(PREFIX, None, None, None, 0, 1, 60.0)
    writer.put_many([("w", values, None, None, stage.id, 0)])
    writer.commit()
    del stage
    assert np.array_equal(a.get_state_dict(PREFIX)["w"], values) and a.snapshots(PREFIX) == [1, 2]


def test_a_reader_waits_for_the_next_one_of_the_other_node(pair):
    a, b = pair
    a.put_state_dict(PREFIX, state(1))
    thread = threading.Thread(target=lambda: a.put_state_dict(PREFIX, state(2)))
    thread.start()
    assert b.wait_snapshot(PREFIX, after=1, timeout=20) == 2
    thread.join()
    check(b.get_state_dict(PREFIX), 2)


def test_ranks_on_two_hosts_write_one_snapshot(pair):
    numbers: list[Any] = []

    def rank(store: penstock.Store, rank: int) -> None:
        with store.snapshot(PREFIX, number=9, rank=rank, ranks=2, timeout=20) as snap:
            snap.put_shard("w", np.full((2, 3), rank), global_shape=(4, 3), offset=(2 * rank, 0))
        numbers.append(snap.number)

    threads = [threading.Thread(target=rank, args=(store, i)) for i, store in enumerate(pair)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == [9, 9]
    for store in pair:
        assert store.get_state_dict(PREFIX)["w"].tolist() == [[0] * 3] * 2 + [[1] * 3] * 2


def test_the_command_line_lists_removes_and_pins(cli: Cli, tmp_path):
    with penstock.connect(str(cli.address)) as store:
        for value in (1, 2, 3):
            store.put_state_dict(PREFIX, state(value), metadata={"step": str(value)})
        listed = cli.json("snapshot", "ls")
        assert [(one["prefix"], one["number"], one["tensors"], one["pinned"], one["metadata"]) for one in listed] == [
            (PREFIX, value, 2, False, {"step": str(value)}) for value in (1, 2, 3)
        ]
        cli.run("snapshot", "pin", PREFIX, 1)
        cli.run("snapshot", "rm", PREFIX, 2)
        assert [(one["number"], one["pinned"]) for one in cli.json("snapshot", "ls", "ckpt")] == [(1, True), (3, False)]
        table = cli.text("snapshot", "ls")
        assert "PREFIX" in table and "yes" in table
        store.put_state_dict(PREFIX, state(4), keep_last=1)
        assert store.snapshots(PREFIX) == [1, 4]
        cli.run("snapshot", "pin", "--unpin", PREFIX, 1)
        assert cli.json("ls") == [], "what snapshots consist of is not listed"
        for number in store.snapshots(PREFIX):
            cli.run("snapshot", "rm", PREFIX, number)
        assert cli.json("snapshot", "ls") == []
        until(lambda: int(store.stats()["tensors"]) == 0, "nothing is left")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("rm", PREFIX, 7), 3, "has no snapshot 7"),
        (("rm", PREFIX), 2, "write PREFIX NUMBER"),
        (("rm", PREFIX, "x"), 2, "NUMBER 'x'"),
        (("keep", PREFIX, 1), 2, "'keep' is not allowed; write ls, rm or pin"),
        (("ls", "--unpin"), 2, "--unpin goes with pin"),
        (("pin", "a//b", 1), 2, "prefix"),
    ],
)
def test_what_cannot_be_done_is_told(cli: Cli, arguments, code, text):
    assert text in cli.error(code, "snapshot", *arguments)
