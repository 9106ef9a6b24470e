"""Several hosts that get the same large tensor at once, over slow cables: each reads it from the one that began before it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.certificates import Authority
from support.daemon import Cli, Daemon, start_daemon
from support.hosts import Host, Hosts
from support.pattern import pattern, shows
from support.waiting import freeze, until

MIB = 1 << 20
READERS = 6
NBYTES = 32 * MIB
RATE = "200mbit"
ONE_S = NBYTES / 25e6  # what the cable takes for one copy
ETCD_PORT = 2379


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """The first one is the source's."""
    if why := Hosts.why_not():
        pytest.skip(why)
    with Hosts(READERS + 1) as made:
        for host in made:
            host.slow(RATE)
        yield made


class Nodes:
    """One on each of the hosts, and a client of each. All but those that a test has killed are stopped at the end."""

    def __init__(self, folder: Path, hosts: list[Host], *flags: str, etcd: str = "", memory: str = "112MiB") -> None:
        self.hosts = hosts
        others = {host.address: f"--etcd={etcd}" if etcd else "--peers=" + ",".join(f"{other.address}:7411" for other in hosts if other is not host) for host in hosts}
        self.daemons = [
            start_daemon(folder / f"{i}", f"--memory={memory}", f"--host={host.address}", f"--data_net={host.address}", "--grpc_port=7411",
                         "--data_port=7412", others[host.address], *flags, *([f"--advertise={host.address}"] if etcd else []), prefix=host.prefix)
            for i, host in enumerate(hosts)
        ]
        self.stores = [penstock.connect(str(daemon.socket_dir), timeout=40) for daemon in self.daemons]
        self.killed: set[int] = set()

    def kill(self, which: int) -> None:
        """As if its host were gone, but for the packets that say so."""
        daemon = self.daemons[which]
        for pid in (daemon.process.pid, daemon.node_pid):
            os.kill(pid, signal.SIGKILL)
        daemon.process.wait()
        self.killed.add(which)

    def living(self) -> list[Daemon]:
        return [daemon for i, daemon in enumerate(self.daemons) if i not in self.killed]

    def nothing_is_held(self) -> None:
        def held() -> list[dict]:
            return [books for daemon in self.living() if any((books := books_of(daemon)).values())]

        until(lambda: not held(), f"nothing is held: {held()}", deadline_s=20)

    def close(self) -> None:
        for i, store in enumerate(self.stores):
            if i not in self.killed:
                store.close()
        assert [daemon.stop() for daemon in self.living()] == [0] * len(self.living())


def books_of(daemon: Daemon) -> dict[str, int]:
    df = Cli(daemon.socket_dir).json("df")
    return {key: int(df[key]) for key in ("drafts", "draft_bytes", "pins", "retired")}


@pytest.fixture
def nodes(short_tmp: Path, hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    made = Nodes(short_tmp / f"bc-{abs(hash(request.node.name)) % 10_000}", list(hosts))
    yield made
    made.close()


def sent(host: Host) -> int:
    return _counted(host, "tx_bytes")


def received(host: Host) -> int:
    return _counted(host, "rx_bytes")


def _counted(host: Host, what: str) -> int:
    return int(subprocess.run([*host.prefix, "cat", f"/sys/class/net/eth/statistics/{what}"], check=True, capture_output=True).stdout)


class Getters:
    """Gets of 'x' on several nodes at once; each begins a little after the one before, so the chain's order is theirs."""

    def __init__(self, nodes: Nodes, which: list[int], apart_s: float = 0.04) -> None:
        self.got: dict[int, str] = {}
        self._seeds = (1, 2)
        self._threads = [threading.Thread(target=self._get, args=(nodes, i)) for i in which]
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
            time.sleep(apart_s)

    def _get(self, nodes: Nodes, i: int) -> None:
        try:
            with nodes.stores[i].get("x") as view:
                array = view.numpy()
                self.got[i] = next((f"{view.path} {seed}" for seed in self._seeds if shows(array, seed)), "wrong bytes")
        except penstock.Error as error:
            self.got[i] = type(error).__name__

    def join(self) -> float:
        """Seconds from the first one's begin to the last one's end."""
        for thread in self._threads:
            thread.join(timeout=60)
        return time.monotonic() - self.began


def await_share(host: Host, before: int, share: float) -> None:
    until(lambda: received(host) - before > share * NBYTES, f"{share} of the tensor has come")


def test_a_broadcast_costs_the_source_one_copy_and_takes_the_time_of_one(nodes, hosts):
    source, *readers = nodes.stores
    source.put("x", pattern(1, NBYTES))
    alone = Getters(nodes, [1])
    one = alone.join()
    assert alone.got == {1: "fetch 1"}
    version = source.put("x", pattern(2, NBYTES)).version
    before = sent(hosts[0])
    all_of_them = Getters(nodes, list(range(1, READERS + 1)), apart_s=0)
    took = all_of_them.join()
    copies = (sent(hosts[0]) - before) / NBYTES
    print(f"one transfer {one:.2f} s, {READERS} at once {took:.2f} s; the source sent {copies:.2f} copies")
    assert all_of_them.got == {i: "fetch 2" for i in range(1, READERS + 1)}
    assert copies < 1.5
    assert took < 1.8 * one, "one after the other would take six times as long"
    assert all(store.stat("x").nodes == source.stat("x").nodes and store.get("x").version == version for store in readers), "none is a replica"
    nodes.nothing_is_held()


def test_who_comes_late_reads_what_is_there_and_follows(nodes, hosts):
    nodes.stores[0].put("x", pattern(1, NBYTES))
    before = sent(hosts[0])
    getters = Getters(nodes, [1, 2, 3], apart_s=ONE_S / 3)
    assert getters.join() < 2.2 * ONE_S
    assert getters.got == {i: "fetch 1" for i in (1, 2, 3)}
    assert (sent(hosts[0]) - before) / NBYTES < 1.5


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_one_in_the_middle_fails_and_the_others_go_on_where_they_were(nodes, hosts, how):
    nodes.stores[0].put("x", pattern(1, NBYTES))
    sent_before, received_before = sent(hosts[0]), received(hosts[4])
    getters = Getters(nodes, list(range(1, READERS + 1)))
    await_share(hosts[4], received_before, 0.4)
    stopped = nodes.daemons[3].node_pid
    if how == "killed":
        nodes.kill(3)
    else:
        freeze(stopped)
    rest = [i for i in range(1, READERS + 1) if i != 3]
    until(lambda: all(i in getters.got for i in rest), "all others have it")
    assert time.monotonic() - getters.began < 3 * ONE_S + 4
    if how == "stopped":
        os.kill(stopped, signal.SIGCONT)
    getters.join()
    assert {i: getters.got[i] for i in rest} == {i: "fetch 1" for i in rest}
    assert getters.got[3] in (("UnavailableError", "DeadlineError") if how == "killed" else ("fetch 1",))
    assert (sent(hosts[0]) - sent_before) / NBYTES < 2.4, "the source sends again what is missing to one"
    assert (received(hosts[4]) - received_before) / NBYTES < 1.5, "what it had it does not read again"
    nodes.nothing_is_held()


@pytest.mark.parametrize("what", ["overwritten", "deleted"])
def test_the_tensor_changes_meanwhile(nodes, hosts, what):
    source = nodes.stores[0]
    source.put("x", pattern(1, NBYTES))
    before = received(hosts[READERS])
    getters = Getters(nodes, list(range(1, READERS + 1)))
    await_share(hosts[READERS], before, 0.2)
    if what == "overwritten":
        source.put("x", pattern(2, NBYTES))
    else:
        source.delete("x")
    getters.join()
    assert getters.got == {i: "fetch 1" for i in range(1, READERS + 1)}, "they had begun before"
    if what == "overwritten":
        assert got_by_all(nodes) == {i: "fetch 2" for i in range(1, READERS + 1)}
    else:
        assert got_by_all(nodes) == {i: "NotFoundError" for i in range(1, READERS + 1)}
    nodes.nothing_is_held()


def got_by_all(nodes: Nodes) -> dict[int, str]:
    getters = Getters(nodes, list(range(1, READERS + 1)), apart_s=0)
    getters.join()
    return getters.got


def test_one_without_room_is_nobodys_link(nodes, hosts):
    nodes.stores[3].put_many({f"own/{i}": pattern(i, 24 * MIB) for i in range(4)})
    nodes.stores[0].put("x", pattern(1, NBYTES))
    before = sent(hosts[0])
    getters = Getters(nodes, list(range(1, READERS + 1)))
    until(lambda: all(i in getters.got for i in (1, 2, 4, 5, 6)), "all others have it")
    assert time.monotonic() - getters.began < 2.5 * ONE_S
    getters.join()
    assert getters.got == {i: "fetch 1" for i in (1, 2, 4, 5, 6)} | {3: "StoreFullError"}
    assert (sent(hosts[0]) - before) / NBYTES < 1.5
    nodes.nothing_is_held()


def test_over_tls(short_tmp, hosts, tmp_path):
    four = list(hosts)[:4]
    certificate = Authority(tmp_path / "ca").sign("node", ",".join(f"IP:{host.address}" for host in four))
    nodes = Nodes(short_tmp / "bc-tls", four, *certificate.flags())
    try:
        nodes.stores[0].put("x", pattern(1, NBYTES))
        before = sent(hosts[0])
        getters = Getters(nodes, [1, 2, 3], apart_s=0)
        took = getters.join()
        assert getters.got == {i: "fetch 1" for i in (1, 2, 3)}
        assert (sent(hosts[0]) - before) / NBYTES < 1.5 and took < 2.5 * ONE_S
        nodes.nothing_is_held()
    finally:
        nodes.close()


@pytest.fixture
def etcd(tmp_path: Path, hosts: Hosts) -> Iterator[str]:
    """On the last host; its cable is fast."""
    if shutil.which("etcd") is None:
        pytest.skip("needs etcd-server (deploy/install_deps test)")
    host = hosts[READERS]
    host.fast()
    client, peer = (f"http://{host.address}:{port}" for port in (ETCD_PORT, ETCD_PORT + 1))
    process = subprocess.Popen(
        [*host.prefix, "etcd", "--name=m", f"--data-dir={tmp_path / 'etcd'}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
         f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=m={peer}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    yield f"{host.address}:{ETCD_PORT}"
    process.kill()
    process.wait()
    host.slow(RATE)


def test_with_a_directory(short_tmp, hosts, etcd):
    nodes = Nodes(short_tmp / "bc-etcd", list(hosts)[:5], "--member_ttl=4s", etcd=etcd)
    try:
        until(lambda: all(str(Cli(d.socket_dir).json("nodes")[0]["cluster"]).count("'up'") == 5 for d in nodes.daemons), "all see each other", 30)
        nodes.stores[0].put("x", pattern(1, NBYTES))
        before = sent(hosts[0])
        getters = Getters(nodes, [1, 2, 3, 4], apart_s=0)
        assert getters.join() < 2 * ONE_S
        assert getters.got == {i: "fetch 1" for i in (1, 2, 3, 4)}
        assert (sent(hosts[0]) - before) / NBYTES < 1.5
        assert len(nodes.stores[0].stat("x").nodes) == 1, "a copy is no replica"
        # Now two hold it; the one that is read from goes in the middle, the other one has the rest.
        nodes.stores[0].put("x", pattern(2, NBYTES), replicas=2)
        holders = [i for i, daemon in enumerate(nodes.daemons) if Cli(daemon.socket_dir).json("nodes")[0]["node_uuid"] in nodes.stores[0].stat("x").nodes]
        assert len(holders) == 2
        readers = [i for i in range(5) if i not in holders]
        sent_before = {i: sent(hosts[i]) for i in holders}
        received_before = received(hosts[readers[0]])
        getters = Getters(nodes, readers)
        await_share(hosts[readers[0]], received_before, 0.4)
        nodes.kill(max(holders, key=lambda i: sent(hosts[i]) - sent_before[i]))
        getters.join()
        assert getters.got == {i: "fetch 2" for i in readers}
        assert all((received(hosts[i]) - received_before) / NBYTES < 1.5 for i in readers[:1]), "it goes on where it was"
    finally:
        nodes.close()
