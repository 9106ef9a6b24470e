"""SIGKILL of the node at every step: what was asked completes, views stay, sessions go on, nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.books import await_books, books
from support.pattern import pattern, shows
from support.waiting import is_stopped, until
from support.worker import Worker

SMALL, BIG = 4096, 3 << 20
OLD, NEW = 1, 2

PUT = f"store.put('x', pattern({NEW}, {SMALL}))"
PUT_BIG = f"store.put('x', pattern({NEW}, {BIG}))"
DELETE = "store.delete('x')"
RECLAIM = "store.put('y', pattern(6, 4096)); store.delete('y')"
FORK = """
child = os.fork()
if child == 0:
    os._exit(0 if shows(view.numpy(), 1) and shows(store.get('held').numpy(), 9) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
NAMES = "store.put_many({f'name/{i}': b'0123' for i in range(%d)})"

STEPS = [
    # Where the node dies, what the client was doing, and what 'x' shows when that is done (None: it is gone).
    ("node.reserve.done", PUT, NEW),
    ("node.put.reserved", PUT, NEW),
    ("node.put.copied", PUT, NEW),
    ("node.publish.before", PUT, NEW),
    ("node.publish.state", PUT, NEW),
    ("node.publish.live", PUT, NEW),
    ("node.publish.replaced", PUT, NEW),
    ("node.retire.even", PUT, NEW),
    ("node.put.published", PUT, NEW),
    ("node.put.answered", PUT, NEW),
    ("node.ring.answered", PUT, NEW),
    ("node.extent.made", PUT_BIG, NEW),
    ("node.extent.sealing", PUT_BIG, NEW),
    ("node.reserve.done", PUT_BIG, NEW),
    ("node.publish.before", PUT_BIG, NEW),
    ("node.publish.state", PUT_BIG, NEW),
    ("node.publish.live", PUT_BIG, NEW),
    ("node.publish.replaced", PUT_BIG, NEW),
    ("node.retire.even", PUT_BIG, NEW),
    ("node.ring.answered", PUT_BIG, NEW),
    ("node.delete.before", DELETE, None),
    ("node.retire.even", DELETE, None),
    ("node.ring.answered", DELETE, None),
    ("node.reclaim.free", RECLAIM, OLD),
    ("node.ring.answered", "store.stats()", OLD),
    ("node.fork.taken", FORK, OLD),
    ("node.pins.growing", "views = [store.get('held') for _ in range(10_000)]", OLD),
    ("node.index.rebuilt", NAMES % 11_000, OLD),
    ("node.index.replaced", NAMES % 23_000, OLD),
    ("node.chunk.named", NAMES % 40_000, OLD),
]


def step_id(step) -> str:
    code = {PUT: "put", PUT_BIG: "put_big", DELETE: "delete"}.get(step[1], "call")
    return f"{step[0]}-{code}"


class Witness:
    """A session that has views open before the node dies, and looks at them afterwards."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        worker.do(f"store.put('held', pattern(9, {SMALL})); held = store.get('held')")
        worker.do(f"store.put('gone', pattern(8, {BIG})); gone = store.get('gone'); store.delete('gone')")
        worker.do(f"draft = store.create('draft', {SMALL}, 'u8'); draft.numpy()[:] = pattern(7, {SMALL})")
        self.session = worker.do("store.session_id")

    def testify(self) -> None:
        assert self.worker.do("shows(held.numpy(), 9) and shows(gone.numpy(), 8)"), "an open view changed"
        assert self.worker.do("store.session_id") == self.session, "the session did not go on"
        assert self.worker.do("shows(store.get('held').numpy(), 9)")
        assert not self.worker.do("store.exists('gone')"), "a deleted tensor came back"
        assert not self.worker.do("store.exists('draft')"), "a draft became visible"
        assert self.worker.do("draft.publish().version") >= 1
        assert self.worker.do("shows(store.get('draft').numpy(), 7)"), "the draft lost its bytes"


@pytest.mark.parametrize("step", STEPS, ids=step_id)
def test_the_node_dies(store, daemon, armory, make_worker, step):
    point, code, shown = step
    before = books(store)
    witness = Witness(make_worker("witness"))
    worker = make_worker("worker")
    worker.do(f"store.put('x', pattern({OLD}, {SMALL})); view = store.get('x')")
    version = store.stat("x").version
    generation = store.stats()["generation"]
    node = daemon.node_pid
    armory.arm(point)
    worker.start(code)
    worker.result()  # it completes, though the node died meanwhile
    armory.await_fired(point)
    until(lambda: daemon.node_pid not in (None, node), "the warden forks a new node")
    assert int(until(lambda: store.stats(), "the new node answers")["generation"]) == int(generation) + 1
    assert worker.do(f"shows(view.numpy(), {OLD})"), "the view of the old version changed"
    if shown is None:
        assert not store.exists("x"), "what was deleted is back"
    else:
        with store.get("x") as view:
            assert shows(view.numpy(), shown)
    if code == PUT or code == PUT_BIG:
        assert store.stat("x").version == version + 1, "the put was done twice"
    witness.testify()
    worker.do(f"store.put('after', pattern(5, {BIG}))")
    with store.get("after") as view:
        assert shows(view.numpy(), 5)
    died = max(worker.kill(), witness.worker.kill())
    await_books(store, before, died, f"clients of a node that had died at {point}")


def test_local_gets_go_on_while_the_next_node_reads_the_catalog(store, daemon, armory):
    names = [f"n/{i}" for i in range(100)]
    store.put_many({name: pattern(i, 64) for i, name in enumerate(names)})
    assert all(shows(store.get(name).numpy(), i) for i, name in enumerate(names))
    node = daemon.node_pid
    armory.arm("node.index.rebuilt", "stop")
    os.kill(node, signal.SIGKILL)
    armory.await_fired("node.index.rebuilt")
    try:
        with ThreadPoolExecutor(1) as reader:  # who asked the node would wait for it
            shown = reader.submit(lambda: [shows(store.get(name).numpy(), i) for i, name in enumerate(names)])
            assert all(shown.result(timeout=10))
        assert daemon.node_pid not in (None, node) and is_stopped(daemon.node_pid)
    finally:
        os.kill(daemon.node_pid, signal.SIGCONT)
    store.put("n/0", pattern(101, 64))
    assert shows(store.get("n/0").numpy(), 101) and shows(store.get("n/99").numpy(), 99)


@pytest.mark.parametrize("point", ["node.adopt.copied", "node.adopt.live", "node.session.ending"])
def test_the_node_dies_while_it_clears_up_after_a_client(store, daemon, armory, make_worker, point):
    before = books(store)
    witness = Witness(make_worker("witness"))
    writer = make_worker("writer")
    writer.do(f"[store.put(f'x/{{i}}', pattern({NEW}, {BIG // 2})) for i in range(8)]")
    writer.do(f"left = store.create('left', {BIG}, 'u8')")
    writer.do("[store.delete(f'x/{i}') for i in range(7)]; store.stats()")  # a sparse extent is adopted
    version = store.stat("x/7").version
    with store.get("x/7") as view:
        array = view.numpy()
        old_node = daemon.node_pid
        armory.arm(point)
        writer.kill()
        armory.await_fired(point)
        node = until(lambda: daemon.node_pid not in (None, old_node) and daemon.node_pid, "the warden forks a new node")
        died = time.monotonic()
        assert shows(array, NEW), "the reader's view changed"
        with store.get("x/7") as again:
            assert shows(again.numpy(), NEW) and again.version == version
        del array
    witness.testify()
    assert node == daemon.node_pid, "the new node died as well"
    witness.worker.kill()
    await_books(store, before, max(died, time.monotonic()), point)
    until(lambda: store.stats()["extents"] in (0, "0"), f"what the dead client wrote is adopted: {store.stats()}")
    with store.get("x/7") as view:
        assert shows(view.numpy(), NEW)


def test_an_answered_request_is_not_done_again(store, daemon, armory, make_worker):
    """The node dies after an answer, before it takes the request off the ring; then somebody else writes."""
    early = make_worker("early")  # its ring comes before the other's
    late = make_worker("late")
    armory.arm("node.put.answered", "stop")
    late.do(f"store.put('x', pattern({OLD}, {SMALL}))")
    armory.await_fired("node.put.answered")
    armory.arm("client.put.submitted", "stop")
    early.start(PUT)
    armory.await_fired("client.put.submitted")
    early.wait_stopped()
    os.kill(daemon.node_pid, signal.SIGKILL)
    early.resume()
    early.result()
    with store.get("x") as view:
        assert shows(view.numpy(), NEW), "an older put was done again over a newer one"


def test_an_answered_delete_is_not_done_again(store, daemon, armory, make_worker):
    early = make_worker("early")
    late = make_worker("late")
    late.do(f"store.put('x', pattern({OLD}, {SMALL}))")
    armory.arm("node.delete.answered", "stop")
    assert late.do(DELETE)
    armory.await_fired("node.delete.answered")
    armory.arm("client.put.submitted", "stop")
    early.start(PUT)
    armory.await_fired("client.put.submitted")
    early.wait_stopped()
    os.kill(daemon.node_pid, signal.SIGKILL)
    early.resume()
    early.result()
    late.do("store.stats()")
    assert store.exists("x"), "a delete was done again, after a put that came later"
    with store.get("x") as view:
        assert shows(view.numpy(), NEW)
