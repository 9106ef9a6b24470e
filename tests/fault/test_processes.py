"""SIGSTOP, fork, exec, threads: what a process holds is its own, and no other process waits for it."""

from __future__ import annotations

import time

import pytest

from support.books import await_books, books
from support.pattern import pattern, shows
from support.waiting import until

SIZE = 1 << 16


def test_others_go_on_while_a_reader_is_stopped(store, make_worker):
    store.put("x", pattern(1, SIZE))
    before = books(store)
    reader = make_worker("reader")
    reader.do("views = [store.get('x') for _ in range(10)]")
    reader.stop()
    for seed in range(2, 40):
        store.put("x", pattern(seed, SIZE))
        with store.get("x") as view:
            assert shows(view.numpy(), seed)
    held = books(store)
    assert held["retired"] == 1 and held["retired_bytes"] == SIZE, "only what the stopped reader sees is kept"
    reader.resume()
    assert reader.do("all(shows(view.numpy(), 1) for view in views)"), "a view changed while its process was stopped"
    assert reader.do("shows(store.get('x').numpy(), 39)")
    reader.do("del views")
    reader.close()
    await_books(store, before, time.monotonic(), "the reader ended")


def test_others_go_on_while_a_writer_is_stopped(store, make_worker):
    store.put("x", pattern(1, SIZE))
    before = books(store)
    writer = make_worker("writer")
    writer.do("draft = store.create('big', 3 << 20, 'u8'); half = draft.numpy(); half[: 1 << 20] = 5")
    writer.do("small = store.create('small', 100, 'u8')")
    writer.stop()
    other = make_worker("other")
    for seed in range(2, 10):
        other.do(f"store.put('x', pattern({seed}, 3 << 20))")
        other.do(f"store.put('small', pattern({seed}, 100))")
    assert books(store)["drafts"] == 2, "a stopped writer keeps its drafts"
    assert not store.exists("big"), "a draft is visible"
    writer.resume()
    writer.do("half[:] = pattern(3, 3 << 20); del half; draft.publish(); small.abort()")
    with store.get("big") as view:
        assert shows(view.numpy(), 3)
    with store.get("small") as view:
        assert shows(view.numpy(), 9)
    writer.close()
    other.close()
    await_books(store, before, time.monotonic(), "the writers ended")


FORK = """
go_read, go_write = os.pipe()
done_read, done_write = os.pipe()
child = os.fork()
if child == 0:
    os.close(go_write)
    code = 1
    try:
        os.read(go_read, 1)  # until the parent says so, or is gone
        good = %s
        os.write(done_write, b'y' if good else b'n')
        code = 0
    finally:
        os._exit(code)
os.close(go_read)
os.close(done_write)
"""
READS = "shows(array, 1) and shows(store.get('y').numpy(), 2)"
READS_AND_PUTS = "shows(store.get('y').numpy(), 2) and store.put('from/child', pattern(4, 100)).version >= 1"


@pytest.mark.parametrize("with_views", [True, False], ids=["views", "no views"])
def test_the_child_outlives_the_parent(store, make_worker, tmp_path, with_views):
    store.put("x", pattern(1, SIZE))
    store.put("y", pattern(2, SIZE))
    before = books(store)
    worker = make_worker("parent")
    fifo = tmp_path / "verdict"
    worker.do("view = store.get('x'); array = view.numpy()" if with_views else "store.exists('x')")
    good = READS if with_views else READS_AND_PUTS
    worker.do(FORK % f"open({str(fifo)!r}, 'w').write('good' if {good} else 'bad')")
    worker.kill()  # closes the pipe: the child goes on
    if with_views:
        store.delete("x")  # before the child looks; its own pin holds the bytes
        for seed in range(5, 30):
            store.put("z", pattern(seed, SIZE))
    assert until(lambda: fifo.exists() and fifo.read_text(), "the child's verdict") == "good"
    await_books(store, before, time.monotonic(), "parent and child are gone")


@pytest.mark.parametrize("with_views", [True, False], ids=["views", "no views"])
def test_the_parent_outlives_the_child(store, make_worker, with_views):
    store.put("x", pattern(1, SIZE))
    store.put("y", pattern(2, SIZE))
    before = books(store)
    worker = make_worker("parent")
    worker.do("view = store.get('x'); array = view.numpy()" if with_views else "store.exists('x')")
    worker.do(FORK % (READS if with_views else READS_AND_PUTS))
    assert worker.do("os.write(go_write, b'x'), os.read(done_read, 1).decode()")[1] == "y"
    assert worker.do("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])") == 0
    pins = before["pins"] + (1 if with_views else 0)
    await_books(store, before | {"pins": pins, "sessions": before["sessions"] + 1}, time.monotonic(), "the child")
    store.delete("x")
    if with_views:
        for seed in range(5, 30):
            store.put("z", pattern(seed, SIZE))
        assert worker.do("shows(array, 1)"), "the parent's view changed after its child's end"
    assert worker.do("shows(store.get('y').numpy(), 2)")
    await_books(store, before, worker.kill(), "the parent")


def test_exec_ends_what_a_process_held(store, make_worker):
    """No descriptor of a session survives exec: a program that knows nothing of Penstock holds nothing."""
    store.put("x", pattern(1, SIZE))
    before = books(store)
    worker = make_worker("exec")
    worker.do("views = [store.get('x') for _ in range(10)]; draft = store.create('d', 3 << 20, 'u8')")
    store.delete("x")
    assert books(store)["retired"] == 1
    worker.start("import sys; os.execv(sys.executable, [sys.executable, '-c', 'import signal; signal.pause()'])")
    await_books(store, before, time.monotonic(), "exec")
    assert worker.process.poll() is None, "it is its memory that is gone, not the process"


def test_a_child_that_execs_leaves_the_parents_views(store, make_worker):
    store.put("x", pattern(1, SIZE))
    worker = make_worker("parent")
    worker.do("import subprocess; view = store.get('x'); array = view.numpy()")
    assert worker.do("[subprocess.run(['true'], close_fds=False).returncode for _ in range(5)]") == [0] * 5
    store.delete("x")
    for seed in range(5, 30):
        store.put("z", pattern(seed, SIZE))
    assert worker.do("shows(array, 1)")


THREADS = """
import threading
wrong = []
def read(n):
    for i in range(300):
        view = store.get(f'x/{(n + i) % 4}')
        seed = int(view.metadata['seed'])
        if not shows(view.numpy(), seed):
            wrong.append((view.name, view.version))
        if i % 3 == 0:
            store.put(f'x/{n}', pattern(1000 * n + i, 8192), metadata={'seed': str(1000 * n + i)})
threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_read_and_write_at_once_and_die_together(store, make_worker):
    before = books(store)
    for n in range(4):
        store.put(f"x/{n}", pattern(n, 8192), metadata={"seed": str(n)})
    workers = [make_worker(f"threads {n}") for n in range(2)]
    for worker in workers:
        worker.start(THREADS)
    for worker in workers:
        worker.result()
        assert worker.do("wrong") == []
    workers[0].start(THREADS)
    workers[1].start(THREADS)
    workers[0].kill()
    workers[1].result()
    assert workers[1].do("wrong") == [], "a death in another process tore a view"
    await_books(store, before, workers[1].kill(), "two processes of four threads")
    for n in range(4):
        with store.get(f"x/{n}") as view:
            assert shows(view.numpy(), int(view.metadata["seed"]))
