"""SIGKILL of either node, the writer and the reader of a channel that is read on another node: what there is goes on, nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

import penstock
from support.books import MUTABLE, await_books, books
from support.waiting import freeze, until
from support.worker import Worker

SOON = 30.0
NBYTES = 100_000
EMPTY = dict.fromkeys(MUTABLE, 0)


@pytest.fixture
def worker_of(pair, armory):
    """Starts a client of one of the two nodes."""
    workers: list[Worker] = []

    def start(which: int) -> Worker:
        workers.append(Worker(pair.daemons[which].socket_dir, armory.folder, "worker"))
        return workers[-1]

    yield start
    for worker in workers:
        worker.__exit__()
    for store in (pair.home, pair.other):
        until(lambda: books(store, MUTABLE) == EMPTY, f"nothing is left: {books(store, MUTABLE)}", deadline_s=30)


def put(ch: penstock.ChannelWriter, value: int) -> None:
    ch.put(np.full(NBYTES, value, np.uint8))


def shows(step: penstock.ChannelStep, value: int) -> bool:
    return step.seq == value and bool((step.numpy() == value).all()) and step.ok()


def subscribe(store: penstock.Store) -> penstock.ChannelReader:
    return store.subscribe("x", timeout=SOON)


@pytest.mark.parametrize("which, point", [(0, "node.step.copied"), (1, "node.mirror.begun")])
def test_a_node_dies_in_a_step(pair, armory, worker_of, which, point):
    """The reader gets the next step, or that one, from the same memory: it need not even know."""
    with pair.home.channel("x", NBYTES, "u8", slots=4) as ch, subscribe(pair.other) as rd:
        put(ch, 1)
        assert shows(rd.next(SOON), 1)
        node = pair.daemons[which].node_pid
        armory.arm(point)
        put(ch, 2)
        armory.await_fired(point)
        pair.await_another_process(which, node)
        assert shows(rd.next(SOON), 2)
        put(ch, 3)
        assert shows(rd.next(SOON), 3) and rd.missed == 0 and not rd.closed


@pytest.mark.parametrize("which, point", [(0, "node.peer.channels"), (1, "node.mirror.made")])
def test_a_node_dies_while_a_channel_is_opened(pair, armory, worker_of, which, point):
    with pair.home.channel("x", NBYTES, "u8") as ch:
        put(ch, 1)
        node = pair.daemons[which].node_pid
        armory.arm(point)
        with subscribe(pair.other) as rd:
            armory.await_fired(point)
            pair.await_another_process(which, node)
            assert shows(rd.next(SOON), 1)
            put(ch, 2)
            assert shows(rd.next(SOON), 2)


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["home", "readers", "both"])
def test_nodes_are_replaced_under_way(pair, worker_of, which):
    """Steps that were written meanwhile and overwritten are missed, and counted."""
    with pair.home.channel("x", NBYTES, "u8", slots=4) as ch, subscribe(pair.other) as rd:
        put(ch, 1)
        assert shows(rd.next(SOON), 1)
        for i in which:
            node = pair.daemons[i].node_pid
            os.kill(node, signal.SIGKILL)
            pair.await_another_process(i, node)
        for value in range(2, 12):
            put(ch, value)
        last = rd.next(SOON)
        while last.seq < 11:
            last = rd.next(SOON)
        assert shows(last, 11) and not rd.closed
        with subscribe(pair.other) as second:
            assert shows(second.latest(), 11)
            assert books(pair.other, ("channels",)) == {"channels": 1}, "the same mirror"


def test_the_writer_dies(pair, worker_of):
    writer = worker_of(0)
    writer.do(f"ch = store.channel('x', {NBYTES}, 'u8')")
    writer.do(f"ch.put(np.full({NBYTES}, 1, np.uint8))")
    with subscribe(pair.other) as rd:
        assert shows(rd.next(SOON), 1)
        told: list[float] = []

        def wait() -> None:
            with pytest.raises(penstock.UnavailableError, match="closed it or died"):
                rd.next(SOON)
            told.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        died = writer.kill()
        thread.join()
        assert told[0] - died < 3.0 and rd.closed
    await_books(pair.other, EMPTY, time.monotonic(), "a mirror whose writer has died")
    until(lambda: books(pair.home, MUTABLE) == EMPTY, "nothing is left at home")


def test_the_writer_dies_while_the_readers_node_is_away(pair, worker_of):
    writer = worker_of(0)
    writer.do(f"ch = store.channel('x', {NBYTES}, 'u8')")
    writer.do(f"ch.put(np.full({NBYTES}, 1, np.uint8))")
    with subscribe(pair.other) as rd:
        assert shows(rd.next(SOON), 1)
        node = pair.daemons[1].node_pid
        freeze(node)
        writer.kill()
        os.kill(node, signal.SIGKILL)
        with pytest.raises(penstock.UnavailableError, match="closed it or died"):
            rd.next(SOON)


def test_the_last_reader_dies(pair, worker_of):
    """Its mirror goes, and what that took at home."""
    with pair.home.channel("x", NBYTES, "u8", slots=4) as ch:
        own = books(pair.home, MUTABLE)
        readers = [worker_of(1) for _ in range(2)]
        for reader in readers:
            reader.do("rd = store.subscribe('x', timeout=30)")
        put(ch, 1)
        readers[0].do("rd.next(30)")
        assert books(pair.home, MUTABLE)["channel_bytes"] == own["channel_bytes"] + NBYTES
        readers[0].kill()
        readers[1].do("rd.next(30)")
        died = readers[1].kill()
        await_books(pair.other, EMPTY, died, "the mirror")
        await_books(pair.home, own, died, "at home")


def test_the_last_reader_dies_while_a_large_step_comes(pair, worker_of):
    with pair.home.channel("x", 32 << 20, "u8", slots=2) as ch:
        reader = worker_of(1)
        reader.do("rd = store.subscribe('x', timeout=30)")
        ch.put(np.ones(32 << 20, np.uint8))
        died = reader.kill()
        until(lambda: books(pair.other, MUTABLE) == EMPTY, "the mirror is gone", deadline_s=5)
        assert time.monotonic() - died < 5


def test_a_reader_dies_while_it_opens(pair, armory, worker_of):
    with pair.home.channel("x", NBYTES, "u8"):
        reader = worker_of(1)
        armory.arm("node.mirror.made", "stop")
        node = pair.daemons[1].node_pid
        reader.start("rd = store.subscribe('x', timeout=30)")
        armory.await_fired("node.mirror.made")
        reader.kill()
        os.kill(node, signal.SIGCONT)
        until(lambda: books(pair.other, MUTABLE) == EMPTY, "no mirror is left")
