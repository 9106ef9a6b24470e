"""SIGKILL and SIGSTOP of either node at every step of a get from another node, and of the recall of the lease that came with it.

Nobody sees less than what was acknowledged, and nothing is left.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

import penstock
from support.daemon import Cli
from support.nodes import start_nodes
from support.pattern import pattern, shows
from support.waiting import freeze, is_stopped, until

OLD, NEW = 1, 2
NBYTES = 70_000
LEASE_S = 1.0


def get_when_it_answers(store: penstock.Store) -> int:
    """Which of the two values the first get that succeeds shows."""
    for _ in range(100):
        try:
            with store.get("x") as view:
                return next(seed for seed in (OLD, NEW) if shows(view.numpy(), seed))
        except penstock.UnavailableError:
            time.sleep(0.1)
    raise AssertionError("no answer in 100 times")


@pytest.fixture
def leased(pair):
    """'x' is OLD at home, and the other node may serve its copy without a call."""
    pair.home.put("x", pattern(OLD, NBYTES))
    assert get_when_it_answers(pair.other) == OLD
    yield pair
    pair.nothing_left()


@pytest.mark.parametrize("which, point", [(1, "node.remote.read"), (1, "node.remote.answered"), (0, "node.peer.located")])
def test_a_node_dies_in_a_get(pair, armory, which, point):
    pair.home.put("x", pattern(OLD, NBYTES))
    node = pair.daemons[which].node_pid
    armory.arm(point)
    assert get_when_it_answers(pair.other) == OLD
    armory.await_fired(point)
    pair.await_another_process(which, node)
    pair.home.put("x", pattern(NEW, NBYTES))
    assert get_when_it_answers(pair.other) == NEW
    pair.nothing_left()


@pytest.mark.parametrize("which, point", [(1, "node.lease.heard"), (1, "node.lease.obeyed"), (0, "node.recall.told"), (0, "node.recall.over")])
def test_a_node_dies_in_a_recall(leased, armory, which, point):
    version, node = leased.home.stat("x").version, leased.daemons[which].node_pid
    armory.arm(point)
    assert leased.home.put("x", pattern(NEW, NBYTES)).version == version + 1
    assert get_when_it_answers(leased.other) == NEW, "it was acknowledged"
    armory.await_fired(point)
    leased.await_another_process(which, node)
    assert leased.home.stat("x").version == version + 1, "put once"
    assert get_when_it_answers(leased.other) == NEW


@pytest.mark.parametrize("point", ["node.lease.heard", "node.lease.obeyed"])
def test_a_holder_that_stands_still_delays_a_put_until_its_lease_is_over(leased, armory, point):
    holder = leased.daemons[1].node_pid
    with penstock.connect(str(leased.daemons[1].socket_dir), timeout=1) as impatient:
        armory.arm(point, "stop")
        began = time.monotonic()
        leased.home.put("x", pattern(NEW, NBYTES))
        took = time.monotonic() - began
        armory.await_fired(point)
        assert took < LEASE_S + 2, f"{took:.2f} s"
        with pytest.raises((penstock.DeadlineError, penstock.UnavailableError)):  # its client asks, and is not answered
            impatient.get("x")
        until(lambda: is_stopped(holder), "the holder stands still")
        os.kill(holder, signal.SIGCONT)
        assert get_when_it_answers(leased.other) == NEW


def test_what_the_home_did_not_hear_is_over_it_is_told_when_it_answers_again(pair, armory):
    """The session goes on meanwhile, and with it would the pin."""
    pair.home.put("x", pattern(OLD, NBYTES))
    reading, home = pair.daemons[1].node_pid, pair.daemons[0].node_pid
    armory.arm("node.remote.answered", "stop")
    got = []
    get = threading.Thread(target=lambda: got.append(get_when_it_answers(pair.other)))
    get.start()
    armory.await_fired("node.remote.answered")
    until(lambda: is_stopped(reading), "the reading node stands still")
    freeze(home)
    os.kill(reading, signal.SIGCONT)
    get.join(timeout=30)
    assert got == [OLD]
    until(lambda: Cli(pair.daemons[1].socket_dir).json("nodes")[0]["peers"][0]["error"], "the call that gives the pin back has failed")
    os.kill(home, signal.SIGCONT)
    before = sessions(pair)
    until(lambda: int(pair.home.stats()["pins"]) == 0, "the pin is gone", deadline_s=5)
    assert sessions(pair) == before, "and the session is not"
    pair.nothing_left()


def sessions(pair) -> list[str]:
    return [session["id"] for session in Cli(pair.daemons[0].socket_dir).json("sessions") if session["label"] == "node"]


def test_a_node_dies_with_a_grant_of_a_copy_that_grows(short_tmp, module_armory, armory):
    """A chain of fetches: the third node was sent to the second one, and has pinned its copy there."""
    daemons = start_nodes(short_tmp / "chain", 3, PENSTOCK_FAULT_DIR=str(module_armory.folder))
    stores = [penstock.connect(str(daemon.socket_dir), timeout=30) for daemon in daemons]
    nodes = [daemon.node_pid for daemon in daemons]
    armory.arm("node.chain.located")
    for seed in range(1, 30):  # until two gets are under way at the same time
        stores[0].put("x", pattern(seed, 64 << 20))
        shown: list[bool] = []
        gets = [threading.Thread(target=lambda store=store: shown.append(shows(got(store), seed))) for store in stores[1:]]
        for get in gets:
            get.start()
        for get in gets:
            get.join(timeout=60)
        assert shown == [True, True]
        if armory.fired("node.chain.located"):
            break
    armory.await_fired("node.chain.located")
    assert sum(daemon.node_pid != node for daemon, node in zip(daemons, nodes)) == 1
    stores[0].delete_prefix("")
    for store in stores:
        until(lambda store=store: [int(store.stats()[key]) for key in ("drafts", "draft_bytes", "pins", "retired")] == [0, 0, 0, 0],
              f"nothing is left: {store.stats()}")
    for store in stores:
        store.close()
    assert [daemon.stop() for daemon in daemons] == [0, 0, 0]


def got(store: penstock.Store) -> np.ndarray:
    """A copy of 'x', as soon as the node answers."""
    for _ in range(100):
        try:
            with store.get("x") as view:
                return view.numpy().copy()
        except penstock.UnavailableError:
            time.sleep(0.1)
    raise AssertionError("no answer in 100 times")
