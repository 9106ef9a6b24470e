"""Numbers and settings that the documents promise, each on a node of its own."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

import penstock
from support.daemon import Daemon, start_daemon
from support.nodes import start_nodes
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20


@pytest.fixture
def start(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemon]]:
    """Starts nodes; each must stop gracefully at the end of the test."""
    daemons: list[Daemon] = []

    def start_one(*flags: str) -> Daemon:
        daemons.append(start_daemon(short_tmp / f"{request.node.name[:40]}-{len(daemons)}", *flags))
        return daemons[-1]

    yield start_one
    assert [daemon.stop() for daemon in daemons] == [0] * len(daemons), "penstockd did not stop gracefully"


def test_a_node_of_1_gib_serves_within_300_ms(start):
    seconds = []
    for _ in range(5):
        since = time.monotonic()
        daemon = start("--memory=1GiB")
        seconds.append(time.monotonic() - since)
        assert daemon.stop() == 0
    print("ready after", ", ".join(f"{1e3 * s:.0f} ms" for s in seconds))
    assert min(seconds) < 0.3, f"ready after {seconds} s"


def cpu_ns(pid: int, own: bool) -> int:
    """That its threads have run; `own`: without those of gRPC, which wake every second."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
        if not own or (task / "comm").read_text().startswith("penstock")
    )


def test_idle_nodes_sleep(short_tmp):
    """0.0 % of a CPU over 10 s, of two nodes whose clients have put and read and keep a view."""
    daemons = start_nodes(short_tmp / "idle", 2)
    with penstock.connect(str(daemons[0].socket_dir)) as a, penstock.connect(str(daemons[1].socket_dir)) as b:
        a.put("x", pattern(1, MIB))
        view = b.get("x")
        time.sleep(12)  # arenas are made, what was retired is freed, the remote session that was opened is over
        pids = [pid for daemon in daemons for pid in (daemon.node_pid, daemon.process.pid)]
        before = [(cpu_ns(pid, own=True), cpu_ns(pid, own=False)) for pid in pids]
        time.sleep(10)
        for pid, (own, whole) in zip(pids, before, strict=True):
            percent = [(cpu_ns(pid, own=True) - own) / 1e8, (cpu_ns(pid, own=False) - whole) / 1e8]
            print(f"pid {pid}: own threads {percent[0]:.4f} %, with gRPC's {percent[1]:.3f} % of a CPU")
            assert percent[0] < 0.02 and percent[1] < 0.15, "0.0, and what gRPC takes on a slow machine"
        assert shows(view.numpy(), 1)
    assert [daemon.stop() for daemon in daemons] == [0, 0]


# --- --adopt=always ---


def draft(store: penstock.Store, name: str, seed: int, nbytes: int) -> penstock.TensorInfo:
    with store.create(name, nbytes, "u8") as draft:
        draft.numpy()[:] = pattern(seed, nbytes)
    return store.stat(name)


def await_kernel(store: penstock.Store, name: str) -> penstock.TensorInfo:
    until(lambda: store.stat(name).immutable == "kernel", f"{name} is adopted", deadline_s=10)
    return store.stat(name)


def test_without_adopt_always_a_live_writers_draft_stays_in_its_extent(daemon):
    """The control of the tests below: what they see is the setting."""
    with penstock.connect(str(daemon.socket_dir)) as store:
        assert draft(store, "x", 1, 3 * MIB).immutable != "kernel"
        time.sleep(0.5)  # five rounds of the node's maintenance: nothing may come
        assert store.stat("x").immutable != "kernel" and int(store.stats()["adoptions"]) == 0


def test_adopt_always_moves_drafts_to_sealed_memory_below_open_views(start):
    daemon = start("--memory=256MiB", "--adopt=always")
    with penstock.connect(str(daemon.socket_dir)) as writer, penstock.connect(str(daemon.socket_dir)) as reader:
        other = writer.create("open", 2 * MIB, "u8")  # in the same extent, and not done
        published = draft(writer, "x", 1, 3 * MIB)
        before = reader.get("x")
        assert published.immutable != "kernel", "adopted before anybody could look: no view of the extent"
        adopted = await_kernel(reader, "x")
        assert (adopted.version, adopted.nbytes, adopted.created) == (published.version, 3 * MIB, published.created)
        after = reader.get("x")
        assert after.ptr != before.ptr and after.version == before.version
        other.numpy()[:] = pattern(2, 2 * MIB)
        other.publish()
        await_kernel(reader, "open")
        for n in range(8):  # all that came free is written again
            draft(writer, f"more/{n}", 10 + n, 3 * MIB)
        assert shows(before.numpy(), 1) and shows(after.numpy(), 1) and shows(reader.get("open").numpy(), 2)
        until(lambda: int(reader.stats()["retired"]) == 1, "only the old block of x is retired: `before` shows it")
        before.release()
        until(lambda: int(reader.stats()["retired"]) == 0, "nothing is retired")
        assert shows(after.numpy(), 1) and int(reader.stats()["adoptions"]) >= 2


def test_adopt_always_passes_over_extents_that_cannot_be_emptied(start):
    """Open drafts and open views hold some extents; the others are adopted all the same."""
    daemon = start("--memory=512MiB", "--adopt=always")
    address = str(daemon.socket_dir)
    holders = [penstock.connect(address) for _ in range(8)]
    drafts = [store.create(f"open/{n}", 2 * MIB, "u8") for n, store in enumerate(holders)]
    with penstock.connect(address) as writer:
        draft(writer, "x", 1, 2 * MIB)
        await_kernel(writer, "x")
        assert shows(writer.get("x").numpy(), 1)
    for store, held in zip(holders, drafts):
        held.abort()
        store.close()


# --- thousands of requests of one session that wait ---

WAITING = 3000


def test_3000_requests_of_one_session_wait_and_others_are_served(start):
    daemon = start("--memory=128MiB")
    address = str(daemon.socket_dir)
    answers: dict[str, object] = {}

    def wait_for(name: str) -> None:
        try:
            answers[name] = waiter.wait(name, timeout=60).version
        except penstock.Error as error:
            answers[name] = error

    def requests() -> int:
        return next(int(s["requests"]) for s in other._ask("Sessions")["sessions"] if s["label"] == "waiter")

    stack = threading.stack_size(256 << 10)
    with penstock.connect(address, label="waiter") as waiter, penstock.connect(address, label="other") as other:
        threads = [threading.Thread(target=wait_for, args=(f"w/{i}",)) for i in range(WAITING)]
        try:
            before = requests()
            for thread in threads:
                thread.start()
            until(lambda: requests() - before >= WAITING, "the node has taken all requests")
            assert answers == {}, f"answered with nothing put: {next(iter(answers.items()))}"
            since = time.monotonic()
            with pytest.raises(penstock.NotFoundError):
                other.get("missing")
            other.put("elsewhere", 1)
            assert other.stat("elsewhere").version == 1 and waiter.stat("elsewhere").version == 1
            served = time.monotonic() - since
        finally:
            since = time.monotonic()
            other.put_many([(f"w/{i}", i) for i in range(WAITING)])
            for thread in threads:
                if thread.ident is not None:
                    thread.join(timeout=60)
            threading.stack_size(stack)
        print(f"others served in {1e3 * served:.1f} ms, all woken after {time.monotonic() - since:.2f} s")
        assert served < 1.0, f"others waited {served:.2f} s"
        wrong = {name: answer for name, answer in answers.items() if answer != 1}
        assert not wrong and len(answers) == WAITING, f"{len(answers)} answered, wrong: {list(wrong.items())[:3]}"


# --- a store of a million names ---

NAMES, BATCH = 1_000_000, 10_000


@pytest.mark.timeout(240)
def test_a_million_names(start):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    daemon = start("--memory=1GiB")
    with penstock.connect(str(daemon.socket_dir), timeout=60.0) as store:
        names = [f"n/{i:07}" for i in range(NAMES)]
        took = time.monotonic()

        def lap(what: str) -> None:
            nonlocal took
            print(f"{what}: {time.monotonic() - took:.1f} s")
            took = time.monotonic()

        for first in range(0, NAMES, BATCH):
            store.put_many([(names[i], i) for i in range(first, first + BATCH)])
        full = store.stats()
        lap("put")
        assert int(full["tensors"]) == NAMES and int(full["tensor_bytes"]) == 8 * NAMES
        for i in random.Random(seed).sample(range(NAMES), 1000):
            assert int(store.get(names[i]).numpy()) == i, f"{names[i]}, seed {seed}"
        lap("get 1000")
        assert [info.name for info in store.list("n/")] == names, "not every name once, in order"
        assert [info.name for info in store.list("n/05", limit=3, after="n/0512344")] == names[512345:512348]
        lap("list")
        assert store.delete_prefix("n/") == NAMES
        assert list(store.list("")) == []
        keys = ("tensors", "tensor_bytes", "block_bytes", "retired", "retired_bytes", "leaving_bytes", "extents")
        until(lambda: [int(store.stats()[key]) for key in keys] == [0] * len(keys), "all blocks are free")
        lap("delete")
