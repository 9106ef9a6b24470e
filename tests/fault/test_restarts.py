"""Ten deaths of the node in a row under load; the warden's death; a second daemon on the same directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest

import penstock
from support.books import await_books, books
from support.daemon import BUILD, DEADLINE_S, clean_environment, start_daemon
from support.pattern import shows
from support.waiting import until
from support.worker import CallFailed, Worker

LOAD = """
import threading, time
stop = threading.Event()
acknowledged, wrong, errors = {}, [], []
def load(n):
    i = 0
    while not stop.is_set():
        try:
            i += 1
            size = 2 << 20 if i % 50 == 0 else 4096
            seed = 100_000 * n + i
            store.put(f'load/{n}/{i % 20}', pattern(seed, size), metadata={'seed': str(seed)})
            acknowledged[f'load/{n}/{i % 20}'] = seed
            view = store.get(f'load/{n}/{i // 2 % 20}')
            if not shows(view.numpy(), int(view.metadata['seed'])):
                wrong.append(view.name)
        except penstock.NotFoundError:
            pass
        except BaseException as error:
            errors.append(repr(error))
            return
threads = [threading.Thread(target=load, args=(n + FIRST,)) for n in range(2)]
for thread in threads: thread.start()
"""


def test_the_node_dies_ten_times_under_load(store, daemon, make_worker):
    before = books(store)
    workers = [make_worker(f"load {n}") for n in range(2)]
    for n, worker in enumerate(workers):
        worker.do("store.put('held', pattern(9, 1 << 20)); held = store.get('held')")
        worker.do(LOAD.replace("FIRST", str(2 * n)))
    generation = int(store.stats()["generation"])
    for death in range(10):
        done = [worker.do("len(acknowledged) and sum(acknowledged.values())") for worker in workers]
        os.kill(until(lambda: daemon.node_pid, "there is a node"), signal.SIGKILL)
        until(lambda: int(store.stats()["generation"]) == generation + death + 1, "a new node")
        for worker, old in zip(workers, done):  # each makes progress with the new one
            until(lambda: worker.do("bool(errors) or sum(acknowledged.values()) != %d" % old), "progress")
    for worker in workers:
        worker.do("stop.set(); [thread.join() for thread in threads]")
        assert worker.do("errors") == []
        assert worker.do("wrong") == []
        assert worker.do("shows(held.numpy(), 9)")
        for name, seed in worker.do("acknowledged").items():
            with store.get(name) as view:
                assert int(view.metadata["seed"]) == seed, f"{name}: an acknowledged put is lost"
                assert shows(view.numpy(), seed)
    died = max(worker.kill() for worker in workers)
    await_books(store, before, died, "clients of ten dead nodes")


def test_a_store_ends_with_its_warden_and_views_stay_readable(short_tmp):
    daemon = start_daemon(short_tmp / "warden", "--memory=128MiB")
    node = daemon.node_pid
    with Worker(daemon.socket_dir) as worker:
        worker.do("store.put('x', pattern(1, 1 << 16)); store.put('y', pattern(2, 3 << 20))")
        worker.do("x, y = store.get('x'), store.get('y')")
        worker.do("draft = store.create('d', 3 << 20, 'u8')")
        daemon.process.kill()
        daemon.process.wait()
        until(lambda: not os.path.exists(f"/proc/{node}"), "the node dies with its warden")
        for code in ("store.put('z', b'1')", "store.stats()", "draft.publish()", "store.wait('w', timeout=20)"):
            with pytest.raises(CallFailed, match="UnavailableError"):
                worker.do(code)
        assert worker.do("shows(x.numpy(), 1) and shows(y.numpy(), 2)"), "an open view changed"
        # A daemon that starts in its place is a new store; the client finds it by itself.
        again = start_daemon(short_tmp / "warden", "--memory=128MiB")
        worker.do("store.put('z', pattern(3, 100))")
        assert worker.do("shows(store.get('z').numpy(), 3) and shows(x.numpy(), 1) and not store.exists('x')")
        assert again.stop() == 0


RECONNECT_AND_FORK = """
import os, signal, threading
def look():
    try:
        mine.put('z', b'1')
    except penstock.Error:
        return
thread = threading.Thread(target=look)
def child_looks():
    pid = os.fork()
    if pid == 0:
        signal.alarm(40)  # the end of a child that waits for a lock which nobody in it can give back
        look()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_a_child_is_not_held_up_by_a_reconnect_of_its_parent(short_tmp):
    daemon = start_daemon(short_tmp / "reconnect", "--memory=128MiB")
    with Worker(daemon.socket_dir) as worker:
        worker.do("mine = penstock.connect(store.address, timeout=3.0); mine.put('x', pattern(1, 8))")
        worker.do(RECONNECT_AND_FORK)
        daemon.process.kill()
        daemon.process.wait()
        with pytest.raises(CallFailed, match="UnavailableError"):
            worker.do("mine.put('z', b'1')")  # from now on it tries to connect
        path = daemon.socket_dir / "fd.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
            mute.bind(str(path))
            mute.listen()
            mute.settimeout(30)
            worker.do("thread.start()")
            peer, _ = mute.accept()  # the thread waits for an answer that does not come
            with peer:
                assert worker.do("child_looks()") == 0
        worker.do("thread.join()")


def test_a_second_daemon_on_the_same_directory_is_refused(store, daemon):
    store.put("x", b"still here")
    started = subprocess.run(
        [str(BUILD / "bin" / "penstockd"), f"--socket_dir={daemon.socket_dir}", "--grpc_port=0", "--memory=64MiB"],
        env=clean_environment(), capture_output=True, timeout=DEADLINE_S, text=True)
    assert started.returncode not in (0, -signal.SIGKILL)
    assert str(daemon.socket_dir) in started.stderr
    with penstock.connect(str(daemon.socket_dir)) as other:  # the first one still serves, on its own sockets
        assert bytes(other.get("x").bytes()) == b"still here"
