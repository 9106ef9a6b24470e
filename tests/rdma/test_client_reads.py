"""What clients read by RDMA themselves, into memory of their own. Runs in the guest (tests/rdma/run)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.daemon import Cli
from support.pattern import pattern, shows
from support.verbs import needs_verbs, sent_packets
from support.waiting import freeze, until
from support.worker import Worker

MIB = 1 << 20

pytestmark = needs_verbs


def registered_regions(pid: int) -> int:
    """Memory regions that the process has registered with the device."""
    shown = subprocess.run(["rdma", "-d", "resource", "show", "mr"], capture_output=True, text=True, check=True).stdout
    return sum(f"pid {pid} " in line for line in shown.splitlines())


class Reader(Worker):
    """A process that reads `x` into an array of its own, and can be stopped when it has been pinned for it."""

    READ = "store.get('x', out=out)"

    def __init__(self, socket_dir: Path, faults: Path) -> None:
        super().__init__(socket_dir, faults)
        self.point = faults / "client.read.opened"
        self.do(f"out = np.zeros({MIB}, np.uint8)")

    def stop_after_the_pin(self) -> None:
        self.point.write_text("stop")
        self.start(self.READ)
        until(lambda: not self.point.exists(), "the read has begun")
        until(lambda: Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", "it has stopped")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.result()

    def has_read(self, seed: int) -> bool:
        return self.do(f"shows(out, {seed})")


def missing_in_children(name: str) -> list[str]:
    """The parts of this process's mapping `name` that fork leaves out (VmFlags dc)."""
    missing, where = [], ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            where = line
        elif line.startswith("VmFlags:") and "dc" in line.split() and where.endswith(name):
            missing.append(where)
    return missing


def read_by_rdma(store: penstock.Store) -> penstock.TensorView:
    """A box of x. Retried: a connection that a busy guest loses is made anew, and stream serves meanwhile."""
    def read() -> penstock.TensorView | None:
        view = store.get("x", np.s_[:100_000])
        return view if view.path == "rdma" else None

    return until(read, "connected", deadline_s=40)


@pytest.fixture
def reader(nodes, tmp_path) -> Iterator[Reader]:
    with Reader(nodes[1].socket_dir, tmp_path) as reader:
        yield reader


@pytest.mark.parametrize("nbytes", [1, 4096, 70_001, 3 * MIB + 5])
def test_out_is_filled_over_verbs_and_nothing_is_copied(stores, nbytes):
    a, b = stores
    a.put("x", pattern(1, nbytes))
    out = np.zeros(nbytes, np.uint8)
    before = sent_packets()
    assert b.get("x", out=out) is out and shows(out, 1)
    assert nbytes < 2 * 4096 or sent_packets() - before > nbytes // 4096
    assert int(b.stats()["tensors"]) == 0, "nothing was copied into the node"
    until(lambda: int(a.stats()["pins"]) == 0, "the pin there was released")


def test_torch_and_buffers(stores):
    torch = pytest.importorskip("torch")
    a, b = stores
    x = np.arange(100_000, dtype=np.float32)
    a.put("x", x)
    before = sent_packets()
    assert torch.equal(b.get("x", out=torch.zeros(100_000)), torch.from_numpy(x))
    assert sent_packets() - before > x.nbytes // 4096
    a.put("bytes", pattern(3, 50_000))
    into = bytearray(50_000)
    b.get("bytes", out=into)
    assert shows(np.frombuffer(into, np.uint8), 3)


def test_boxes_go_by_the_length_of_their_runs(stores, strict):
    a, b = stores
    x = np.arange(512 * 4096, dtype=np.float32).reshape(512, 4096)
    a.put("x", x)
    for box, path in ((np.s_[10:100], "rdma"), (np.s_[:, 1024:2048], "rdma"), (np.s_[:, 100:1123], "stream"), (np.s_[::5, 7], "stream")):
        view = b.get("x", box)
        assert view.path == path and np.array_equal(view.numpy(), x[box]), box
        assert not view.numpy().flags.writeable and not view.is_zero_copy
        out = np.zeros(x[box].shape, np.float32)
        assert np.array_equal(b.get("x", box, out=out), x[box])
    short = strict.get("x", np.s_[:50, 100:1123])
    assert short.path == "rdma" and np.array_equal(short.numpy(), x[:50, 100:1123])


def test_registered_memory_is_registered_once(stores, reader):
    a, _ = stores
    a.put("x", pattern(1, MIB))
    reader.do(reader.READ)  # the connection has memory of its own
    before = registered_regions(reader.pid)
    reader.do(f"memory = np.zeros({8 * MIB}, np.uint8); registered = store.register(memory)")
    assert reader.do("(registered.nbytes, registered.lanes)") == [8 * MIB, ["rdma"]]
    assert registered_regions(reader.pid) == before + 1
    for i in range(8):
        part = f"memory[{i * MIB}:{(i + 1) * MIB}]"
        assert reader.do(f"shows(store.get('x', out={part}), 1)")
    assert registered_regions(reader.pid) == before + 1
    reader.do("registered.release(); registered.release()")
    assert reader.do("(registered.nbytes, registered.lanes)") == [0, []]
    assert reader.do(f"shows(store.get('x', out=memory[:{MIB}]), 1)"), "and without it"


def test_memory_that_came_anew_at_an_old_address_is_filled(stores):
    a, b = stores
    a.put("x", pattern(1, 4 * MIB))
    for i in range(5):
        out = np.zeros(4 * MIB, np.uint8)  # of mmap, and unmapped again
        b.get("x", out=out)
        assert shows(out, 1)
        del out


def test_a_home_that_was_stopped_after_the_pin_serves_the_read(nodes, stores, reader):
    a, _ = stores
    a.put("x", pattern(1, MIB))
    reader.do(reader.READ)  # a connection is made by both
    reader.do("out[:] = 0")
    reader.stop_after_the_pin()
    freeze(nodes[0].node_pid)
    try:
        reader.go_on()
        assert reader.has_read(1)
    finally:
        os.kill(nodes[0].node_pid, signal.SIGCONT)


def test_what_was_read_after_the_deadline_does_not_count(nodes, stores, reader):
    """The reader and its node stop once the tensor is pinned; the pin lapses; what is read then is not version 1."""
    a, _ = stores
    a.put("x", pattern(1, MIB))
    reader.do(reader.READ)
    reader.stop_after_the_pin()
    freeze(nodes[1].node_pid)
    try:
        a.put("x", pattern(2, MIB))
        until(lambda: int(a.stats()["pins"]) == 0, "the session is over")
    finally:
        os.kill(nodes[1].node_pid, signal.SIGCONT)
    reader.go_on()
    assert reader.has_read(2)


def test_a_reader_that_is_slow_is_renewed(nodes, stores, reader):
    a, _ = stores
    a.put("x", pattern(1, MIB))
    reader.stop_after_the_pin()
    a.put("x", pattern(2, MIB))

    def age_ns() -> int:
        sessions = Cli(nodes[0].socket_dir).json("sessions")
        return time.time_ns() - min(int(s["opened_ns"]) for s in sessions if s["label"] == "client" and int(s["pins"]) == 1)

    until(lambda: age_ns() > 11_000_000_000, "it is older than the read's first deadline")
    reader.go_on()
    assert reader.has_read(1), "it was pinned all the time"


def test_a_reader_that_is_killed_leaves_no_pin(stores, reader):
    a, _ = stores
    a.put("x", pattern(1, MIB))
    reader.stop_after_the_pin()
    assert int(a.stats()["pins"]) == 1
    reader.kill()
    until(lambda: int(a.stats()["pins"]) == 0, "the session there is closed", deadline_s=8)


def test_a_forked_child_reads_without_ucx(stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    memory = np.zeros(MIB, np.uint8)
    registered = b.register(memory)
    b.get("x", out=memory)
    kept = read_by_rdma(b)
    pid = os.fork()
    if pid == 0:
        try:
            out = np.zeros(MIB, np.uint8)
            assert shows(memory, 1)
            assert shows(b.get("x", out=out), 1)
            assert b.get("x", np.s_[:100_000]).path != "rdma"
            registered.release()
            del kept, memory
            with b.register(out) as again:
                assert again.lanes == []
            b.close()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert missing_in_children("[heap]") == []
    assert np.array_equal(kept.numpy(), read_by_rdma(b).numpy()) and shows(b.get("x", out=memory), 1)
    assert registered.lanes == ["rdma"]


def test_loading_ucx_changes_no_signal_handlers_and_children_end_well(nodes):
    program = """
import os, sys, numpy, penstock
def handled():
    status = open("/proc/self/status").read()
    return [line for line in status.splitlines() if line.startswith(("SigCgt", "SigIgn"))]
before = handled()
with penstock.connect(sys.argv[1]) as store:
    assert store.register(numpy.zeros(10)).lanes == ["rdma"]
    assert "/libucp.so" in open("/proc/self/maps").read()
    store.get("x", out=numpy.zeros(int(sys.argv[2]), numpy.uint8))
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert handled() == before, (before, handled())
"""
    with penstock.connect(str(nodes[0].socket_dir)) as a:
        a.put("x", pattern(1, MIB))
    subprocess.run([sys.executable, "-c", program, str(nodes[1].socket_dir), str(MIB)], check=True)
