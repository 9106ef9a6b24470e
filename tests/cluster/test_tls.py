"""TLS between nodes: everything works as without, nothing is readable on the wire, strangers get nowhere."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.certificates import Authority, Certificate
from support.daemon import BUILD, Cli, clean_environment, start_daemon
from support.nodes import HAS_RDMA, free_ports, start_nodes
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def nodes(tmp_path, authority):
    daemons = start_nodes(tmp_path, 2, "--memory=256MiB", *authority.sign("node").flags())
    yield daemons
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def stores(nodes):
    opened = [penstock.connect(str(node.socket_dir)) for node in nodes]
    yield opened
    for store in opened:
        store.close()


def test_all_ways_lead_over_tls(nodes, stores):
    a, b = stores
    x = np.arange(3 * MIB, dtype=np.float32).reshape(3 * 1024, 1024)
    a.put("x", x)
    view = b.get("x")
    assert view.path == "fetch" and np.array_equal(view.numpy(), x)
    a.put("y", x)
    out = np.empty_like(x)
    assert np.array_equal(b.get("y", out=out), x), "read by the client itself, which has no certificate"
    assert np.array_equal(b.get("y", np.s_[5:2000:3, 7]).numpy(), x[5:2000:3, 7])
    b.put("x", pattern(4, 20 * MIB))  # a is its home
    assert shows(a.get("x"), 4)
    a.put_many({f"m/{i}": pattern(i, 1000 + i) for i in range(200)})
    assert all(shows(view, i) for i, view in enumerate(b.get_many([f"m/{i}" for i in range(200)]).values()))
    assert b.delete("x") and not a.exists("x")
    for daemon in nodes:
        node = Cli(daemon.socket_dir).json("nodes")[0]
        assert node["tls"] is True and node["lanes"] == ["stream"]
        doctor = {row["check"]: row for row in Cli(daemon.socket_dir).json("doctor") if row["check"] in ("data port", "peer")}
        assert "TLS" in doctor["data port"]["found"] and doctor["peer"]["health"] == "ok", doctor
        if HAS_RDMA:
            assert "not encrypted" in doctor["peer"]["found"]


@contextmanager
def listening(where: Path, ports: list[int], at_least: int) -> Iterator[Path]:
    """tcpdump of what goes over these ports of this host, until the block ends and so many bytes have gone."""
    heard = where / "heard.pcap"
    words = " or ".join(f"port {port}" for port in ports)
    tcpdump = subprocess.Popen(["tcpdump", "-i", "lo", "-U", "--immediate-mode", "-s", "0", "-B", "65536", "-Z", "root", "-w", str(heard), words],
                               stderr=subprocess.PIPE)
    for line in tcpdump.stderr:
        if b"listening on" in line:
            break
    else:
        pytest.skip("tcpdump may not listen here")
    try:
        yield heard
    finally:
        until(lambda: heard.stat().st_size >= at_least, "all was heard")
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.communicate(timeout=20)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no tcpdump")
@pytest.mark.parametrize("tls", [False, True])
def test_nothing_is_readable_on_the_wire(tmp_path, authority, tls):
    daemons = start_nodes(tmp_path, 2, "--memory=128MiB", "--rdma=off", *(authority.sign("node").flags() if tls else ()))
    a, b = (penstock.connect(str(daemon.socket_dir)) for daemon in daemons)
    secret = b"the launch codes are 0000"
    block = np.frombuffer(secret * 20_000, np.uint8)
    ports = [daemon.ready["grpc_port"] for daemon in daemons]
    ports += [int(Cli(daemon.socket_dir).json("nodes")[0]["data_address"].rpartition(":")[2]) for daemon in daemons]
    with listening(tmp_path, ports, 2 * len(block)) as heard:
        a.put("names/are-secret-too", block, metadata={"who": "nobody-must-know"})
        assert bytes(b.get("names/are-secret-too").numpy()) == bytes(block)
        a.put("boxes", block)
        assert bytes(b.get("boxes", out=np.empty(len(block), np.uint8))) == bytes(block)
        b.put("boxes", block[: 50 * len(secret)])
    bytes_heard = heard.read_bytes()
    for clear in (secret, b"names/are-secret-too", b"nobody-must-know"):
        assert (clear in bytes_heard) is not tls, clear
    for one in (a, b, *daemons):
        one.close() if isinstance(one, penstock.Store) else one.stop()


def refusal(address: str, tls: dict[str, str] | None, timeout: float = 2.0) -> str:
    with pytest.raises((penstock.UnavailableError, penstock.DeadlineError)) as refused:
        penstock.connect(address, tls=tls, timeout=timeout)
    return str(refused.value)


def test_clients_by_port_show_a_certificate(nodes, stores, authority, tmp_path):
    address = f"127.0.0.1:{nodes[0].ready['grpc_port']}"
    stores[0].put("x", pattern(1, 100))
    client = authority.sign("client")
    with penstock.connect(address, tls=client.files()) as store:
        assert shows(store.get("x"), 1)
    env = clean_environment(PENSTOCK_ADDRESS=address, **{f"PENSTOCK_TLS_{key.upper()}": path for key, path in client.files().items()})
    listed = subprocess.run([str(BUILD / "bin" / "penstock"), "ls"], env=env, capture_output=True, timeout=20)
    assert listed.returncode == 0 and b"x" in listed.stdout, listed.stderr
    refusal(address, None)
    stranger = Authority(tmp_path / "other", "another CA").sign("client")
    refusal(address, stranger.files())
    refusal(address, {**stranger.files(), "ca": str(authority.ca)})
    refusal(address, {**client.files(), "ca": str(stranger.ca)})
    for bad, says in (({"ca": "x"}, "cert"), ({"certificate": "x"}, "ca, cert and key"), ("yes", "ca, cert and key")):
        with pytest.raises(penstock.InvalidArgumentError, match=says):
            penstock.connect(address, tls=bad)
    with pytest.raises(penstock.InvalidArgumentError, match="/no/such/file"):
        penstock.connect(address, tls={**client.files(), "key": "/no/such/file"})


def test_a_node_of_another_ca_gets_nothing(nodes, stores, tmp_path):
    a = stores[0]
    a.put("x", pattern(1, 100))
    others = {"another CA": Authority(tmp_path / "other", "another CA").sign("node").flags(), "no TLS": []}
    for who, flags in others.items():
        stranger = start_daemon(tmp_path / who.replace(" ", "-"), "--data_port=0", "--memory=64MiB", *flags,
                                f"--peers=127.0.0.1:{nodes[0].ready['grpc_port']}")
        with penstock.connect(str(stranger.socket_dir)) as store:
            with pytest.raises(penstock.UnavailableError):
                store.get("x")
            with pytest.raises(penstock.UnavailableError):
                store.get("x", out=np.empty(100, np.uint8))
        stranger.stop()
    assert [s for s in Cli(nodes[0].socket_dir).json("sessions") if s["label"] == "node"] == [], "no session was opened there"


def served_serial(port: int, client: Certificate) -> str:
    context = ssl.create_default_context(cafile=client.ca)
    context.load_cert_chain(client.cert, client.key)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
        return tls.getpeercert()["serialNumber"]


def test_certificates_are_renewed_without_a_restart(tmp_path, authority):
    mine, client = authority.sign("renewed"), authority.sign("client")
    daemons = start_nodes(tmp_path, 2, "--memory=64MiB", *mine.flags())
    port, pid = daemons[0].ready["grpc_port"], daemons[0].node_pid
    before = served_serial(port, client)
    authority.sign("renewed")
    until(lambda: served_serial(port, client) != before, "the new certificate is served")
    assert daemons[0].node_pid == pid
    a, b = (penstock.connect(str(daemon.socket_dir)) for daemon in daemons)
    a.put("x", pattern(1, 100))
    assert shows(b.get("x"), 1)
    for one in (a, b, *daemons):
        one.close() if isinstance(one, penstock.Store) else one.stop()


def test_bad_files_are_clear_errors(tmp_path, authority):
    good, other = authority.sign("good"), authority.sign("other")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    cases = [
        ([f"--tls_cert={good.cert}", f"--tls_ca={good.ca}"], "--tls_key is missing"),
        ([f"--tls_key={good.key}"], "--tls_cert is missing"),
        (Certificate(good.ca, junk, good.key).flags(), f"--tls_cert={junk}"),
        (Certificate(good.ca, good.cert, other.key).flags(), f"--tls_key={other.key}: key values mismatch"),
        (Certificate(good.ca, good.cert, Path("/no/such")).flags(), "--tls_key=/no/such"),
        (Certificate(junk, good.cert, good.key).flags(), f"--tls_ca={junk}"),
    ]
    for flags, says in cases:
        started = subprocess.run(
            [str(BUILD / "bin" / "penstockd"), f"--socket_dir={tmp_path / 's'}", f"--grpc_port={free_ports(1)[0]}", "--memory=64MiB", *flags],
            env=clean_environment(), capture_output=True, text=True, timeout=30)
        assert started.returncode != 0 and says in started.stderr, (flags, started.stderr)
    assert os.listdir(tmp_path / "s") == [] if (tmp_path / "s").exists() else True
