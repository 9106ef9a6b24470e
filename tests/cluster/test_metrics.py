"""What a node tells Prometheus over HTTP: the numbers of the command line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support.daemon import BUILD, Cli, Daemon
from support.nodes import start_nodes
from support.pattern import pattern
from support.waiting import until

MIB = 1 << 20
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="[^"]*",?)*)\})? (-?[0-9.e+]+|Nan)')


@pytest.fixture(scope="module")
def nodes(short_tmp: Path) -> Iterator[list[Daemon]]:
    daemons = start_nodes(short_tmp / "metrics", 2, "--memory=256MiB", "--http_port=0")
    yield daemons
    assert [daemon.stop() for daemon in daemons] == [0, 0]


def http_address(daemon: Daemon) -> str:
    return Cli(daemon.socket_dir).json("nodes")[0]["http_address"]


def scrape(address: str, timeout: float = 5) -> dict[str, dict[str, float]]:
    """Values by name and labels. Fails unless the text is as Prometheus wants it."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = response.read().decode()
    found: dict[str, dict[str, float]] = {}
    name, kind = "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in found and len(line.split()) > 3, line
            found[name] = {}
        elif line.startswith("# TYPE "):
            assert line.split()[2] == name, line
            kind = line.split()[3]
            assert kind in ("counter", "gauge", "summary"), line
            assert (kind == "counter") == name.endswith("_total"), line
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample and (sample[1] == name or kind == "summary"), line
            found[name][sample[2] or ""] = float(sample[3])
    return found


def test_the_lane_of_each_peer_is_shown(nodes, stores):
    a, b = stores
    a.put("x", pattern(1, MIB))
    assert b.get("x").path == "fetch"
    (peer,) = Cli(nodes[1].socket_dir).json("nodes")[0]["peers"]
    metrics = scrape(http_address(nodes[1]))
    where = f'peer="{peer["address"]}"'
    assert metrics["penstock_transport_info"] == {f'{where},path="{peer["lane"]}"': 1}
    assert metrics["penstock_transport_reads_total"] == {where: int(peer["reads"])}
    assert metrics["penstock_transport_read_bytes_total"] == {where: int(peer["read_bytes"])}
    assert int(peer["read_bytes"]) >= MIB and peer["lane"] in ("stream", "rdma")


def test_the_numbers_are_those_of_df(nodes, stores):
    a, _ = stores
    for i in range(3):
        a.put(f"t/{i}", pattern(i, 1000))
    a.put("t/0", pattern(3, 2000))
    a.delete("t/1")
    held = a.get("t/0")
    cli = Cli(nodes[0].socket_dir)
    metrics, df = scrape(http_address(nodes[0])), cli.json("df")
    assert metrics["penstock_tensors"] == {"": 2} and metrics["penstock_tensor_bytes"] == {"": 3000}
    for name, field in {
        "memory_limit_bytes": "memory_bytes", "segment_bytes": "segment_bytes", "tensor_bytes": "tensor_bytes", "tensors": "tensors",
        "cache_bytes": "cache_bytes", "quarantined_bytes": "quarantined_bytes", "withheld_bytes": "withheld_bytes", "drafts": "drafts", "pins": "pins",
        "puts_total": "puts", "deletes_total": "deletes", "evictions_total": "evictions", "expirations_total": "expirations",
    }.items():
        assert metrics[f"penstock_{name}"] == {"": int(df[field])}, name
    assert metrics["penstock_pins"][""] >= 1 and held.shape == (2000,)
    (build,) = metrics["penstock_build_info"]
    assert f'version="{penstock.__version__}"' in build and 'ucx_version="' in build


def test_no_name_of_a_tensor_is_shown(nodes, stores):
    stores[0].put("a_name_that_is_secret", pattern(1, 10))
    with urllib.request.urlopen(f"http://{http_address(nodes[0])}/metrics", timeout=5) as response:
        assert b"secret" not in response.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{http_address(nodes[0])}/a_name_that_is_secret", timeout=5)


def test_who_sends_half_a_request_keeps_nobody_waiting_for_long(nodes):
    host, port = http_address(nodes[0]).rsplit(":", 1)
    idle = [socket.create_connection((host, int(port))) for _ in range(4)]
    try:
        for one in idle:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert scrape(http_address(nodes[0]), timeout=30)["penstock_build_info"]
    finally:
        for one in idle:
            one.close()


def test_the_port_stays_when_the_process_is_started_anew(nodes):
    address, before = http_address(nodes[0]), nodes[0].node_pid
    os.kill(before, signal.SIGKILL)
    until(lambda: nodes[0].node_pid not in (None, before), "another process")
    until(lambda: http_address(nodes[0]), "it serves")
    assert http_address(nodes[0]) == address
    assert scrape(address)["penstock_build_info"]


def test_nothing_listens_unless_it_was_asked_for(daemon, cli):
    assert cli.json("nodes")[0]["http_address"] == ""


def test_a_port_that_is_taken_is_named(short_tmp):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = subprocess.run([BUILD / "bin" / "penstockd", f"--socket_dir={short_tmp / 'taken'}", "--grpc_port=none", "--memory=64MiB",
                                f"--http_port={port}"], capture_output=True, text=True, timeout=60)
    assert taken.returncode != 0 and f"listen on 127.0.0.1:{port}" in taken.stderr and "--http_port" in taken.stderr
