"""SIGKILL of a writer of shards, of the one who completes a tensor, or of the node, at every step: the tensor is there once and whole, or not at
all, the next attempt completes it, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from typing import Any, Iterator

import numpy as np
import penstock
import pytest

from support.waiting import is_stopped, until

PUT = """
import numpy as np, penstock, sys
store = penstock.connect(sys.argv[1], timeout=30)
name, (first, value, version) = sys.argv[2], map(int, sys.argv[3:])
info = store.put_shard(name, np.full((2, 1000), value), global_shape=(4, 1000), offset=(first, 0), version=version or None)
print(info and info.version, flush=True)
sys.stdin.readline()
"""


class Writer:
    """A process that puts two of the four rows and then lives until it is told to end."""

    def __init__(self, daemon: Any, armory: Any, name: str, first: int, value: int, version: int = 0) -> None:
        arguments = [str(daemon.socket_dir), name, str(first), str(value), str(version)]
        self.process = subprocess.Popen([sys.executable, "-c", PUT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "PENSTOCK_FAULT_DIR": str(armory.folder)})

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        self.process.communicate("\n", timeout=60)
        return self.process.returncode


def internal(store: penstock.Store) -> list[str]:
    return [info.name for info in store.list(".penstock/")]


@pytest.fixture
def w() -> str:
    """A name that had no version yet."""
    return f"w/{uuid.uuid4()}"


def shows(store: penstock.Store, w: str, upper: int, lower: int) -> bool:
    value = store.get(w).numpy()
    return bool((value[:2] == upper).all() and (value[2:] == lower).all())


@pytest.fixture(params=["absent", "present", "deleted"])
def before(request: pytest.FixtureRequest, w: str, store: penstock.Store) -> Iterator[int]:
    """The version of the name before; it may have had others."""
    if request.param != "absent":
        store.put(w, np.zeros(3))
        store.put(w, np.zeros(3))
    if request.param == "deleted":
        store.delete(w)
    yield store.stat(w).version if request.param == "present" else 0
    store.delete(w)
    assert internal(store) == []


@pytest.mark.parametrize("point", ["client.shards.put", "client.shards.added"])
def test_a_writer_that_dies_leaves_its_box_open(daemon, store, armory, w, before, point):
    armory.arm(point)
    assert Writer(daemon, armory, w, 0, 1).process.wait(60) == -signal.SIGKILL
    until(lambda: [name for name in internal(store) if name.startswith(".penstock/shard/")] == [], "its shard has gone")
    lower = Writer(daemon, armory, w, 2, 2)
    assert lower.told() == "None"
    upper = Writer(daemon, armory, w, 0, 3)
    assert int(upper.told()) > before and shows(store, w, 3, 2)
    assert [lower.end(), upper.end()] == [0, 0]


@pytest.mark.parametrize("version", [0, 9])
@pytest.mark.parametrize("point", ["client.create.reserved", "client.shards.filled", "client.shards.numbered", "client.publish.protected"])
def test_who_dies_before_it_is_published_leaves_it_to_the_next(daemon, store, armory, w, before, point, version):
    upper = Writer(daemon, armory, w, 0, 1, version)
    assert upper.told() == "None"
    armory.arm(point)
    assert Writer(daemon, armory, w, 2, 2, version).process.wait(60) == -signal.SIGKILL
    assert (store.stat(w).version if before else store.exists(w)) == before, "nothing is published"
    lower = Writer(daemon, armory, w, 2, 3, version)
    told = lower.told()
    if told == "None":  # whether a name that was deleted had been put once more, nobody can know: the others put again
        assert version == 0 and before == 0 and point in ("client.shards.numbered", "client.publish.protected")
        assert upper.end() == 0
        upper = Writer(daemon, armory, w, 0, 1)
        told = upper.told()
    assert int(told) > before and shows(store, w, 1, 3)
    assert [lower.end(), upper.end()] == [0, 0]


@pytest.mark.parametrize("version", [0, 9])
@pytest.mark.parametrize("point", ["client.shards.published", "client.shards.deleted"])
def test_who_dies_after_it_is_published_leaves_what_the_next_put_sweeps(daemon, store, armory, w, before, point, version):
    upper = Writer(daemon, armory, w, 0, 1, version)
    assert upper.told() == "None"
    armory.arm(point)
    assert Writer(daemon, armory, w, 2, 2, version).process.wait(60) == -signal.SIGKILL
    published = store.stat(w).version
    assert published > before and shows(store, w, 1, 2)
    following = version + 1 if version else 0
    lower = Writer(daemon, armory, w, 2, 4, following)
    assert lower.told() == "None", "the old shard is of the round before"
    assert store.stat(w).version == published and len(internal(store)) == 2
    assert upper.end() == 0
    again = Writer(daemon, armory, w, 0, 3, following)
    assert int(again.told()) > published and shows(store, w, 3, 4)
    assert [lower.end(), again.end()] == [0, 0]


@pytest.mark.parametrize("point", ["client.create.reserved", "client.shards.filled"])
def test_who_is_stopped_while_a_replica_completes_it_publishes_nothing(daemon, store, armory, w, point):
    upper = Writer(daemon, armory, w, 0, 1)
    assert upper.told() == "None"
    armory.arm(point, "stop")
    slow = Writer(daemon, armory, w, 2, 2)
    armory.await_fired(point)
    until(lambda: is_stopped(slow.process.pid), "it stops")
    fast = Writer(daemon, armory, w, 2, 2)
    assert fast.told() == "1"
    following = Writer(daemon, armory, w, 0, 3)
    assert following.told() == "None"
    slow.process.send_signal(signal.SIGCONT)
    assert slow.told() == "None", "it is of the round before"
    assert store.stat(w).version == 1 and shows(store, w, 1, 2)
    last = Writer(daemon, armory, w, 2, 4)
    assert last.told() == "2" and shows(store, w, 3, 4)
    assert [one.end() for one in (upper, slow, fast, following, last)] == [0] * 5
    assert internal(store) == []


def test_a_name_that_is_put_whole_at_the_last_moment_keeps_that_as_the_later_one(daemon, store, armory, w):
    upper = Writer(daemon, armory, w, 0, 1)
    assert upper.told() == "None"
    armory.arm("client.shards.numbered", "stop")
    lower = Writer(daemon, armory, w, 2, 2)
    armory.await_fired("client.shards.numbered")
    until(lambda: is_stopped(lower.process.pid), "it stops")
    store.put(w, np.zeros(3))
    lower.process.send_signal(signal.SIGCONT)
    assert lower.told() == "None" and store.stat(w).version == 1 and store.get(w).shape == (3,)
    assert [upper.end(), lower.end()] == [0, 0]
    assert internal(store) == []


@pytest.mark.parametrize("point", ["node.put.published", "node.publish.state", "node.publish.live", "node.retire.even", "node.delete.answered"])
def test_a_node_that_dies_meanwhile_publishes_once(daemon, store, armory, w, point):
    upper = Writer(daemon, armory, w, 0, 1)
    assert upper.told() == "None"
    pid = daemon.node_pid
    armory.arm("client.shards.filled", "stop")
    lower = Writer(daemon, armory, w, 2, 2)
    until(lambda: is_stopped(lower.process.pid), "it has filled the draft")
    armory.arm(point)
    lower.process.send_signal(signal.SIGCONT)
    version = int(lower.told())  # the next node does not know any more that the name had none
    armory.await_fired(point)
    until(lambda: daemon.node_pid not in (None, pid), "the warden forks a new node")
    assert store.stat(w).version == version and shows(store, w, 1, 2)
    assert [upper.end(), lower.end()] == [0, 0]
    until(lambda: internal(store) == [], f"nothing is left: {internal(store)}")


ROUNDS = """
import numpy as np, penstock, sys
store = penstock.connect(sys.argv[1], timeout=30)
name, (rank, last) = sys.argv[2], map(int, sys.argv[3:])
while (number := store.stat(name).version + 1) <= last:
    try:
        store.put_shard(name, np.full((10, 300), number), global_shape=(40, 300), offset=(10 * rank, 0), version=number)
        store.wait(name, number, timeout=0.5)
    except (penstock.ConflictError, penstock.DeadlineError):
        pass  # it came late, or another one has died: once more
"""


def test_rounds_go_on_while_writers_die_at_random(daemon, store, armory, w):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    first = store.put(w, np.zeros(3)).version  # above what the node remembers of deleted names after a restart
    last = first + 150

    def start(rank: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", ROUNDS, str(daemon.socket_dir), w, str(rank), str(last)])

    writers = [start(rank) for rank in range(4)]
    kills, seen = 0, first
    end = time.monotonic() + 150
    while seen < last:
        assert time.monotonic() < end, f"seed {seed}: round {seen + 1} does not come, after {kills} kills"
        if kills < 12 and chance.random() < 0.2 and first + kills * 5 < seen < last - 10:  # the last ones sweep
            rank = chance.randrange(4)
            writers[rank].kill()
            writers[rank].wait()
            writers[rank] = start(rank)
            kills += 1
        with store.get(w) as view:
            value = view.numpy()
            assert view.version >= seen and (view.version == first or (value == view.version).all()), f"seed {seed}: of several rounds"
            seen = view.version
            del value
        time.sleep(0.005)
    assert [writer.wait(60) for writer in writers] == [0] * 4 and kills > 0
    until(lambda: internal(store) == [], f"seed {seed}: nothing is left: {internal(store)}")
