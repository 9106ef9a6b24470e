"""SIGKILL of either node at every step of a put to another node: published once or not at all, and nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import penstock
from support.pattern import pattern, shows
from support.waiting import is_stopped, until

OLD, NEW = 1, 2
SIZES = (4096, 3 << 20)


def put_until_it_is_done(store: penstock.Store, nbytes: int) -> int:
    """How often it was asked for."""
    for times in range(1, 50):
        try:
            store.put("x", pattern(NEW, nbytes))
            return times
        except penstock.UnavailableError:
            time.sleep(0.2)
    raise AssertionError("not done in 50 times")


def await_new_bytes(pair) -> None:
    """Both nodes show them, as soon as the one that was killed answers again."""

    def shown(store: penstock.Store) -> bool:
        try:
            with store.get("x") as view:
                return shows(view.numpy(), NEW)
        except penstock.UnavailableError:
            return False

    for store in (pair.home, pair.other):
        until(lambda store=store: shown(store), "the new bytes are there")


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("point", ["node.remote.reserved", "node.remote.written", "node.remote.published"])
def test_the_putting_node_dies(pair, armory, point, nbytes):
    version = pair.home.put("x", pattern(OLD, nbytes)).version
    node = pair.daemons[1].node_pid
    armory.arm(point)
    info = pair.other.put("x", pattern(NEW, nbytes))  # completes, though the node died meanwhile
    armory.await_fired(point)
    pair.await_another_process(1, node)
    assert info.version == version + 1 == pair.home.stat("x").version, "published once"
    await_new_bytes(pair)
    pair.nothing_left()


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("point", ["node.peer.reserved", "node.peer.published", "node.publish.before", "node.publish.live"])
def test_the_home_dies(pair, armory, point, nbytes):
    version = pair.home.put("x", pattern(OLD, nbytes)).version
    node = pair.daemons[0].node_pid
    armory.arm(point)
    times = put_until_it_is_done(pair.other, nbytes)
    armory.await_fired(point)
    pair.await_another_process(0, node)
    # One that was refused before anything was reserved may be asked again; after that the putting node does it.
    assert times == 1 or point == "node.peer.reserved"
    assert pair.home.stat("x").version == version + 1, "published once"
    await_new_bytes(pair)
    pair.nothing_left()


@pytest.mark.parametrize("point", ["node.remote.reserved", "node.remote.written"])
def test_the_home_is_replaced_between_two_steps(pair, armory, point):
    """What was reserved is gone with the session that it was reserved in: it is all done again."""
    version = pair.home.put("x", pattern(OLD, SIZES[1])).version
    putting, node = pair.daemons[1].node_pid, pair.daemons[0].node_pid
    armory.arm(point, "stop")
    published = []
    put = threading.Thread(target=lambda: published.append(pair.other.put("x", pattern(NEW, SIZES[1])).version))
    put.start()
    armory.await_fired(point)
    until(lambda: is_stopped(putting), "the putting node stands still")
    os.kill(node, signal.SIGKILL)
    until(lambda: pair.daemons[0].node_pid not in (None, node) and pair.home.exists("x"), "there is a new node")
    os.kill(putting, signal.SIGCONT)
    put.join(timeout=30)
    assert published == [version + 1] and pair.home.stat("x").version == version + 1
    await_new_bytes(pair)
    pair.nothing_left()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_dies_somewhere_in_a_large_put(pair, armory, victim):
    nbytes = 60 << 20
    version = pair.home.put("x", pattern(OLD, nbytes)).version
    for delay in (0.005, 0.02, 0.05):
        killer = threading.Timer(delay, lambda: os.kill(pair.daemons[victim].node_pid, signal.SIGKILL))
        killer.start()
        put_until_it_is_done(pair.other, nbytes)
        killer.join()
        until(lambda: pair.daemons[victim].node_pid is not None, "there is a node")
        await_new_bytes(pair)
        assert pair.home.stat("x").version > version
        version = pair.home.put("x", pattern(OLD, nbytes)).version
    pair.nothing_left()
