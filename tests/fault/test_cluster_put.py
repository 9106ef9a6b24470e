"""SIGKILL of a node at every step of a put in a cluster with a directory: done once or not at all, and what was told stays true."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.cluster import connect, patiently, up
from support.daemon import Cli, Daemon, start_daemon
from support.etcd import Etcd, needs_etcd_reason
from support.pattern import pattern, shows
from support.waiting import until

pytestmark = pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))

OLD, NEW = 1, 2


@pytest.fixture(scope="module")
def etcd(short_tmp: Path) -> Iterator[Etcd]:
    with Etcd(short_tmp / "etcd") as running:
        yield running


@pytest.fixture
def nodes(short_tmp: Path, etcd: Etcd, armory, request: pytest.FixtureRequest) -> Iterator[list[Daemon]]:
    name = request.node.name.removeprefix("test_")[-40:].replace("[", "-").replace("]", "")
    daemons = [start_daemon(short_tmp / f"{name[-8:]}{i}", "--memory=64MiB", "--data_port=0", etcd.flag, f"--cluster={name}", "--member_ttl=4s", PENSTOCK_FAULT_DIR=str(armory.folder))
               for i in range(2)]
    until(lambda: all(up(daemon) == 2 for daemon in daemons), "both are members")
    yield daemons
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.stop()


def settled(daemons: list[Daemon]) -> bool:
    """Nothing prepared, nothing withheld, no draft: accounting is zero."""
    told = [Cli(daemon.socket_dir).json("df") for daemon in daemons]
    return all(int(df["drafts"]) == int(df["withheld"]) == int(df["draft_bytes"]) == 0 for df in told)


@pytest.mark.parametrize("point", ["node.cluster.decided", "node.directory.preparing", "node.directory.prepared", "node.directory.version", "node.directory.live"])
def test_the_putting_node_dies(nodes, armory, point):
    here, other = (connect(daemon) for daemon in nodes)
    version = patiently(lambda: here.put("x", pattern(OLD, 4096))).version
    before = nodes[0].node_pid
    armory.arm(point)
    told = None
    try:
        told = here.put("x", pattern(NEW, 4096)).version
    except penstock.UnavailableError:
        pass  # it may or may not have been done
    armory.await_fired(point)
    until(lambda: nodes[0].node_pid not in (None, before) or nodes[1].node_pid is None, "another process", 20)
    seen = [patiently(lambda store=store: store.get("x")) for store in (here, other)]
    assert seen[0].version == seen[1].version
    assert shows(seen[0].numpy(), NEW if seen[0].version > version else OLD) and shows(seen[1].numpy(), NEW if seen[1].version > version else OLD)
    if told is not None:
        assert seen[0].version == told, "what was told is so, and it was done once"
    assert patiently(lambda: other.put("x", pattern(3, 100))).version == seen[0].version + 1
    until(lambda: settled(nodes), "all records are settled", 20)


@pytest.mark.parametrize("point", ["node.replica.read", "node.replica.made"])
def test_the_node_that_makes_a_replica_dies(nodes, armory, point):
    here, other = (connect(daemon) for daemon in nodes)
    before = nodes[1].node_pid
    armory.arm(point)
    info = patiently(lambda: here.put("x", pattern(NEW, 4096), replicas=2))
    armory.await_fired(point)
    until(lambda: nodes[1].node_pid not in (None, before), "another process", 20)
    assert info.version == 1
    until(lambda: len(here.stat("x").nodes) == 2, "both have it", 30)
    for store in (here, other):
        assert shows(patiently(lambda store=store: store.get("x")).numpy(), NEW)
    until(lambda: settled(nodes), "all records are settled", 20)


def test_the_node_dies_when_it_has_taken_what_was_quarantined(short_tmp, armory):
    """Both are there then: the tensor, which is served, and what it was made of, which can only be dropped."""
    with Etcd(short_tmp / "etcd-taken") as own:
        daemon = start_daemon(short_tmp / "taken", "--memory=64MiB", "--data_port=0", own.flag, "--cluster=taken", "--member_ttl=4s", PENSTOCK_FAULT_DIR=str(armory.folder))
        try:
            cli = Cli(daemon.socket_dir)
            until(lambda: up(daemon) == 1, "it is a member")
            store = connect(daemon)
            patiently(lambda: store.put("x", pattern(OLD, 4096)))
            own.members[0].kill()
            shutil.rmtree(short_tmp / "etcd-taken" / "m0")
            own.members[0].start()
            own.wait()
            until(lambda: int(cli.json("df")["quarantined"]) == 1 and up(daemon) == 1, "it is put aside", 30)
            before = daemon.node_pid
            armory.arm("node.quarantine.taken")
            until(lambda: cli.run("quarantine", "--take", "x", code=None) and armory.fired("node.quarantine.taken"), "it is taken", 30)
            until(lambda: daemon.node_pid not in (None, before), "another process", 20)
            assert shows(patiently(lambda: store.get("x")).numpy(), OLD)
            assert [item["name"] for item in cli.json("quarantine")] == ["x"]
            assert b"exists" in cli.run("quarantine", "--take", "x", code=None).stderr
            assert cli.json("quarantine", "--drop", "x") == {"dropped": 1}
            assert shows(patiently(lambda: store.get("x")).numpy(), OLD)
            until(lambda: settled([daemon]), "nothing is withheld", 20)
        finally:
            daemon.stop()
