"""get(out=...) and boxes of another node's tensors: read straight into the caller's memory, only what is asked for."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import penstock
from support.daemon import Cli
from support.nodes import HAS_RDMA, start_nodes
from support.pattern import pattern, shows
from support.waiting import freeze, until

MIB = 1 << 20


def sent_bytes(store: penstock.Store) -> int:
    """That this client's node has copied from its peers."""
    return sum(int(path.get("read_bytes", 0)) for path in store.transports())


def test_out_is_filled_without_a_copy_in_the_node(stores):
    a, b = stores
    a.put("x", pattern(1, 3 * MIB))
    out = np.zeros(3 * MIB, np.uint8)
    assert b.get("x", out=out) is out and shows(out, 1)
    assert int(b.stats()["tensors"]) == 0, "nothing was copied into the node"
    until(lambda: int(a.stats()["pins"]) == 0, "the pin there was released")


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 20 * MIB + 3])
def test_sizes(stores, nbytes):
    a, b = stores
    a.put("x", pattern(2, nbytes))
    assert shows(b.get("x", out=np.empty(nbytes, np.uint8)), 2)


BOXES = [
    np.s_[:], np.s_[3], np.s_[2:7], np.s_[-2:], np.s_[:, 4], np.s_[1:3, 5:9], np.s_[..., 0], np.s_[2, 3, 1], np.s_[5:5], np.s_[:, 7:3],
    np.s_[::2], np.s_[:, ::3, 1], np.s_[1:8:3, ..., ::2], np.s_[::-1], np.s_[4, ::-2],
]


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "c16"])
def test_any_box_is_what_numpy_says(stores, dtype):
    a, b = stores
    x = np.arange(10 * 12 * 3).reshape(10, 12, 3).astype(dtype)
    a.put("x", x)
    for box in BOXES:
        want = x[box]
        got = b.get("x", box)
        assert got.shape == want.shape and np.array_equal(got.numpy(), want), box
        out = np.full(want.shape, 99, want.dtype)
        assert b.get("x", box, out=out) is out and np.array_equal(out, want), box
        strided = np.full((*want.shape, 2), 99, want.dtype)[..., 0]
        b.get("x", box, out=strided)
        assert np.array_equal(strided, want), box
    assert not b.get("x", np.s_[3]).numpy().flags.writeable


def test_ranks_0_and_16(stores):
    a, b = stores
    a.put("scalar", np.array(2.5))
    assert b.get("scalar", ()).numpy() == 2.5 and b.get("scalar", ..., out=np.zeros(())) == 2.5
    deep = np.arange(2**16, dtype=np.int32).reshape((2,) * 16)
    a.put("deep", deep)
    for box in (np.s_[1], np.s_[..., 1], (1, 0) * 8, np.s_[:, 1, :, 0, ..., 1], (slice(0, 1),) * 16):
        assert np.array_equal(b.get("deep", box).numpy(), deep[box])


def test_packed_dtypes_go_whole(stores):
    a, b = stores
    for name, shape in (("f4_e2m1x2", (100, 50)), ("f6_e2m3", (4, 8))):
        with a.create("packed", shape=shape, dtype=name) as draft:
            memory = draft.memoryview()
            memory[:] = pattern(7, len(memory)).tobytes()
        assert b.get("packed").bytes() == pattern(7, int(a.stat("packed").nbytes)).tobytes() and b.get("packed").shape == shape
        b.delete("packed")


def test_a_small_box_is_a_small_read(stores):
    a, b = stores
    x = np.arange(1024 * 1024, dtype=np.float32).reshape(1024, 1024)
    a.put("x", x)
    before = sent_bytes(b)
    view = b.get("x", np.s_[10:20, 100:200])
    assert (view.path, view.version, view.name, view.dtype) == ("stream", a.stat("x").version, "x", b.stat("x").dtype)
    assert np.array_equal(view.numpy(), x[10:20, 100:200]) and view.info.shape == (1024, 1024)
    assert view.info.nodes == a.stat("x").nodes and not view.is_zero_copy
    assert np.array_equal(view[3:5, 7].numpy(), x[13:15, 107]), "a view like any other"
    assert int(b.stats()["tensors"]) == 0 and sent_bytes(b) == before
    most = b.get("x", np.s_[:1000])
    assert most.path == "fetch" and np.array_equal(most.numpy(), x[:1000]), "most of it: a copy for all"
    assert b.get("x", np.s_[10:20]).path == "fetch", "which serves the small ones, too"


def test_what_a_box_shows_stays(stores):
    a, b = stores
    a.put("x", np.arange(100_000))
    view = b.get("x", np.s_[5:10])
    array = view.numpy()
    again = view[1:]
    a.put("x", np.zeros(100_000, np.int64))
    view.release()
    assert array.tolist() == [5, 6, 7, 8, 9] and again.numpy().tolist() == [6, 7, 8, 9]
    assert b.get("x", np.s_[5:10]).numpy().tolist() == [0] * 5
    pid = os.fork()
    if pid == 0:
        os._exit(0 if array.tolist() == [5, 6, 7, 8, 9] and b.get("x", np.s_[1:3]).numpy().tolist() == [0, 0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_torch_takes_a_box(stores):
    torch = pytest.importorskip("torch")
    a, b = stores
    x = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    a.put("x", x)
    assert torch.equal(b.get("x", np.s_[3:5]).torch(), torch.from_numpy(x[3:5]))
    out = torch.zeros(2, 100)
    b.get("x", np.s_[3:5], out=out)
    assert torch.equal(out, torch.from_numpy(x[3:5]))


def test_wrong_input_changes_nothing(stores):
    a, b = stores
    a.put("x", np.arange(100, dtype=np.int32))
    out = np.full(100, 7, np.float32)
    for call in (lambda: b.get("x", out=out), lambda: b.get("x", np.s_[:50], out=out), lambda: b.get("x", out=out[:99].view(np.int32))):
        with pytest.raises(penstock.InvalidArgumentError, match="out: is"):
            call()
    with pytest.raises(IndexError, match="out of bounds"):
        b.get("x", 100, out=out)
    with pytest.raises(IndexError, match="too many indices"):
        b.get("x", (1, 2))
    with pytest.raises(penstock.InvalidArgumentError, match="not writable"):
        b.get("x", out=b"....")
    with pytest.raises(penstock.NotFoundError):
        b.get("missing", np.s_[:5])
    with pytest.raises(penstock.NotFoundError):
        b.get("missing", out=out)
    assert (out == 7).all()
    until(lambda: int(a.stats()["pins"]) == 0, "what was located was released")


@pytest.mark.skipif(HAS_RDMA, reason="RDMA is in use here: tests/rdma/test_client_reads.py")
def test_without_rdma_nothing_is_registered_and_ucx_is_not_loaded(stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    memory = np.zeros(2 * MIB, np.uint8)
    with b.register(memory) as registered:
        assert (registered.nbytes, registered.lanes) == (2 * MIB, [])
        assert shows(b.get("x", out=memory[:MIB]), 1) and b.get("x", np.s_[:10_000]).path == "stream"
    assert registered.nbytes == 0
    assert "/libucp.so" not in Path("/proc/self/maps").read_text()


def test_what_cannot_be_registered(stores):
    _, b = stores
    for array, why in ((np.zeros((4, 4))[:, 1], "C order"), (b"1234", "writable"), (np.zeros(0), "no bytes")):
        with pytest.raises(penstock.InvalidArgumentError, match=why):
            b.register(array)
    with pytest.raises(TypeError):
        b.register(object())


def test_rdma_only_is_an_error_without_rdma(stores, nodes):
    a, _ = stores
    a.put("x", pattern(1, MIB))
    with penstock.connect(str(nodes[1].socket_dir), require_transport="rdma") as strict:
        for call in (lambda: strict.get("x", np.s_[:10]), lambda: strict.get("x", out=np.zeros(MIB, np.uint8)),
                     lambda: strict.get("x", np.s_[:10], out=np.zeros(10, np.uint8))):
            if HAS_RDMA:
                call()
                continue
            with pytest.raises(penstock.TransportError, match="RDMA is required"):
                call()


def test_an_exact_version(stores):
    a, b = stores
    first = a.put("x", pattern(1, 4096)).version
    out = np.zeros(4096, np.uint8)
    assert shows(b.get("x", version=first, out=out), 1)
    a.put("x", pattern(2, 4096))
    with pytest.raises(penstock.NotFoundError):
        b.get("x", np.s_[:10], version=first)


def test_many_threads_read_at_once(stores):
    a, b = stores
    x = np.arange(256 * 1024, dtype=np.int64).reshape(256, 1024)
    a.put("x", x)
    wrong: list[str] = []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            row, column = random.integers(0, 200), random.integers(0, 900)
            got = b.get("x", np.s_[row:row + 40, column:column + 100])
            if not np.array_equal(got.numpy(), x[row:row + 40, column:column + 100]):
                wrong.append(f"{seed}: {row}, {column}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    until(lambda: int(a.stats()["pins"]) == 0, "all pins were released")


def test_a_home_that_is_restarted_is_read_again(short_tmp):
    a, b = start_nodes(short_tmp / "again", 2)
    with penstock.connect(str(a.socket_dir), timeout=20) as at_a, penstock.connect(str(b.socket_dir), timeout=20) as at_b:
        at_a.put("x", pattern(1, MIB))
        out = np.zeros(1000, np.uint8)
        at_b.get("x", np.s_[:1000], out=out)
        before = a.node_pid
        os.kill(before, signal.SIGKILL)
        until(lambda: a.node_pid not in (None, before), "the warden has made another node")

        def read() -> bool:
            out[:] = 0
            try:
                at_b.get("x", np.s_[:1000], out=out)
            except penstock.UnavailableError:
                return False
            return True

        until(read, "b has a session with the new node")
        assert np.array_equal(out, pattern(1, MIB)[:1000])
    assert [a.stop(), b.stop()] == [0, 0]


def test_a_stopped_home_ends_the_read_by_its_deadline(short_tmp):
    a, b = start_nodes(short_tmp / "stopped", 2)
    with penstock.connect(str(a.socket_dir)) as at_a, penstock.connect(str(b.socket_dir), timeout=2) as at_b:
        at_a.put("x", pattern(1, MIB))
        at_b.get("x", np.s_[:10])
        stopped = a.node_pid
        freeze(stopped)
        try:
            began = time.monotonic()
            with pytest.raises((penstock.DeadlineError, penstock.UnavailableError)):
                at_b.get("x", np.s_[:10])
            assert time.monotonic() - began < 2 + 1
        finally:
            os.kill(stopped, signal.SIGCONT)
    assert [a.stop(), b.stop()] == [0, 0]


def test_what_a_dead_client_held_there_goes(short_tmp):
    a, b = start_nodes(short_tmp / "dead", 2)
    with penstock.connect(str(a.socket_dir)) as at_a:
        at_a.put("x", pattern(1, MIB))
        pid = os.fork()
        if pid == 0:
            store = penstock.connect(str(b.socket_dir))
            store.get("x", np.s_[:10])
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)

        def readers() -> int:
            return sum(s["label"] == "client" for s in Cli(a.socket_dir).json("sessions"))

        until(lambda: readers() == 0, "its session there is closed", deadline_s=5)
        assert int(at_a.stats()["pins"]) == 0
    assert [a.stop(), b.stop()] == [0, 0]


def test_who_reads_no_more_holds_no_session_there(stores, nodes):
    a, b = stores
    a.put("x", pattern(1, MIB))
    b.get("x", np.s_[:10])

    def readers() -> int:
        return sum(s["label"] == "client" for s in Cli(nodes[0].socket_dir).json("sessions"))

    assert readers() >= 1
    until(lambda: readers() == 0, "nothing was read for a while", deadline_s=20)
    assert np.array_equal(b.get("x", np.s_[5:20]).numpy(), pattern(1, MIB)[5:20]), "and it goes on, in another one"
