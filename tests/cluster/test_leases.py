"""Copies of other nodes' tensors are served by name without a call, and never after the name has changed."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import penstock
from support.nodes import calls_of_nodes, start_nodes
from support.pattern import pattern, shows
from support.waiting import freeze, until

MIB = 1 << 20
LEASE_S = 1.0


def test_the_home_is_asked_once_in_a_while_not_once_a_get(nodes, stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    assert b.get("x").path == "fetch"
    before, began = calls_of_nodes(nodes[0]), time.monotonic()
    for _ in range(20_000):
        assert b.get("x").nbytes == MIB
    asked, took = calls_of_nodes(nodes[0]) - before, time.monotonic() - began
    assert asked <= 2 + took / (LEASE_S / 2), f"{asked} times in {took:.1f} s"


class Acknowledged:
    """Puts and deletes `name` for a while; tells what was acknowledged last."""

    def __init__(self, store: penstock.Store, name: str, delete_every: int = 0) -> None:
        self.version = 0
        self.deleted = False
        self.changes = 0
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(store, name, delete_every))

    def _run(self, store: penstock.Store, name: str, delete_every: int) -> None:
        try:
            while not self._stop.is_set():
                self.changes += 1
                if delete_every and self.changes % delete_every == 0:
                    store.delete(name)
                    self.deleted = True
                    time.sleep(0.01)  # so that readers find it deleted
                else:
                    self.deleted = False
                    put = store.put(name, pattern(self.changes, 1024), metadata={"seed": str(self.changes)})
                    self.version = put.version
        except BaseException as failure:  # noqa: BLE001 - told by the test
            self.failure = failure

    def __enter__(self) -> "Acknowledged":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("writer", [0, 1, 2], ids=["at home", "a reader's node", "another node"])
def test_no_reader_sees_less_than_what_was_acknowledged(short_tmp, writer):
    daemons = start_nodes(short_tmp / f"writer{writer}", 3)
    stores = [penstock.connect(str(daemon.socket_dir)) for daemon in daemons]
    stores[0].put("x", pattern(0, 1024), metadata={"seed": "0"})  # its home from now on
    seen: set[int] = set()
    with Acknowledged(stores[writer], "x") as written:
        end = time.monotonic() + 3
        while time.monotonic() < end and written.failure is None:
            least = written.version
            view = stores[1].get("x")
            assert view.version >= least, f"{view.version} was read after {least} had been acknowledged"
            assert shows(view.numpy(), int(view.metadata["seed"]))
            seen.add(view.version)
    assert written.failure is None and len(seen) > 20 and written.changes > 50
    for store in stores:
        store.close()
    assert [daemon.stop() for daemon in daemons] == [0, 0, 0]


def test_no_reader_sees_what_was_deleted(stores):
    a, b = stores
    missing = 0
    with Acknowledged(a, "x", delete_every=3) as written:
        end = time.monotonic() + 3
        while time.monotonic() < end and written.failure is None:
            least, gone = written.version, written.deleted
            try:
                version = b.get("x").version
            except penstock.NotFoundError:
                missing += 1
                continue
            assert version > least or (version == least and not gone), f"{version} after {least}, deleted: {gone}"
    assert written.failure is None and missing > 10


def test_a_deleted_prefix_is_gone_everywhere(stores):
    a, b = stores
    for round_ in range(5):
        for i in range(20):
            a.put(f"p/{i}", i)
            b.get(f"p/{i}")
        assert (a, b)[round_ % 2].delete_prefix("p/") == 20
        for i in range(20):
            with pytest.raises(penstock.NotFoundError):
                b.get(f"p/{i}")


def test_a_stopped_holder_delays_a_put_by_its_lease_and_serves_nothing_old(short_tmp):
    a, b = start_nodes(short_tmp / "stopped-holder", 2)
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir), timeout=1) as at_b:
        at_a.put("x", pattern(1, 1024))
        at_b.get("x")
        stopped = b.node_pid
        freeze(stopped)
        try:
            began = time.monotonic()
            at_a.put("x", pattern(2, 1024))
            assert time.monotonic() - began < LEASE_S + 1
            with pytest.raises((penstock.DeadlineError, penstock.UnavailableError)):
                at_b.get("x")
        finally:
            os.kill(stopped, signal.SIGCONT)
        # What it asked before it was stopped is past its deadline: for half a second it takes the home to be away.
        view = until(lambda: _get_if_home_answers(at_b, "x"), "it reads again")
        assert shows(view.numpy(), 2)
    assert [a.stop(), b.stop()] == [0, 0]


def _get_if_home_answers(store: penstock.Store, name: str) -> penstock.TensorView | None:
    try:
        return store.get(name)
    except penstock.UnavailableError:
        return None


def test_a_home_that_is_replaced_keeps_what_it_leased(short_tmp):
    a, b = start_nodes(short_tmp / "replaced", 2)
    with penstock.connect(str(a.socket_dir), timeout=20) as at_a, penstock.connect(str(b.socket_dir)) as at_b:
        for n in range(5):
            least = at_a.put("x", pattern(n, 1024)).version
            assert at_b.get("x").version == least
            before = a.node_pid
            os.kill(before, signal.SIGKILL)
            until(lambda: a.node_pid not in (None, before), "the warden has made another node")
            least = at_a.put("x", pattern(100 + n, 1024)).version

            def version() -> int:
                try:
                    return at_b.get("x").version
                except penstock.UnavailableError:
                    return 0

            first = until(version, "b has a session with the new node")
            assert first >= least
    assert [a.stop(), b.stop()] == [0, 0]
