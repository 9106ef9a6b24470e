"""Reading a node from another host: remote sessions, pins with deadlines, the data port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import pytest

import penstock
from support.daemon import BUILD, Cli, Daemon, clean_environment, start_daemon
from support.hosts import Hosts
from support.pattern import pattern
from support.waiting import freeze, until

MIB = 1 << 20


def crc(seed: int, nbytes: int, first: int = 0, count: int | None = None) -> int:
    whole = pattern(seed, nbytes).tobytes()
    return zlib.crc32(whole[first:] if count is None else whole[first:first + count])


@dataclass
class Reader:
    """tests/support/remote_reader.cc: a process that knows a gRPC address and nothing else."""

    process: subprocess.Popen

    def ask(self, *words: object) -> dict:
        self.process.stdin.write(" ".join(str(word) for word in words).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def get(self, name: str) -> tuple[dict, dict]:
        """Where it is, and what a read of all of it says."""
        located = self.ask("locate", name)
        assert "error" not in located, located
        return located, self.ask("read", located["grant"], 0, located["nbytes"])


@pytest.fixture
def new_reader() -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def start(daemon: Daemon, *prefix: str, host: str = "127.0.0.1") -> Reader:
        process = subprocess.Popen(
            [*prefix, str(BUILD / "tests" / "support" / "remote_reader"), f"{host}:{daemon.ready['grpc_port']}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment(),
        )
        readers.append(Reader(process))
        return readers[-1]

    yield start
    for reader in readers:
        if reader.process.poll() is None:
            reader.ask("close")
        reader.process.kill()
        reader.process.wait()
        reader.process.stdin.close()
        reader.process.stdout.close()


def pins(cli: Cli) -> int:
    return int(cli.json("df")["pins"])


def test_a_reader_of_another_host_gets_the_bytes(daemon, cli, new_reader):
    sizes = [0, 1, 4096, 70_000, 3 * MIB, 40 * MIB + 5]
    with penstock.connect(str(daemon.socket_dir)) as store:
        for seed, nbytes in enumerate(sizes):
            store.put(f"t/{nbytes}", pattern(seed, nbytes))
    reader = new_reader(daemon)
    opened = reader.ask("open", 10_000)
    assert opened["lane"] == "stream" and opened["ttl_ns"] == 10_000_000_000
    assert cli.json("nodes")[0]["data_address"] == opened["address"]
    for seed, nbytes in enumerate(sizes):
        located, read = reader.get(f"t/{nbytes}")
        assert located["nbytes"] == nbytes and not located["has_location"]
        assert read["crc32"] == crc(seed, nbytes) if nbytes else located["grant"] == 0
    assert reader.ask("read", located["grant"], 1000, 12345)["crc32"] == crc(5, sizes[-1], 1000, 12345)
    assert pins(cli) == len(sizes) - 1
    session = next(s for s in cli.json("sessions") if s["label"] == "remote_reader")
    assert int(session["pins"]) == len(sizes) - 1
    assert {pin["name"] for pin in cli.json("pins")} == {f"t/{n}" for n in sizes if n}
    assert reader.ask("close") == {}
    assert pins(cli) == 0
    assert reader.ask("locate", "t/1")["error"] == "PERMISSION_DENIED"


def test_what_a_reader_has_pinned_is_not_overwritten_below_it(daemon, cli, new_reader):
    with penstock.connect(str(daemon.socket_dir)) as store:
        store.put("x", pattern(1, MIB))
        reader = new_reader(daemon)
        reader.ask("open")
        located, _ = reader.get("x")
        for n in range(20):
            store.put("x", pattern(10 + n, MIB))
        assert reader.ask("read", located["grant"], 0, MIB)["crc32"] == crc(1, MIB)
        assert reader.get("x")[1]["crc32"] == crc(29, MIB)
        store.delete("x")
        assert reader.ask("locate", "x")["error"] == "NOT_FOUND"
        assert reader.ask("read", located["grant"], 0, MIB)["crc32"] == crc(1, MIB)
        assert int(store.stats()["retired"]) == 2
        reader.ask("release", located["grant"], located["grant"] + 1)
        until(lambda: int(store.stats()["retired"]) == 0 and pins(cli) == 0, "nothing is pinned")
        assert reader.ask("read", located["grant"], 0, MIB)["error"] == "PERMISSION_DENIED"


def test_pins_of_a_killed_reader_go_at_its_deadline(daemon, cli, new_reader):
    with penstock.connect(str(daemon.socket_dir)) as store:
        store.put("x", pattern(1, MIB))
    reader = new_reader(daemon)
    reader.ask("open", 1000, "victim")
    reader.get("x")
    reader.process.kill()
    reader.process.wait()
    assert pins(cli) == 1, "it may be alive, for all the node can know"
    until(lambda: pins(cli) == 0, "its pins are gone", deadline_s=1.0 + 0.5 + 2)
    assert all(s["label"] != "victim" for s in cli.json("sessions"))


def test_a_stopped_reader_wakes_up_to_an_error(daemon, cli, new_reader):
    with penstock.connect(str(daemon.socket_dir)) as store:
        store.put("x", pattern(1, 4 * MIB))
        reader = new_reader(daemon)
        reader.ask("open", 1000)
        located, _ = reader.get("x")
        freeze(reader.process.pid)
        until(lambda: pins(cli) == 0, "its pins are gone")
        for n in range(8):  # its block is another's now
            store.put("x", pattern(2 + n, 4 * MIB))
        os.kill(reader.process.pid, signal.SIGCONT)
        assert reader.ask("read", located["grant"], 0, 4 * MIB)["error"] in ("PERMISSION_DENIED", "UNAVAILABLE")
        assert reader.ask("renew")["error"] == "PERMISSION_DENIED"
        reader.ask("open", 1000)
        assert reader.get("x")[1]["crc32"] == crc(9, 4 * MIB)


def test_renewing_keeps_a_session_and_its_pins(daemon, cli, new_reader):
    with penstock.connect(str(daemon.socket_dir)) as store:
        store.put("x", pattern(1, 1000))
    reader = new_reader(daemon)
    reader.ask("open", 1000)
    located, _ = reader.get("x")
    stop = threading.Event()
    renewed = 0
    while renewed < 12:  # 3 s: twice what it would live without
        assert reader.ask("renew")["ttl_ns"] == 1_000_000_000
        renewed += 1
        stop.wait(0.25)
    assert reader.ask("read", located["grant"], 0, 1000)["crc32"] == crc(1, 1000)


def test_a_new_node_process_is_a_new_generation(daemon, cli, new_reader):
    with penstock.connect(str(daemon.socket_dir)) as store:
        store.put("x", pattern(1, MIB))
    reader = new_reader(daemon)
    first = reader.ask("open")
    located, _ = reader.get("x")
    before = daemon.node_pid
    os.kill(before, signal.SIGKILL)
    until(lambda: daemon.node_pid not in (None, before), "the warden has made another node")
    until(lambda: reader.ask("renew").get("error") == "PERMISSION_DENIED", "it answers, and knows no such session")
    assert reader.ask("read", located["grant"], 0, MIB)["error"] == "PERMISSION_DENIED"
    again = reader.ask("open")
    assert (again["node"], again["address"]) == (first["node"], first["address"])
    assert int(again["generation"]) > int(first["generation"])
    assert reader.get("x")[1]["crc32"] == crc(1, MIB)
    assert pins(cli) == 1


def test_strangers_get_nothing(daemon, cli, new_reader):
    with penstock.connect(str(daemon.socket_dir)) as store:
        store.put("x", pattern(1, MIB))
    owner, stranger = new_reader(daemon), new_reader(daemon)
    assert stranger.ask("locate", "x")["error"] == "PERMISSION_DENIED", "without a session"
    owner.ask("open")
    grant = owner.get("x")[0]["grant"]
    stranger.ask("open")
    assert stranger.ask("read", grant, 0, 100)["error"] == "PERMISSION_DENIED", "another's grant"
    for guess in range(1, 20):
        assert stranger.ask("read", guess + 100, 0, 1)["error"] == "PERMISSION_DENIED"
    stranger.ask("token", 7)
    assert stranger.ask("read", grant, 0, 100)["error"] == "PERMISSION_DENIED", "a forged token"
    assert stranger.ask("renew")["error"] == "PERMISSION_DENIED"
    assert owner.ask("write", grant, 0, 100)["error"] == "PERMISSION_DENIED", "a grant is for reading"
    assert owner.ask("read", grant, MIB - 10, 11)["error"] == "INVALID_ARGUMENT"
    assert owner.ask("read", grant, 0, MIB)["crc32"] == crc(1, MIB)


def test_a_writer_of_another_host(daemon, cli, new_reader):
    writer = new_reader(daemon)
    writer.ask("open")
    draft = writer.ask("reserve", "w", 3 * MIB)["draft"]
    df = cli.json("df")
    assert (int(df["drafts"]), int(df["draft_bytes"])) == (1, 3 * MIB)
    assert sum(int(s["drafts"]) for s in cli.json("sessions") if s["label"] == "remote_reader") == 1
    assert "error" not in writer.ask("write", draft, 0, 2 * MIB)
    with penstock.connect(str(daemon.socket_dir)) as store:
        assert not store.exists("w")
        refused = writer.ask("publish", draft)
        assert refused["error"] == "FAILED_PRECONDITION" and f"{2 * MIB} of {3 * MIB} bytes" in refused["message"]
        draft = writer.ask("reserve", "w", 3 * MIB)["draft"]
        for offset in (2 * MIB, 0, MIB):
            assert "error" not in writer.ask("write", draft, offset, MIB)
        assert writer.ask("publish", draft)["version"] == store.stat("w").version
        assert store.get("w").numpy().tobytes() == b"w" * (3 * MIB)
        assert store.stat("w").immutable == "kernel"
        assert writer.ask("write", draft, 0, 10)["error"] == "PERMISSION_DENIED", "what is published cannot be changed"
        assert writer.ask("publish", draft)["error"] == "NOT_FOUND"
    assert int(cli.json("df")["drafts"]) == 0


def test_nobody_else_writes_to_a_draft(daemon, cli, new_reader):
    writer, other = new_reader(daemon), new_reader(daemon)
    writer.ask("open", 2000)
    other.ask("open")
    draft = writer.ask("reserve", "w", MIB)["draft"]
    assert other.ask("write", draft, 0, 10)["error"] == "PERMISSION_DENIED"
    assert other.ask("publish", draft)["error"] == "NOT_FOUND"
    assert other.ask("release", draft) == {}
    assert writer.ask("read", draft, 0, 10)["error"] == "PERMISSION_DENIED", "what is not published is not read"
    assert writer.ask("write", draft, MIB - 1, 2)["error"] == "INVALID_ARGUMENT", "outside of the block"
    other.ask("token", 7)
    assert other.ask("reserve", "w", MIB)["error"] == other.ask("write", draft, 0, 10)["error"] == "PERMISSION_DENIED"
    assert int(cli.json("df")["drafts"]) == 1
    writer.process.send_signal(signal.SIGKILL)
    until(lambda: int(cli.json("df")["drafts"]) == 0, "the draft of a dead writer goes at its deadline", deadline_s=10)


def test_bad_requests_are_clear_errors(daemon, new_reader):
    reader = new_reader(daemon)
    for ttl in (999, 60_001):
        assert "ttl_ns" in reader.ask("open", ttl)["message"]
    assert "label" in reader.ask("open", 0, "l" * 64)["message"]
    assert reader.ask("open", 0)["ttl_ns"] == 10_000_000_000
    assert reader.ask("locate", "bad//name")["error"] == "INVALID_ARGUMENT"
    assert reader.ask("locate", "missing")["error"] == "NOT_FOUND"


def listening(pid: int) -> set[int]:
    """TCP ports that the process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:  # closed meanwhile
            continue
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


def test_what_listens_is_what_was_asked_for(short_tmp, daemon, cli, new_reader):
    port = int(cli.json("nodes")[0]["data_address"].rpartition(":")[2])
    assert listening(daemon.node_pid) == {daemon.ready["grpc_port"], port}
    alone = start_daemon(short_tmp / "alone", "--data_port=none", "--memory=64MiB")
    assert listening(alone.node_pid) == {alone.ready["grpc_port"]}
    assert new_reader(alone).ask("open")["error"] == "UNIMPLEMENTED"
    assert alone.stop() == 0
    taken = subprocess.run([str(BUILD / "bin" / "penstockd"), f"--socket_dir={short_tmp}/taken", "--grpc_port=none",
                            f"--data_port={port}", "--memory=64MiB"], capture_output=True, text=True, timeout=60,
                           env=clean_environment())
    assert taken.returncode != 0 and f"listen on 127.0.0.1:{port}" in taken.stderr and "--data_port" in taken.stderr


def test_a_reader_on_another_host(short_tmp, new_reader):
    why = Hosts.why_not()
    if why:
        pytest.skip(why)
    with Hosts(2) as (near, far):
        daemon = start_daemon(short_tmp / "far", "--memory=128MiB", f"--host={far.address}", f"--data_net={far.address}", prefix=far.prefix)
        with penstock.connect(str(daemon.socket_dir)) as store:
            store.put("x", pattern(3, 20 * MIB))
            reader = new_reader(daemon, *near.prefix, host=far.address)
            assert reader.ask("open", 2000)["address"].startswith(f"{far.address}:")
            located, read = reader.get("x")
            assert read["crc32"] == crc(3, 20 * MIB)
            far.cut()
            assert reader.ask("read", located["grant"], 0, 1000)["error"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
            until(lambda: int(store.stats()["pins"]) == 0, "its pins went at the deadline")
            far.heal()
            until(lambda: "error" not in reader.ask("open", 2000), "it heals")
            assert reader.get("x")[1]["crc32"] == crc(3, 20 * MIB)
        assert daemon.stop() == 0
