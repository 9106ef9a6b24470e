"""SIGKILL of the writer, of a rank or of the node at every step of a snapshot: all of it is there, or nothing; and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import penstock
from support.waiting import is_stopped, until

PREFIX = "ckpt/m"
VALUE = """
import numpy as np, penstock, sys
store = penstock.connect(sys.argv[1], timeout=30)
value, rank, ranks = map(int, sys.argv[3:])
number = None if ranks == 1 else value
with store.snapshot("ckpt/m", number=number, rank=rank, ranks=ranks, timeout=30) as snap:
    snap.put_shard("w", np.full((1000, 700), value), global_shape=(1000 * ranks, 700), offset=(1000 * rank, 0))
    if rank == 0:
        snap.put("b", np.full(5, value))
print(snap.number)
"""

# The same, with tensors that were put before the snapshot was opened, and one that it has no use for.
STAGED = """
import numpy as np, penstock, sys
store = penstock.connect(sys.argv[1], timeout=30)
value, rank, ranks = map(int, sys.argv[3:])
stage = store._open_stage()
w, b = np.full((1000, 700), value), np.full(5, value)
assert stage.put_many([w, w]) == 0 and stage.put_many([b]) == 2
writer = store._open_snapshot("ckpt/m", value, None, None, rank, ranks, 30)
writer.put_many([("w", w, (1000 * rank, 0), (1000 * ranks, 700), stage.id, 1)])
if rank == 0:
    writer.put_many([("b", b, None, None, stage.id, 2)])
writer.commit()
"""


def start(daemon, armory, value: int, rank: int = 0, ranks: int = 1, code: str = VALUE) -> subprocess.Popen[str]:
    arguments = [str(daemon.socket_dir), str(armory.folder), str(value), str(rank), str(ranks)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PENSTOCK_FAULT_DIR": str(armory.folder)})


def internal(store: penstock.Store) -> list[str]:
    return [info.name for info in store.list(".penstock/")]


def remove_all(store: penstock.Store) -> None:
    for number in store.snapshots(PREFIX):
        store.remove_snapshot(PREFIX, number)
    assert internal(store) == []


def holds(store: penstock.Store, value: int) -> bool:
    loaded = store.get_state_dict(PREFIX)
    return bool((loaded["w"] == value).all() and (loaded["b"] == value).all())


@pytest.mark.parametrize("point", ["client.put.reserved", "client.put.filled", "client.snapshot.manifest", "client.create.reserved", "client.publish.protected"])
def test_a_writer_that_dies_leaves_the_one_before(daemon, store, armory, point):
    assert start(daemon, armory, 1).wait(60) == 0
    armory.arm(point)
    writer = start(daemon, armory, 2)
    assert writer.wait(60) == -9, writer.communicate()
    until(lambda: len(internal(store)) == 4, f"what the dead one had put is gone: {internal(store)}")
    assert store.snapshots(PREFIX) == [1] and holds(store, 1)
    remove_all(store)


@pytest.mark.parametrize("point", ["node.commit.kept", "node.publish.state", "node.publish.live", "node.publish.replaced", "node.retire.even"])
def test_a_node_that_dies_commits_once_and_whole(daemon, store, armory, point):
    assert start(daemon, armory, 1).wait(60) == 0
    pid = daemon.node_pid
    code = VALUE.replace("print(snap.number)", "").replace("    if rank == 0:\n        snap.put(\"b\", np.full(5, value))\n", "    snap.put(\"b\", np.full(5, value))\n    open(sys.argv[2] + \"/%s\", \"w\").write(\"kill\")\n" % point)
    done = subprocess.run([sys.executable, "-c", code, str(daemon.socket_dir), str(armory.folder), "2", "0", "1"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    armory.await_fired(point)
    until(lambda: daemon.node_pid not in (None, pid), "the warden forks a new node")
    until(lambda: store.snapshots(PREFIX) == [1, 2] and holds(store, 2), "the new snapshot, once")
    remove_all(store)


@pytest.mark.parametrize("point", ["client.put.filled", "client.snapshot.manifest"])
def test_what_a_process_that_dies_has_staged_goes_with_it(daemon, store, armory, point):
    armory.arm(point)
    writer = start(daemon, armory, 2, code=STAGED)
    assert writer.wait(60) == -9, writer.communicate()
    until(lambda: internal(store) == [], f"nothing is left of {internal(store)}")


def test_a_node_that_dies_commits_what_was_staged_once(daemon, store, armory):
    pid = daemon.node_pid
    armory.arm("node.commit.kept")
    writer = start(daemon, armory, 2, code=STAGED)
    assert writer.wait(120) == 0, writer.communicate()
    until(lambda: daemon.node_pid not in (None, pid), "the warden forks a new node")
    until(lambda: len(internal(store)) == 6, f"index, manifest, two tensors, and whose they are: {internal(store)}")
    assert store.snapshots(PREFIX) == [2] and holds(store, 2)
    remove_all(store)


@pytest.mark.parametrize("code", [VALUE, STAGED], ids=["put", "staged"])
@pytest.mark.parametrize("point", ["client.snapshot.kept", "client.snapshot.voted"])
def test_ranks_that_die_between_their_vote_and_the_end(daemon, store, armory, point, code):
    armory.arm(point)
    ranks = [start(daemon, armory, 3, rank, 2, code) for rank in range(2)]
    codes = [rank.wait(90) for rank in ranks]
    assert -9 in codes, [rank.communicate() for rank in ranks]
    if store.snapshots(PREFIX):  # rank 1 had voted: rank 0 could go on without it
        assert codes == [0, -9] and store.snapshots(PREFIX) == [3] and (store.get_state_dict(PREFIX)["w"] == 3).all()
    else:
        again = [start(daemon, armory, 3, rank, 2, code) for rank in range(2)]  # who comes next sweeps
        assert [rank.wait(90) for rank in again] == [0, 0], [rank.communicate() for rank in again]
        assert store.snapshots(PREFIX) == [3]
    remove_all(store)



def test_a_commit_that_was_not_answered_is_whole_when_it_happens_later(daemon, store, armory):
    """The writer gives up waiting, and must not delete what may be published yet."""
    pid = daemon.node_pid
    armory.arm("node.commit.kept", "stop")
    with penstock.connect(str(daemon.socket_dir), timeout=1.0) as writer:
        snap = writer.snapshot(PREFIX)
        snap.put_state_dict({"w": np.full((1000, 700), 5), "b": np.full(5, 5)})
        with pytest.raises((penstock.DeadlineError, penstock.UnavailableError)):
            snap.commit()
        armory.await_fired("node.commit.kept")
        assert is_stopped(pid)
        snap.abort()
        os.kill(pid, signal.SIGCONT)
        until(lambda: store.snapshots(PREFIX) == [1] and holds(store, 5), "the snapshot, whole")
    remove_all(store)


def test_a_node_that_dies_while_it_ends_the_session_of_a_dead_writer_ends_it_again(daemon, store, armory):
    pid = daemon.node_pid
    armory.arm("client.snapshot.manifest")
    armory.arm("node.session.ending")
    writer = start(daemon, armory, 2)
    assert writer.wait(60) == -9, writer.communicate()
    armory.await_fired("node.session.ending")
    until(lambda: daemon.node_pid not in (None, pid), "the warden forks a new node")
    until(lambda: internal(store) == [], "what the dead one had put is gone")
