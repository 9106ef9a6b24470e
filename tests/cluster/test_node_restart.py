"""penstock node restart: another process in the place of the node's, warm, and perhaps of another version."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.daemon import BUILD, ROOT, Cli, Daemon, start_daemon
from support.etcd import Etcd, needs_etcd_reason
from support.pattern import pattern, shows
from support.waiting import until

LIBRARY = BUILD / "bin" / "libpenstock_node.so"


@dataclass
class Node:
    daemon: Daemon
    cli: Cli
    log: Path
    library: Path

    def replace_library(self, by: bytes) -> None:
        """As packages do it: a new file takes the name."""
        fresh = self.library.with_suffix(".new")
        fresh.write_bytes(by)
        fresh.rename(self.library)


@pytest.fixture
def node(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    where = short_tmp / f"restart-{abs(hash(request.node.name)) % 10**6}"
    where.mkdir()
    library, log = where / "node.so", where / "log"
    shutil.copy(LIBRARY, library)
    daemon = start_daemon(where / "s", "--memory=256MiB", f"--node_library={library}", prefix=("sh", "-c", f'exec "$@" 2>>{log}', "sh"))
    made = Node(daemon, Cli(daemon.socket_dir), log, library)
    try:
        yield made
        assert daemon.stop() == 0, log.read_text()
    finally:
        daemon.process.kill()
        sys.stderr.write(log.read_text())


def test_everything_goes_on_in_another_process(node: Node) -> None:
    with penstock.connect(str(node.daemon.socket_dir), timeout=30) as store:
        store.put("x", pattern(1, 1 << 20))
        view = store.get("x")
        session, warden, old = store.session_id, node.daemon.process.pid, node.daemon.node_pid
        told = node.cli.json("node", "restart")
        assert list(told) == ["old_pid", "old_generation", "old_version", "pid", "generation", "version", "took_ns"]
        assert told["old_pid"] == old and told["pid"] == node.daemon.node_pid != old
        assert (told["old_generation"], told["generation"]) == (1, 2)
        assert told["old_version"] == told["version"] == penstock.__version__ and 0 < told["took_ns"] < 30e9
        assert node.daemon.process.pid == warden and node.daemon.process.poll() is None
        assert shows(view.numpy(), 1) and shows(store.get("x").numpy(), 1) and store.session_id == session
        assert store.put("x", pattern(2, 8)).version == 2
    assert re.search(r"process \d+ \(generation 2, .*\) -> \d+ \(generation 3, .*\) in \d+ ms", node.cli.text("node", "restart"))
    assert "makes room for the next one" in node.log.read_text()


def test_without_waiting(node: Node) -> None:
    told = node.cli.json("node", "restart", "--no-wait")
    assert set(told) == {"old_pid", "old_generation", "old_version"}
    until(lambda: node.daemon.node_pid not in (None, told["old_pid"]), "the next process")
    until(lambda: int(node.cli.json("df")["generation"]) == 2, "it serves")
    assert "makes room" in node.cli.text("node", "restart", "--no-wait")


def test_wrong_words(node: Node) -> None:
    assert "write restart" in node.cli.error(2, "node", "stop")
    node.cli.error(2, "node")


def test_ten_in_a_row_under_load_lose_nothing_and_are_not_slowed_down(node: Node) -> None:
    stop = threading.Event()
    errors: list[str] = []
    done: dict[str, int] = {}

    def load(n: int) -> None:
        with penstock.connect(str(node.daemon.socket_dir), timeout=30) as store:
            i = 0
            while not stop.is_set():
                i += 1
                name, seed = f"load/{n}/{i % 20}", 100_000 * n + i
                try:
                    store.put(name, pattern(seed, 3 << 20 if i % 40 == 0 else 4096), metadata={"seed": str(seed)})
                    done[name] = seed
                    view = store.get(name)
                    if not shows(view.numpy(), seed):
                        errors.append(f"{name} shows something else")
                    if i % 7 == 0:
                        store.delete(name)
                        del done[name]
                except BaseException as error:
                    errors.append(repr(error))
                    return

    threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for generation in range(2, 12):
        before = sum(done.values())
        assert node.cli.json("node", "restart")["generation"] == generation
        until(lambda: errors or sum(done.values()) != before, "clients make progress")
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    with penstock.connect(str(node.daemon.socket_dir)) as store:
        for name, seed in done.items():
            assert shows(store.get(name).numpy(), seed), name
        assert int(store.stats()["drafts"]) == 0 and int(store.stats()["damaged"]) == 0
    assert "deaths within" not in node.log.read_text()


def test_a_request_that_waits_is_answered_by_the_next_process(node: Node) -> None:
    with penstock.connect(str(node.daemon.socket_dir), timeout=60) as store:
        found: list[penstock.TensorInfo] = []
        waiter = threading.Thread(target=lambda: found.append(store.wait("late", timeout=60)))
        waiter.start()
        for _ in range(3):
            node.cli.run("node", "restart")
        store.put("late", np.arange(3))
        waiter.join(timeout=60)
        assert found and found[0].name == "late"


def test_a_draft_goes_on(node: Node) -> None:
    with penstock.connect(str(node.daemon.socket_dir), timeout=30) as store:
        with store.create("big", shape=(3 << 20,), dtype="u8") as draft:
            draft.numpy()[: 1 << 20] = pattern(5, 3 << 20)[: 1 << 20]
            node.cli.run("node", "restart")
            draft.numpy()[:] = pattern(5, 3 << 20)
        assert shows(store.get("big").numpy(), 5)


def test_an_upgrade_is_a_restart_with_another_library(node: Node) -> None:
    version = penstock.__version__
    other = version[:-1] + ("8" if version[-1] != "8" else "7")
    code = LIBRARY.read_bytes()
    marked = code.replace(b"\0" + version.encode() + b"\0", b"\0" + other.encode() + b"\0")
    assert marked != code
    with penstock.connect(str(node.daemon.socket_dir), timeout=30) as store:
        store.put("x", pattern(1, 4096))
        view = store.get("x")
        node.replace_library(marked)
        assert node.cli.json("nodes")[0]["version"] == version, "the old code runs until it is told to go"
        told = node.cli.json("node", "restart")
        assert (told["old_version"], told["version"]) == (version, other)
        assert shows(view.numpy(), 1) and shows(store.get("x").numpy(), 1)
    assert f"the next one, of version {other}" in node.log.read_text()


def abi_of(library: Path) -> int:
    """In a process of its own: it is all of the node that is loaded."""
    code = f"import ctypes; l = ctypes.CDLL({str(library)!r}); l.penstock_node_abi.restype = ctypes.c_uint64; print(l.penstock_node_abi())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def of_another_layout() -> bytes:
    abi = abi_of(LIBRARY)
    code, word = LIBRARY.read_bytes(), ctypes.sizeof(ctypes.c_uint64)
    at = code.find(abi.to_bytes(word, "little"))
    assert at > 0
    return code[:at] + (abi + (1 << 48)).to_bytes(word, "little") + code[at + word :]


@pytest.mark.parametrize("what, said", [("layout", "memory of layout"), ("garbage", "node.so"), ("absent", "node.so")])
def test_a_library_that_could_not_take_over_is_refused_and_the_node_goes_on(node: Node, what: str, said: str) -> None:
    good = LIBRARY.read_bytes()
    if what == "layout":
        node.replace_library(of_another_layout())
    elif what == "garbage":
        node.replace_library(b"\x7fELF no library")
    else:
        node.library.unlink()
    pid = node.daemon.node_pid
    with penstock.connect(str(node.daemon.socket_dir)) as store:
        store.put("x", pattern(1, 100))
        told = node.cli.error(8, "node", "restart")
        assert said in told and "the node goes on as it is" in told
        assert node.daemon.node_pid == pid and shows(store.get("x").numpy(), 1)
        assert store.put("x", pattern(2, 100)).version == 2
        node.replace_library(good)
        assert node.cli.json("node", "restart")["generation"] == 2
        assert shows(store.get("x").numpy(), 2)


@pytest.mark.skipif(needs_etcd_reason is not None or shutil.which("protoc") is None, reason=str(needs_etcd_reason or "no protoc"))
def test_a_cluster_does_not_notice(short_tmp: Path) -> None:
    with Etcd(short_tmp / "restart-etcd") as etcd:
        daemons = [start_daemon(short_tmp / f"restart-c{i}", "--memory=128MiB", "--data_port=0", etcd.flag, "--member_ttl=3s") for i in range(2)]
        a, b = (Cli(daemon.socket_dir) for daemon in daemons)

        def members() -> list[tuple[str, str]]:
            """Who is a member, and since which view."""
            answer = json.loads(etcd.ctl("get", "/penstock/penstock/view", "-w", "json"))
            text = subprocess.run(["protoc", "--decode=penstock.v1.View", f"-I{ROOT / 'proto'}", "cluster.proto"], check=True, capture_output=True,
                                  input=base64.b64decode(answer["kvs"][0]["value"])).stdout.decode()
            assert "absent" not in text
            return re.findall(r'members \{\n  id: (".*")\n(?:  .*\n)*?  since: (\d+)', text)

        until(lambda: len(members()) == 2, "both are members")
        until(lambda: len(b.json("nodes")[0]["cluster"]["nodes"]) == 2, "they know each other")
        before = members()
        with penstock.connect(str(daemons[0].socket_dir), timeout=30) as here, penstock.connect(str(daemons[1].socket_dir), timeout=30) as there:
            stop, errors = threading.Event(), []

            def load(store: penstock.Store, n: int) -> None:
                i = 0
                while not stop.is_set():
                    i += 1
                    try:
                        store.put(f"load/{n}/{i % 10}", pattern(i, 4096))
                    except penstock.UnavailableError as error:  # several nodes decide: of one that was cut off nobody may know
                        if "restarted in the middle" not in str(error):
                            errors.append(repr(error))
                    except BaseException as error:
                        errors.append(repr(error))
                        return

            here.put("x", pattern(1, 1 << 20))
            view = here.get("x")
            threads = [threading.Thread(target=load, args=(store, n)) for n, store in enumerate((here, there))]
            for thread in threads:
                thread.start()
            for _ in range(3):
                a.run("node", "restart")
                assert shows(there.get("x").numpy(), 1)
                assert members() == before, "nobody was expelled"
                time.sleep(0.2)
            stop.set()
            for thread in threads:
                thread.join()
            assert errors == [] and shows(view.numpy(), 1)
        assert [daemon.stop() for daemon in daemons] == [0, 0]


def test_only_who_reaches_the_fd_socket_may_ask(node: Node) -> None:
    """Service Store of gRPC has no such call, so nobody on another host can."""
    proto = (ROOT / "proto" / "store.proto").read_text()
    assert "rpc Df(" in proto and "rpc RestartNode(" not in proto
    assert os.path.exists(node.daemon.socket_dir / "fd.sock")
