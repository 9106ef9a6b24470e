"""The ucx-tcp lane, which an operator must ask for; and that without asking nothing of it is there."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.daemon import BUILD, ROOT, Cli, Daemon, clean_environment, start_daemon
from support.hosts import Hosts
from support.pattern import pattern, shows
from support.waiting import freeze, until

MIB = 1 << 20
NEWER_UCX = ROOT / ".venv" / "lib" / "mpich"

pytestmark = pytest.mark.skipif(b"libucp" not in (BUILD / "bin" / "libpenstock_node.so").read_bytes(), reason="built without UCX")


def listening_ports(pid: int) -> set[int]:
    """Of TCP, in the process's own network namespace."""
    inodes = {os.readlink(fd)[8:-1] for fd in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(fd).startswith("socket:[")}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return ports


def peer_of(node: Daemon) -> dict:
    return Cli(node.socket_dir).json("nodes")[0]["peers"][0]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    why = Hosts.why_not()
    if why:
        pytest.skip(why)
    with Hosts(2) as hosts:
        yield hosts


@pytest.fixture
def start(hosts, tmp_path_factory) -> Iterator:
    """Nodes on the two hosts, with these flags each."""
    started: list[Daemon] = []

    def start(*flags: str, libraries: tuple[str, str] = ("", "")) -> list[Daemon]:
        for host, other, more, folder in zip(hosts, reversed(list(hosts)), flags, libraries):
            env = {"LD_LIBRARY_PATH": folder} if folder else {}
            started.append(start_daemon(tmp_path_factory.mktemp("u"), "--memory=192MiB", f"--host={host.address}", f"--data_net={host.address}",
                                        "--grpc_port=7411", "--data_port=7412", f"--peers={other.address}:7411", *more.split(), prefix=host.prefix, **env))
        return started

    yield start
    assert [node.stop() for node in started] == [0] * len(started)


@pytest.fixture
def pair(start) -> Iterator[tuple[list[Daemon], penstock.Store, penstock.Store]]:
    nodes = start("--ucx_tcp=on", "--ucx_tcp=on")
    with penstock.connect(str(nodes[0].socket_dir), timeout=20) as here, penstock.connect(str(nodes[1].socket_dir), timeout=20) as home:
        yield nodes, here, home


@pytest.mark.parametrize("nbytes", [0, 1, 70_000, MIB, 20 * MIB + 3])
def test_what_is_got_and_put_comes_whole(pair, nbytes):
    nodes, here, home = pair
    home.put("x", pattern(1, nbytes))
    assert shows(here.get("x").numpy(), 1)
    here.put("x", pattern(2, nbytes))
    assert shows(home.get("x").numpy(), 2) and home.get("x").path == "map"
    assert peer_of(nodes[0])["lane"] == "ucx-tcp" and "ucx-tcp" in Cli(nodes[0].socket_dir).json("nodes")[0]["lanes"]
    assert "ucx-tcp" in here.transports()[1].values()


def test_with_a_newer_ucx(start):
    if not (NEWER_UCX / "libucp.so.0").exists():
        pytest.skip("there is no other UCX: tests/run rdma gets one")
    nodes = start("--ucx_tcp=on", "--ucx_tcp=on", libraries=(str(NEWER_UCX), str(NEWER_UCX)))
    assert all(str(NEWER_UCX) in Path(f"/proc/{node.node_pid}/maps").read_text() for node in nodes), "it is the one that was loaded"
    with penstock.connect(str(nodes[0].socket_dir)) as here, penstock.connect(str(nodes[1].socket_dir)) as home:
        home.put("x", pattern(1, 20 * MIB))
        assert shows(here.get("x").numpy(), 1)
        here.put("x", pattern(2, 20 * MIB))
        assert shows(home.get("x").numpy(), 2)
    assert peer_of(nodes[0])["lane"] == "ucx-tcp"


def test_unlike_versions_of_ucx_do_not_talk_to_each_other(start):
    if not (NEWER_UCX / "libucp.so.0").exists():
        pytest.skip("there is no other UCX: tests/run rdma gets one")
    nodes = start("--ucx_tcp=on", "--ucx_tcp=on", libraries=(str(NEWER_UCX), ""))
    with penstock.connect(str(nodes[0].socket_dir)) as here, penstock.connect(str(nodes[1].socket_dir)) as home:
        home.put("x", pattern(1, MIB))
        assert shows(here.get("x").numpy(), 1)
    assert peer_of(nodes[0])["lane"] == "stream" and "UCX 1." in peer_of(nodes[0])["why"]


def test_many_at_once(pair):
    _, here, home = pair
    names = [f"m/{i}" for i in range(100)]
    home.put_many({name: pattern(i, 1000 * i) for i, name in enumerate(names)})
    assert all(shows(view.numpy(), i) for i, view in enumerate(here.get_many(names).values()))
    here.put_many({name: pattern(i + 1, 1000 * i) for i, name in enumerate(names)})
    assert all(shows(view.numpy(), i + 1) for i, view in enumerate(home.get_many(names).values()))


def test_a_reader_that_is_killed_harms_nobody(pair):
    nodes, here, home = pair
    home.put("x", pattern(1, 60 * MIB))
    owner = nodes[1].node_pid
    for delay in (0.01, 0.03, 0.06, 0.1):
        reader = nodes[0].node_pid
        killer = threading.Timer(delay, os.kill, (reader, signal.SIGKILL))
        killer.start()
        _try(lambda: here.get("x"))
        killer.join()
        until(lambda reader=reader: nodes[0].node_pid not in (None, reader), "there is another reader")
        until(lambda: _try(lambda: here.delete("nothing")) is not None, "it answers")
    assert nodes[1].node_pid == owner, "the owner is the same process"
    assert shows(here.get("x").numpy(), 1)
    until(lambda: int(home.stats()["pins"]) == 0, "pins of the dead go at their deadline")


def _try(call):
    try:
        return call()
    except penstock.Error:
        return None


def test_an_owner_that_stands_still_is_waited_for_no_longer_than_the_deadline(pair):
    nodes, here, home = pair
    home.put("x", pattern(1, 20 * MIB))
    with penstock.connect(str(nodes[0].socket_dir), timeout=2) as impatient:
        assert impatient.stat("x").nbytes == 20 * MIB
        freeze(nodes[1].node_pid)
        began = time.monotonic()
        with pytest.raises((penstock.DeadlineError, penstock.UnavailableError)):
            impatient.get("x")
        assert time.monotonic() - began < 3
        os.kill(nodes[1].node_pid, signal.SIGCONT)
    until(lambda: _try(lambda: shows(here.get("x").numpy(), 1)), "it goes again")


def test_both_ends_must_want_it(start):
    nodes = start("--ucx_tcp=on", "--ucx_tcp=off")
    with penstock.connect(str(nodes[0].socket_dir)) as here, penstock.connect(str(nodes[1].socket_dir)) as home:
        home.put("x", pattern(1, MIB))
        here.put("y", pattern(2, MIB))
        assert shows(here.get("x").numpy(), 1) and shows(home.get("y").numpy(), 2)
    assert peer_of(nodes[0])["lane"] == "stream" and "ucx-tcp: the peer does not offer it" in peer_of(nodes[0])["why"]
    assert peer_of(nodes[1])["lane"] == "stream" and "ucx-tcp" not in peer_of(nodes[1])["why"]


def test_no_other_port_is_open_unless_it_was_asked_for(start):
    wanting, other = start("--ucx_tcp=on", "")
    assert listening_ports(other.node_pid) == {7411, 7412}
    assert listening_ports(wanting.node_pid) > {7411, 7412}


def test_doctor_and_the_help_say_what_it_opens(start):
    wanting, other = start("--ucx_tcp=on", "")
    for node, health in ((wanting, "warn"), (other, "ok")):
        [found] = [finding for finding in Cli(node.socket_dir).json("doctor", code=None) if finding["check"] == "ucx-tcp"]
        assert found["health"] == health and ("write any address" in found["found"]) == (node is wanting)
    helped = subprocess.run([str(BUILD / "bin" / "penstockd"), "--help"], capture_output=True, text=True, env=clean_environment(), check=True)
    assert "write any address" in helped.stdout


def test_it_is_not_had_beside_tls():
    refused = subprocess.run([str(BUILD / "bin" / "penstockd"), "--ucx_tcp=on", "--tls_cert=a", "--tls_key=b", "--tls_ca=c"], capture_output=True,
                             text=True, env=clean_environment(), check=False)
    assert refused.returncode != 0 and "--ucx_tcp cannot be 'on' beside --tls_cert" in refused.stderr
