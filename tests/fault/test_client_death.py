"""SIGKILL of a client at every step of put, create, publish, get and release."""

from __future__ import annotations

import time

import pytest

from support.books import await_books, books
from support.daemon import Cli
from support.pattern import pattern, shows
from support.worker import Died

SMALL, BIG = 4096, 3 << 20
OLD, NEW = 1, 2  # seeds of the pattern: the version that was acknowledged, and the one that is being written

PUT_SMALL = f"store.put('x', pattern({NEW}, {SMALL}))"
PUT_BIG = f"store.put('x', pattern({NEW}, {BIG}))"
CREATE = f"""
with store.create('x', {BIG}, 'u8') as draft:
    draft.numpy()[:] = pattern({NEW}, {BIG})
"""
ABORT = f"""
draft = store.create('x', {BIG}, 'u8')
draft.numpy()[:] = pattern({NEW}, {BIG})
draft.abort()
"""


def pattern_of(seed: int):
    return pattern(seed, SMALL * 16)


WRITER_STEPS = [
    # Where it dies, doing what, and what 'x' may show afterwards.
    ("client.put.staged", PUT_SMALL, {OLD}),
    ("client.put.submitted", PUT_SMALL, {OLD, NEW}),
    ("client.put.answered", PUT_SMALL, {NEW}),
    ("client.extent.mapped", PUT_BIG, {OLD}),
    ("client.extent.sealed", PUT_BIG, {OLD}),
    ("client.put.reserved", PUT_BIG, {OLD}),
    ("client.put.filled", PUT_BIG, {OLD}),
    ("client.publish.before", PUT_BIG, {OLD}),
    ("client.publish.submitted", PUT_BIG, {OLD, NEW}),
    ("client.create.reserved", CREATE, {OLD}),
    ("client.publish.protected", CREATE, {OLD}),
    ("client.abort.before", ABORT, {OLD}),
]


@pytest.mark.parametrize(("point", "code", "allowed"), WRITER_STEPS, ids=[step[0] for step in WRITER_STEPS])
def test_a_writer_dies(store, armory, make_worker, point, code, allowed):
    before = books(store)
    worker = make_worker("writer")
    # Acknowledged: the version that is being overwritten, and a tensor next to it, in the same kind of memory.
    size = SMALL if code is PUT_SMALL else BIG
    worker.do(f"store.put('kept', pattern(7, {size}))")
    worker.do(f"store.put('x', pattern({OLD}, {SMALL}))")
    if point.startswith("client.extent"):  # of a size that no extent of this session has left
        code = code.replace(str(BIG), str(12 << 20))
    armory.arm(point)
    worker.start(code)
    died = worker.wait_killed()
    assert armory.fired(point)
    with pytest.raises(Died):
        worker.result()

    await_books(store, before, died, point)
    with store.get("x") as view:
        found = [seed for seed in (OLD, NEW) if shows(view.numpy(), seed)]
    assert len(found) == 1, "'x' is torn: it shows neither version"
    assert found[0] in allowed
    with store.get("kept") as view:
        assert shows(view.numpy(), 7)
    store.put("x", b"the name can be written again")


@pytest.mark.parametrize("point", ["client.put_many.submitted", "client.put_many.waiting", "client.put_many.taken"])
def test_a_writer_of_many_dies(store, armory, make_worker, point):
    before = books(store)
    worker = make_worker("writer")
    worker.do("store.put_many({f'old/{i}': pattern(i, 100) for i in range(50)})")
    armory.arm(point)
    worker.start("store.put_many({f'new/{i}': pattern(i, 4096) for i in range(3000)})")
    died = worker.wait_killed()
    await_books(store, before, died, point)
    assert sorted(info.name for info in store.list("old/")) == sorted(f"old/{i}" for i in range(50))
    for info in list(store.list()):
        seed = int(info.name.rpartition("/")[2])
        with store.get(info.name) as view:
            assert shows(view.numpy(), seed), f"{info.name} is torn"


def test_a_client_dies_with_everything_at_once(store, daemon, make_worker):
    """The same books as everybody sees them: penstock df, pins, sessions."""
    cli = Cli(daemon.socket_dir)
    before = books(store)
    worker = make_worker("victim")
    worker.do(f"drafts = [store.create(f'd/{{i}}', {BIG}, 'u8') for i in range(5)]")
    worker.do("small = [store.create(f's/{i}', 10, 'u8') for i in range(100)]")
    worker.do(f"store.put('x', pattern({OLD}, {BIG})); views = [store.get('x') for _ in range(100)]")
    store.put("x", pattern(NEW, SMALL))
    df = cli.json("df")
    assert (int(df["drafts"]), int(df["draft_bytes"])) == (105, 5 * BIG + 1000)
    assert (int(df["retired"]), int(df["retired_bytes"])) == (1, BIG)
    pins = {row["name"]: row for row in cli.json("pins")}
    assert int(pins["x"]["count"]) == 100 and pins["x"]["retired"]
    victim = {row["label"]: row for row in cli.json("sessions")}["victim"]
    assert (int(victim["pins"]), int(victim["drafts"])) == (100, 105)
    assert int(victim["pinned_retired_bytes"]) == BIG and int(victim["extent_bytes"]) >= 6 * BIG
    await_books(store, before, worker.kill(), "5 large and 100 small drafts, 100 views")
    df = cli.json("df")
    assert [int(df[key]) for key in ("drafts", "draft_bytes", "retired", "retired_bytes", "pins")] == [0] * 5
    assert cli.json("pins") == []
    assert "victim" not in {row["label"] for row in cli.json("sessions")}
    with store.get("x") as view:
        assert shows(view.numpy(), NEW)


READER_STEPS = [
    # Where it stops, doing what, and whether its pin holds the tensor there.
    ("client.get.pinning", "view = store.get('x')", True),
    ("client.get.pinned", "view = store.get('x')", True),
    ("client.get.mapped", "view = store.get('x', version=store.stat('x').version)", True),
    ("client.copy_on_write.mapped", "view = store.get('x'); view.torch()", True),
    ("client.release.before", "view = store.get('x'); view.release()", True),
    ("client.release.after", "view = store.get('x'); view.release()", False),
    ("client.release.dropped",
     "view = store.get('x'); tensor = view.torch(); tensor += 1; del tensor; view.release()", True),
]


@pytest.mark.parametrize(("point", "code", "holds"), READER_STEPS, ids=[step[0] for step in READER_STEPS])
def test_a_reader_stops_and_dies(store, armory, make_worker, point, code, holds):
    """Stopped first: what it holds stays, others go on. Then killed: what it held comes back."""
    if "torch" in code:
        pytest.importorskip("torch")
    store.put("x", pattern_of(OLD))
    before = books(store)
    worker = make_worker("reader")
    armory.arm(point, "stop")
    worker.start(code)
    armory.await_fired(point)
    worker.wait_stopped()
    store.put("x", pattern_of(NEW))  # retires what the reader is looking at
    for _ in range(3):
        store.put("y", pattern_of(3))
        store.delete("y")
    with store.get("x") as view:
        assert shows(view.numpy(), NEW)
    if holds:
        held = books(store)
        assert held["retired"] >= 1 and held["retired_bytes"] >= SMALL * 16, f"the pin at {point} does not hold"
    worker.kill()
    await_books(store, before, time.monotonic(), point)


@pytest.mark.parametrize("point", [step[0] for step in READER_STEPS if "torch" not in step[1]])
def test_a_reader_stops_and_wakes(store, armory, make_worker, point):
    """After SIGCONT a view shows one version, whole: the one that was there, or the one that came."""
    code = {step[0]: step[1] for step in READER_STEPS}[point]
    store.put("x", pattern_of(OLD))
    before = books(store)
    worker = make_worker("reader")
    armory.arm(point, "stop")
    worker.start(code + "\nalive = None if view.released else view.numpy()")
    armory.await_fired(point)
    worker.wait_stopped()
    store.put("x", pattern_of(NEW))
    for i in range(20):  # would be written over the old version if its memory were free
        store.put(f"y/{i}", pattern_of(3))
    worker.resume()
    worker.result()
    if "release" not in point:
        assert worker.do(f"[s for s in ({OLD}, {NEW}) if shows(alive, s)]") in ([OLD], [NEW])
    worker.do("del view, alive")
    worker.close()
    await_books(store, before, time.monotonic(), f"{point}, woken")


def test_a_client_dies_while_it_gives_a_segment_back(store, daemon, armory, make_worker):
    """DropSegment is answered by a death: the node must not wait for the answer."""
    before = books(store)
    writer = make_worker("writer")
    writer.do(f"store.put('x', pattern({OLD}, {BIG}))")
    reader = make_worker("reader")
    reader.do("view = store.get('x'); view.release()")
    armory.arm("client.segment.unmapped")
    store.delete("x")
    writer_died = writer.kill()
    reader.wait_killed()
    await_books(store, before, writer_died, "a segment on its way back")


def test_a_child_of_a_fork_dies_with_its_copied_pins(store, make_worker):
    store.put("x", pattern_of(OLD))
    before = books(store)
    worker = make_worker("parent")
    worker.do("view = store.get('x')")
    child = worker.do(
        "import signal\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    while True: signal.pause()\n") or worker.do("child")
    assert books(store)["pins"] == before["pins"] + 2, "the child has pins of its own"
    worker.do(f"os.kill({child}, 9); os.waitpid({child}, 0)")
    died = time.monotonic()
    await_books(store, before | {"pins": before["pins"] + 1, "sessions": before["sessions"] + 1}, died,
                "a forked child")
    await_books(store, before, worker.kill(), "its parent")


def test_a_parent_dies_in_the_middle_of_the_hand_over(store, armory, make_worker):
    store.put("x", pattern_of(OLD))
    before = books(store)
    worker = make_worker("parent")
    worker.do("view = store.get('x')")
    armory.arm("client.fork.handed_over")
    worker.start("os.fork()")
    await_books(store, before, worker.wait_killed(), "a fork that was never finished")
