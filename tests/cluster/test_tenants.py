"""penstockd --tenants: a node for each tenant, who share nothing but the host."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.daemon import BUILD, DEADLINE_S, Cli, Daemon, clean_environment, start_daemon
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20
TWO = """
# who is here
[team-a]
--memory=64MiB
--max_tensors=20   # a small one
[team-b]
--memory=128MiB
"""


@dataclass
class Tenants:
    """A running supervisor."""

    daemon: Daemon
    file: Path
    log: Path
    stores: dict[str, penstock.Store] = field(default_factory=dict)

    def store(self, tenant: str) -> penstock.Store:
        if tenant not in self.stores:
            self.stores[tenant] = penstock.connect(str(self.daemon.socket_dir), tenant=tenant, timeout=30)
        return self.stores[tenant]

    def cli(self, tenant: str) -> Cli:
        return Cli(self.daemon.socket_dir, env={"PENSTOCK_TENANT": tenant})

    def node(self, tenant: str) -> dict:
        return self.cli(tenant).json("nodes")[0]

    def reload(self, text: str) -> None:
        self.file.write_text(text)
        self.daemon.process.send_signal(signal.SIGHUP)

    def says(self, what: str) -> None:
        until(lambda: what in self.log.read_text(), f"the log says {what!r}")

    def up(self, tenant: str) -> bool:
        return self.cli(tenant).run("df", "--timeout", "1s", code=None).returncode == 0


def start(where: Path, text: str, *flags: str) -> Tenants:
    where.mkdir(mode=0o755)
    where.chmod(0o755)
    file, log = where / "tenants", where / "log"
    file.write_text(text)
    daemon = start_daemon(where / "s", f"--tenants={file}", *flags, prefix=("sh", "-c", f'exec "$@" 2>>{log}', "sh"))
    return Tenants(daemon, file, log)


@pytest.fixture
def tenants(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Tenants]:
    made = start(short_tmp / f"t{abs(hash(request.node.name)) % 10**6}", TWO, "--http_port=0")
    yield made
    for store in made.stores.values():
        store.close()
    code = made.daemon.stop()
    sys.stderr.write(made.log.read_text())
    assert code == 0


def test_each_sees_its_own(tenants: Tenants) -> None:
    assert tenants.daemon.ready["tenants"] == ["team-a", "team-b"]
    a, b = tenants.store("team-a"), tenants.store("team-b")
    a.put("x", pattern(1, 1000))
    assert not b.exists("x")
    b.put("x", pattern(2, 2000))
    assert shows(a.get("x").numpy(), 1) and shows(b.get("x").numpy(), 2)
    assert tenants.cli("team-a").text("ls") == tenants.cli("team-b").text("ls") == "x\n"
    nodes = [tenants.node(name) for name in ("team-a", "team-b")]
    assert [node["tenant"] for node in nodes] == ["team-a", "team-b"]
    assert [node["socket_dir"] for node in nodes] == [f"{tenants.daemon.socket_dir}/team-a", f"{tenants.daemon.socket_dir}/team-b"]
    assert len({node[key] for node in nodes for key in ("node_uuid", "pid", "warden_pid", "tcp_address", "data_address", "http_address")}) == 12
    assert "tenant: team-a" in tenants.cli("team-a").text("nodes")
    with urllib.request.urlopen(f"http://{nodes[0]['http_address']}/metrics", timeout=5) as answer:
        samples = [line for line in answer.read().decode().splitlines() if line.startswith("penstock_")]
    assert samples and all('tenant="team-a"' in line for line in samples)


def test_one_that_fills_its_store_is_alone_with_that(tenants: Tenants) -> None:
    a, b = tenants.store("team-a"), tenants.store("team-b")
    b.put("kept", pattern(1, 50 * MIB), keep=False)  # what eviction would take first
    with pytest.raises(penstock.StoreFullError, match="the store is full"):
        for i in range(20):
            a.put(f"big/{i}", pattern(i, 10 * MIB))
    a.delete_prefix("")
    with pytest.raises(penstock.StoreFullError, match="--max_tensors=20"):
        for i in range(21):
            a.put(f"small/{i}", pattern(i, 8))
    assert shows(b.get("kept").numpy(), 1)
    for i in range(100):
        b.put(f"x/{i}", pattern(i, 1000))
        assert shows(b.get(f"x/{i}").numpy(), i)
    assert int(b.stats()["evictions"]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="starts processes as other users")
def test_nobody_else_can_open_a_tenants_sockets(short_tmp: Path) -> None:
    short_tmp.chmod(0o711)  # so that others pass through
    alice, bob = "daemon", "nobody"
    made = start(short_tmp / "users", f"[a]\nuser={alice}\n--memory=64MiB\n[b]\nuser={bob}\n--memory=64MiB\n")

    def code(user: str, tenant: str) -> int:
        entry = pwd.getpwnam(user)
        words = [str(BUILD / "bin" / "penstock"), "-a", str(made.daemon.socket_dir), "--tenant", tenant, "df", "--timeout", "5s"]
        return subprocess.run(words, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], env=clean_environment(), capture_output=True, timeout=DEADLINE_S).returncode

    try:
        assert (code(alice, "a"), code(bob, "b")) == (0, 0)
        assert code(alice, "b") == code(bob, "a") == 6
        for name, user in (("a", alice), ("b", bob)):
            assert os.stat(made.daemon.socket_dir / name).st_uid == pwd.getpwnam(user).pw_uid
            assert os.stat(made.daemon.socket_dir / name).st_mode & 0o777 == 0o700
            pid = made.node(name)["pid"]
            assert f"Uid:\t{pwd.getpwnam(user).pw_uid}\t" in Path(f"/proc/{pid}/status").read_text()
        entry = pwd.getpwnam(alice)
        seen = subprocess.run([str(BUILD / "bin" / "penstock"), "-a", str(made.daemon.socket_dir), "tenants", "-o", "json"], user=entry.pw_uid, group=entry.pw_gid,
                              extra_groups=[], env=clean_environment(), capture_output=True, check=True, timeout=DEADLINE_S)
        assert [(row["tenant"], row["state"]) for row in json.loads(seen.stdout)] == [("a", "up"), ("b", "not yours")]
    finally:
        assert made.daemon.stop() == 0


@pytest.mark.parametrize("whom", ["node", "warden"])
def test_a_death_is_one_tenants_alone(tenants: Tenants, whom: str) -> None:
    a, b = tenants.store("team-a"), tenants.store("team-b")
    a.put("x", pattern(1, 1000))
    b.put("x", pattern(2, 1000))
    view = b.get("x")
    before, others = tenants.node("team-a"), tenants.node("team-b")
    os.kill(before["pid"] if whom == "node" else before["warden_pid"], signal.SIGKILL)

    def is_back() -> bool:
        told = tenants.cli("team-a").run("nodes", "-o", "json", code=None)
        return told.returncode == 0 and json.loads(told.stdout)[0]["pid"] != before["pid"]

    until(is_back, "it is back")
    with penstock.connect(str(tenants.daemon.socket_dir), tenant="team-a") as again:
        assert again.exists("x") == (whom == "node"), "memory lives as long as the warden"
        again.put("y", pattern(3, 8))
    assert shows(view.numpy(), 2) and shows(b.get("x").numpy(), 2) and b.put("y", pattern(1, 8)).version == 1
    assert tenants.node("team-b") == others
    if whom == "warden":
        tenants.says("ended with signal 9 (Killed): what it kept in memory is gone; started again")


def test_a_new_file_is_taken_on_by_a_hangup(tenants: Tenants) -> None:
    b = tenants.store("team-b")
    b.put("x", pattern(1, 8))
    before = tenants.node("team-b")
    tenants.reload("[team-b]\n--memory=128MiB\n[team-c]\n--memory=64MiB\n")
    until(lambda: tenants.up("team-c") and not (tenants.daemon.socket_dir / "team-a").exists(), "one comes, one goes")
    assert tenants.node("team-b") == before and shows(b.get("x").numpy(), 1)
    tenants.store("team-c").put("x", np.arange(3))
    tenants.says("tenant team-a is stopped")

    tenants.reload("[team-b]\n--memory=128MiB\n--max_tensors=7\n[team-c]\n--memory=64MiB\n")
    tenants.says(f"tenant team-b has changed: it goes on as it is until it is started again, without its memory (kill -TERM {before['warden_pid']})")
    assert tenants.node("team-b") == before and shows(b.get("x").numpy(), 1)
    os.kill(before["warden_pid"], signal.SIGTERM)
    def has_its_quota() -> bool:
        told = tenants.cli("team-b").run("df", "-o", "json", code=None)
        return told.returncode == 0 and json.loads(told.stdout)["max_tensors"] == 7

    until(has_its_quota, "it is started with its new quota")

    tenants.reload("[team-b]\n--memory=lots\n")
    tenants.says(f"the tenants stay as they are: {tenants.file}:2: flag --memory cannot be 'lots'")
    assert tenants.up("team-b") and tenants.up("team-c")


def test_the_command_line_lists_them(tenants: Tenants) -> None:
    tenants.store("team-a").put("x", pattern(1, 1000))
    cli = Cli(tenants.daemon.socket_dir)
    rows = cli.json("tenants")
    assert [(row["tenant"], row["state"]) for row in rows] == [("team-a", "up"), ("team-b", "up")]
    assert rows[0]["df"]["tensors"] == 1 and rows[0]["df"]["max_tensors"] == 20 and rows[1]["df"]["tensors"] == 0
    assert rows[1]["socket_dir"] == f"{tenants.daemon.socket_dir}/team-b"
    assert [line.split()[0] for line in cli.text("tenants").splitlines()] == ["TENANT", "team-a", "team-b"]
    assert [row["tenant"] for row in cli.json("tenants", "--tenant", "team-b")] == ["team-b"]
    assert cli.text("ls", "--tenant", "team-a") == "x\n" and cli.text("ls", "--tenant=team-b") == ""
    assert "none in" in cli.error(3, "tenants", "--address", str(tenants.daemon.socket_dir / "team-a"))


def test_what_clients_are_told(tenants: Tenants) -> None:
    where = str(tenants.daemon.socket_dir)
    with pytest.raises(penstock.UnavailableError, match='there is no tenant "team-x" in .*; there are: team-a, team-b'):
        penstock.connect(where, tenant="team-x", timeout=1)
    with pytest.raises(penstock.InvalidArgumentError, match="^tenant: "):
        penstock.connect(where, tenant="Team A", timeout=1)
    with pytest.raises(penstock.InvalidArgumentError, match="^tenant: .* goes with a socket directory"):
        penstock.connect("127.0.0.1:7411", tenant="team-a", timeout=1)
    with pytest.raises(TypeError, match="^tenant"):
        penstock.connect(where, tenant=5, timeout=1)  # type: ignore[arg-type]
    assert "no tenant" in Cli(tenants.daemon.socket_dir).error(4, "df", "--tenant", "team-x", "--timeout", "1s")
    with penstock.connect(where, tenant="team-a") as store:
        assert store.address == where + "/team-a"
        store.put("x", pattern(1, 8))
    with penstock.connect(where + "/team-a") as store:
        assert store.exists("x"), "its folder is an address like any other"


def test_the_environment_names_the_tenant_where_it_names_the_address(tenants: Tenants) -> None:
    code = "import penstock, sys; print(penstock.connect(*sys.argv[1:]).address)"

    def address(*arguments: str, **env: str) -> str:
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=clean_environment(**env), capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        return done.stdout.strip()

    where = str(tenants.daemon.socket_dir)
    assert address(PENSTOCK_ADDRESS=where, PENSTOCK_TENANT="team-b") == f"{where}/team-b"
    assert address(f"{where}/team-a", PENSTOCK_ADDRESS=where, PENSTOCK_TENANT="team-b") == f"{where}/team-a"


BAD = [
    # The file, the line that is told, and what.
    ("--memory=64MiB\n", 1, "stands before the first section"),
    ("[Team]\n--memory=64MiB\n", 1, "tenant 'Team': a name has a-z"),
    ("[-x]\n", 1, "a name has a-z"),
    ("[a\n", 1, "has no ]"),
    ("[a]\n--memory=64MiB\n[a]\n", 3, "is there twice; the first is at"),
    ("[a]\n", 1, "has no --memory"),
    ("[a]\n--memory=1\n", 2, "flag --memory cannot be '1'"),
    ("[a]\n--memory=64MiB\n--nonsense=1\n", 3, "unknown flag --nonsense"),
    ("[a]\n--memory=64MiB\n--socket_dir=/tmp/x\n", 3, "is given to each tenant"),
    ("[a]\n--memory=64MiB\n--tenant=b\n", 3, "is given to each tenant"),
    ("[a]\n--memory=64MiB\nmemory 5\n", 3, "is not understood"),
    ("[a]\n--memory=64MiB\nuser=\n", 3, "user has no value"),
    ("[a]\n--memory=64MiB\n--help\n", 3, "does not go into a tenant's section"),
    ("", 0, "no tenant in it"),
    ("[a]\n--memory=64MiB\nuser=who-is-this\n", 0, "there is no such user"),
    ("[a]\n--memory=64MiB\ngroup=who-is-this\n", 0, "there is no such group"),
    ("[a]\n--memory=60%\n[b]\n--memory=60%\n", 0, "--memory of all tenants together is"),
]


@pytest.mark.parametrize("text, line, said", BAD, ids=range(len(BAD)))
def test_a_bad_file_is_refused_before_anything_is_started(tmp_path: Path, text: str, line: int, said: str) -> None:
    file = tmp_path / "tenants"
    file.write_text(text)
    done = subprocess.run([str(BUILD / "bin" / "penstockd"), f"--tenants={file}", f"--socket_dir={tmp_path / 's'}"], env=clean_environment(), capture_output=True,
                          text=True, timeout=DEADLINE_S)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert line == 0 or f"{file}:{line}: " in done.stderr
    assert not (tmp_path / "s").exists()


def test_other_bad_flags(tmp_path: Path) -> None:
    def error(*flags: str) -> str:
        done = subprocess.run([str(BUILD / "bin" / "penstockd"), f"--socket_dir={tmp_path / 's'}", *flags], env=clean_environment(), capture_output=True, text=True,
                              timeout=DEADLINE_S)
        assert done.returncode == 2
        return done.stderr

    assert "cannot open" in error(f"--tenants={tmp_path / 'none'}")
    (tmp_path / "t").write_text("[a]\n--memory=64MiB\n")
    assert "--node_id cannot stand beside --tenants" in error(f"--tenants={tmp_path / 't'}", "--node_id=" + "1" * 32)
    assert "63" in error(f"--tenants={tmp_path / 't'}", "--cluster=" + "c" * 62)
    for flag in ("--tenant=Team", "--max_pins=8191", "--max_tensors=-1", "--max_requests_per_second=x"):
        assert f"flag {flag.split('=')[0]} cannot be" in error(flag)


def test_all_end_with_the_supervisor(short_tmp: Path) -> None:
    made = start(short_tmp / "orphans", TWO)
    pids = [made.node(name)[key] for name in ("team-a", "team-b") for key in ("pid", "warden_pid")]
    made.daemon.process.kill()
    made.daemon.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "no node is left")
