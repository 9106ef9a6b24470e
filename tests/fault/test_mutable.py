"""SIGKILL of clients and nodes at every step of channels and regions."""

from __future__ import annotations

import os
import signal
import time

import pytest

import penstock
from support.books import MUTABLE, await_books, books
from support.waiting import freeze, until

SOON = 30.0
CHANNEL = "ch = store.channel('c', 4096, 'u8', slots=2)"
STEP = "ch.put(np.full(4096, 2, np.uint8))"
EMPTY = dict.fromkeys(MUTABLE, 0)


def test_a_writer_dies_while_it_opens_a_channel(store, armory, make_worker):
    worker = make_worker("writer")
    armory.arm("client.channel.mapped")
    worker.start(CHANNEL)
    await_books(store, EMPTY, worker.wait_killed(), "client.channel.mapped")
    store.channel("c", 1, "u8").close()


@pytest.mark.parametrize("point", ["client.channel.begun", "client.channel.written"])
def test_a_writer_dies_in_a_step(store, armory, make_worker, point):
    """Whole in its slot but not told of, or not whole: no reader sees it."""
    worker = make_worker("writer")
    worker.do(CHANNEL)
    worker.do("ch.put(np.full(4096, 1, np.uint8))")
    with store.subscribe("c") as reader:
        armory.arm(point)
        worker.start(STEP)
        died = worker.wait_killed()
        assert armory.fired(point)
        step = reader.next(SOON)
        assert (step.numpy() == 1).all() and step.ok()
        with pytest.raises(penstock.UnavailableError):
            reader.next(SOON)
        assert time.monotonic() - died < 3.0
        del step
    await_books(store, EMPTY, died, point)


@pytest.mark.parametrize(("point", "half"), [("client.region.writing", True), ("client.region.passed_on", False)])
def test_a_holder_dies(store, armory, make_worker, point, half):
    with store.region("r", 4096) as region:
        worker = make_worker("holder")
        armory.arm(point)
        worker.start("hold = store.region('r').writing(); hold.release()")
        died = worker.wait_killed()
        assert armory.fired(point)
        with region.reading(timeout=SOON) as hold:
            assert time.monotonic() - died < 3.0
            assert hold.abandoned == half
        with region.writing(timeout=SOON) as hold:
            assert hold.abandoned == half
        assert str(region.state()) == "idle" and region.state().waiting == 0
    await_books(store, EMPTY, died, point)


NODE_STEPS = [
    # Where the node dies, and what the client was doing.
    ("node.mutable.made", CHANNEL),
    ("node.mutable.sealed", CHANNEL),
    ("node.mutable.opened", CHANNEL),
    ("node.mutable.made", "region = store.region('r', 4096, exclusive=True)"),
    ("node.mutable.opened", "region = store.region('r', 4096, exclusive=True)"),
    ("node.mutable.opened", "region = store.region('kept')"),
]


@pytest.mark.parametrize(("point", "code"), NODE_STEPS, ids=[f"{point}-{i}" for i, (point, _) in enumerate(NODE_STEPS)])
def test_the_node_dies(store, daemon, armory, make_worker, point, code):
    """What was asked for comes from the next one, once; what there was goes on."""
    kept = store.region("kept", 100)
    with kept.writing() as hold:
        worker = make_worker("client")
        before = daemon.node_pid
        armory.arm(point)
        worker.do(code)
        assert armory.fired(point)
        until(lambda: daemon.node_pid not in (None, before), "another node process")
        assert str(kept.state()) == "writing" and not hold.abandoned
    if "channel" in code:
        worker.do(STEP)
        with store.subscribe("c") as reader:
            assert reader.next(SOON).numpy()[0] == 2
    expected = {"channels": int("channel" in code), "regions": 1 + int("exclusive" in code)}
    until(lambda: books(store, tuple(expected)) == expected, f"the books after {point}")
    kept.close()
    await_books(store, EMPTY, worker.kill(), point)


def test_a_session_ends_while_there_is_no_node(store, daemon, make_worker):
    kept = store.region("r", 100)
    worker = make_worker("client")
    worker.do(CHANNEL)
    worker.do("hold = store.region('r').writing()")
    with store.subscribe("c") as reader:
        node = daemon.node_pid
        freeze(node)
        worker.kill()
        os.kill(node, signal.SIGKILL)
        with pytest.raises(penstock.UnavailableError):
            reader.next(SOON)
    with kept.writing(timeout=SOON) as hold:
        assert hold.abandoned
    kept.close()
    until(lambda: books(store, MUTABLE) == EMPTY, f"nothing is left: {books(store, MUTABLE)}")
