"""Nodes that find each other by etcd: joining, leaving, being expelled and coming back, with a real etcd that fails in its own ways."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.certificates import Authority
from support.cluster import TTL_S, Cluster
from support.daemon import BUILD, Cli, Daemon, clean_environment, start_daemon
from support.etcd import Etcd, Member, needs_etcd_reason
from support.waiting import freeze, until

pytestmark = pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))

@pytest.fixture(scope="module")
def etcd(short_tmp: Path) -> Iterator[Etcd]:
    with Etcd(short_tmp / "etcd") as running:
        yield running


@pytest.fixture
def cluster(short_tmp: Path, etcd: Etcd, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster(short_tmp, etcd, request.node.name.removeprefix("test_")[:60])
    yield made
    made.stop()


def seen(daemon: Daemon) -> dict:
    """The cluster as a node sees it."""
    return Cli(daemon.socket_dir).json("nodes")[0]["cluster"]


def events(daemon: Daemon) -> str:
    return Cli(daemon.socket_dir).text("events")


def states(daemon: Daemon) -> list[str]:
    return sorted(node["state"] for node in seen(daemon).get("nodes", []))


def agree(daemons: list[Daemon], *wanted: str) -> None:
    until(lambda: all(states(daemon) == sorted(wanted) and seen(daemon)["serving"] for daemon in daemons), f"all see {wanted}", 30)


def connect(daemon: Daemon) -> penstock.Store:
    return penstock.connect(str(daemon.socket_dir), timeout=20)


def kill_all(daemon: Daemon) -> None:
    """The host is gone: warden, node and memory."""
    pids = [daemon.process.pid, daemon.node_pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    daemon.process.wait()


def refused(call) -> str | None:
    try:
        call()
    except penstock.UnavailableError as error:
        return str(error)
    return None


def test_nodes_find_each_other_and_each_others_tensors(cluster):
    daemons = [cluster.start(f"--zone=z{i}", *([f"--host_label=rack.{i}"] if i else [])) for i in range(3)]
    agree(daemons, "up", "up", "up")
    assert len({seen(daemon)["term"] for daemon in daemons}) == 1
    assert sorted(node["zone"] for node in seen(daemons[0])["nodes"]) == ["z0", "z1", "z2"]
    assert sorted(node["host"] for node in seen(daemons[0])["nodes"]) == sorted([socket.gethostname(), "rack.1", "rack.2"])
    stores = [connect(daemon) for daemon in daemons]
    for i, store in enumerate(stores):
        store.put(f"x/{i}", np.full(1000, i, np.uint8))
    for store in stores:
        assert [int(view.numpy()[0]) for view in store.get_many([f"x/{i}" for i in range(3)]).values()] == [0, 1, 2]
        with pytest.raises(penstock.NotFoundError):
            store.get("nobody/has/it")
    late = cluster.start()
    agree([*daemons, late], "up", "up", "up", "up")
    assert int(connect(late).get("x/1").numpy()[0]) == 1
    text = Cli(late.socket_dir).text("nodes")
    assert cluster.name in text and text.count(" up ") >= 4


def test_a_node_that_is_stopped_leaves_at_once_and_nobody_waits_for_it(cluster):
    a, b = cluster.start(), cluster.start()
    agree([a, b], "up", "up")
    term = seen(a)["term"]
    connect(b).put("gone", np.zeros(10, np.uint8))
    assert b.stop() == 0
    assert states(a) == ["up"] and int(seen(a)["term"]) > int(term)
    store = connect(a)
    with pytest.raises(penstock.DataLossError, match="'gone' version 1: every node that had it is gone for good"):
        until(lambda: refused(lambda: store.get("gone")) is None, "it is known that nobody has it", 20)
    assert "left: " in events(a) and "expelled" not in events(a)


def test_a_host_that_dies_is_absent_until_it_is_given_up(cluster):
    a, b = cluster.start(), cluster.start()
    agree([a, b], "up", "up")
    lost = Cli(b.socket_dir).json("nodes")[0]["node_uuid"]
    store = connect(a)
    connect(b).put("lost", np.zeros(10, np.uint8))
    began = time.monotonic()
    kill_all(b)
    agree([a], "up", "absent")
    assert time.monotonic() - began > TTL_S / 2
    until(lambda: "--forget" in str(refused(lambda: store.get("lost"))), "it is known that nobody else has it", 20)
    assert lost in str(refused(lambda: store.get("lost")))
    cli = Cli(a.socket_dir)
    assert "absent for" in cli.text("nodes")
    assert "is not absent" in cli.error(3, "nodes", "--forget", cli.json("nodes")[0]["node_uuid"])
    assert "node id" in cli.error(2, "nodes", "--forget", "xyz")
    assert states(a) == ["absent", "up"]
    assert int(cli.json("nodes", "--forget", lost)["term"]) > 0
    agree([a], "up")
    with pytest.raises(penstock.DataLossError):
        store.get("lost")
    store.put("lost", np.ones(10, np.uint8))
    assert int(store.get("lost").numpy()[0]) == 1


def test_a_node_process_that_is_replaced_keeps_its_place(cluster):
    a, b = cluster.start(), cluster.start()
    agree([a, b], "up", "up")
    connect(b).put("kept", np.full(100, 7, np.uint8))
    term, old = seen(a)["term"], b.node_pid
    os.kill(old, signal.SIGKILL)
    until(lambda: b.node_pid not in (None, old), "the warden has made another node")
    store = connect(a)
    until(lambda: refused(lambda: store.get("kept")) is None, "b serves again", 20)
    assert int(store.get("kept").numpy()[0]) == 7
    agree([a, b], "up", "up")
    time.sleep(1.5 * TTL_S)  # its first process' lease would be over
    assert int(seen(a)["term"]) == int(seen(b)["term"]) == int(term) + 1, "another process of it, and nobody was expelled"
    assert "its process was replaced: " in events(a) and "expelled" not in events(a)


def test_a_node_that_sleeps_too_long_is_fenced_and_comes_back(cluster):
    a, b = cluster.start(), cluster.start()
    agree([a, b], "up", "up")
    of_b = connect(b)
    version = of_b.put("x", np.full(1000, 5, np.uint8)).version
    assert of_b.get("x").path == "map"
    held = of_b.get("x")
    freeze(b.node_pid)
    agree([a], "up", "absent")
    # Its clients see by themselves that it has no place any more: nobody answers them.
    with pytest.raises((penstock.UnavailableError, penstock.DeadlineError)):
        with penstock.connect(str(b.socket_dir), timeout=1) as impatient:
            impatient.get("x")
    assert int(of_b.get("x", version=version).numpy()[0]) == 5, "an exact version needs no lease"
    assert int(held.numpy()[-1]) == 5
    os.kill(b.node_pid, signal.SIGCONT)
    agree([a, b], "up", "up")
    until(lambda: refused(lambda: connect(a).get("x")) is None, "its tensors are confirmed")
    assert int(connect(a).get("x").numpy()[0]) == 5 and of_b.get("x").path == "map"
    assert "lease at etcd is over" in events(b)


def test_two_nodes_with_one_id(cluster):
    uuid = "0123456789abcdef0123456789abcdef"
    a = cluster.start(f"--node_id={uuid}")
    assert seen(a)["nodes"][0]["node_uuid"] == uuid
    other = subprocess.run([str(BUILD / "bin" / "penstockd"), f"--socket_dir={cluster.folder}/twin", "--grpc_port=0", "--data_port=0", "--memory=64MiB",
                            cluster.etcd.flag, f"--cluster={cluster.name}", f"--member_ttl={TTL_S}s", f"--node_id={uuid}"],
                           env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert other.returncode == 1 and "is taken by the node at" in other.stderr and "--node_id" in other.stderr, other.stderr
    assert states(a) == ["up"] and seen(a)["serving"]
    # Nor one whose id begins like it: the directory tells nodes apart by that.
    like_it = subprocess.run([str(BUILD / "bin" / "penstockd"), f"--socket_dir={cluster.folder}/like", "--grpc_port=0", "--data_port=0", "--memory=64MiB",
                              cluster.etcd.flag, f"--cluster={cluster.name}", f"--node_id={uuid[:16]}{'5' * 16}"],
                             env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert like_it.returncode == 1 and "begins with the same 16 digits" in like_it.stderr and "--node_id" in like_it.stderr, like_it.stderr
    assert states(a) == ["up"] and seen(a)["serving"]
    # The same host again, with nothing in its memory: it need not wait for an operator.
    term = seen(a)["term"]
    kill_all(a)
    b = cluster.start(f"--node_id={uuid}")
    assert states(b) == ["up"] and int(seen(b)["term"]) > int(term)


def test_etcd_away_stops_names_after_the_lease_and_nothing_else(short_tmp):
    with Etcd(short_tmp / "etcd-away") as etcd:
        cluster = Cluster(short_tmp, etcd, "away")
        a, b = cluster.start(), cluster.start()
        try:
            agree([a, b], "up", "up")
            store, other = connect(a), connect(b)
            version = store.put("x", np.full(1000, 3, np.uint8)).version
            assert int(other.get("x").numpy()[0]) == 3
            etcd.members[0].kill()
            assert int(store.get("x").numpy()[0]) == 3, "the lease goes on"
            for one in (store, other):
                until(lambda one=one: refused(lambda: one.get("x")), "no names are served", 3 * TTL_S + 10)
            assert "no place in its cluster" in str(refused(lambda: store.put("y", np.zeros(3, np.uint8))))
            for call in (lambda: store.delete("x"), lambda: list(store.list()), lambda: store.delete_prefix("x"), lambda: store.stat("x")):
                assert refused(call) is not None
            assert int(store.get("x", version=version).numpy()[0]) == 3
            cli = Cli(a.socket_dir)
            assert not seen(a)["serving"] and "etcd" in seen(a)["why"]
            assert "no: " in cli.text("nodes")
            term = seen(a)["term"]
            etcd.members[0].start()
            etcd.wait()
            agree([a, b], "up", "up")
            until(lambda: refused(lambda: other.get("x")) is None, "served again")
            assert store.put("y", np.zeros(3, np.uint8)).version == 1, "nothing was changed while it was refused"
            assert store.get("x").version == version
            assert int(seen(a)["term"]) >= int(term)
        finally:
            cluster.stop()


def test_an_etcd_that_has_lost_everything_is_the_beginning_of_a_cluster(short_tmp):
    with Etcd(short_tmp / "etcd-wiped") as etcd:
        cluster = Cluster(short_tmp, etcd, "wiped")
        a, b = cluster.start(), cluster.start()
        try:
            agree([a, b], "up", "up")
            for i in range(20):
                etcd.ctl("put", "/other", str(i))  # the new one's revisions are far below
            connect(a).put("x", np.full(10, 7, np.uint8))
            etcd.members[0].kill()
            shutil.rmtree(short_tmp / "etcd-wiped" / "m0")
            etcd.members[0].start()
            etcd.wait()
            agree([a, b], "up", "up")
            until(lambda: refused(lambda: list(connect(b).list())) is None, "names are served again")
            # The new cluster's directory knows nothing of what the nodes have: it is put aside, not served as if it were the newest.
            with pytest.raises(penstock.NotFoundError):
                connect(b).get("x")
            assert int(Cli(a.socket_dir).json("df")["withheld"]) == 1
            connect(b).put("x", np.full(10, 8, np.uint8))
            assert int(connect(a).get("x").numpy()[0]) == 8
            c = cluster.start()
            agree([a, b, c], "up", "up", "up")
        finally:
            cluster.stop()


def test_a_node_waits_for_an_etcd_that_comes_later(short_tmp):
    etcd = Etcd(short_tmp / "etcd-late")
    etcd.folder.mkdir()
    cluster = Cluster(short_tmp, etcd, "late")
    ready: list[Daemon] = []
    waiting = threading.Thread(target=lambda: ready.append(cluster.start()))
    waiting.start()
    time.sleep(1)
    assert not ready, "it said that it was ready"
    try:
        with etcd:
            waiting.join(timeout=30)
            assert ready and seen(ready[0])["serving"]
            assert refused(lambda: connect(ready[0]).put("x", np.zeros(3, np.uint8))) is None
            cluster.stop()
    finally:
        waiting.join(timeout=60)
        cluster.stop()


def test_three_members_and_the_leader_dies(short_tmp):
    with Etcd(short_tmp / "etcd3", 3) as etcd:
        cluster = Cluster(short_tmp, etcd, "three")
        a, b = cluster.start(), cluster.start()
        try:
            agree([a, b], "up", "up")
            term = seen(a)["term"]
            store = connect(a)
            store.put("x", np.zeros(10, np.uint8))
            for how in (Member.kill, Member.pause):
                leader = etcd.leader()
                how(leader)
                until_time = time.monotonic() + 2.5 * TTL_S
                while time.monotonic() < until_time:
                    time.sleep(0.05)
                agree([a, b], "up", "up")
                assert int(store.get("x").numpy()[0]) == 0
                # Before it is back: a leader of Debian's etcd, 3.4.23, that wakes up may revoke leases that were renewed without it
                # (etcd-io/etcd#15247); nodes register again then.
                assert seen(a)["term"] == term, "nobody was expelled"
                if leader.process is None:
                    leader.start()
                else:
                    leader.resume()
                etcd.wait()
            agree([a, b], "up", "up")
            until(lambda: refused(lambda: store.get("x")) is None, "x is served")
            c = cluster.start()
            agree([a, b, c], "up", "up", "up")
        finally:
            cluster.stop()


def test_compaction_while_a_node_does_not_listen(short_tmp):
    with Etcd(short_tmp / "etcd-compact") as etcd:
        cluster = Cluster(short_tmp, etcd, "compact")
        a, b = cluster.start(), cluster.start()
        try:
            agree([a, b], "up", "up")
            freeze(a.node_pid)
            etcd.members[0].kill()  # and its watch with it
            etcd.members[0].start()
            etcd.wait()
            for i in range(20):
                etcd.ctl("put", "/other", str(i))
            c = cluster.start()
            agree([c], "absent", "up", "up")
            revision = etcd.ctl("get", "/other", "-w", "json").split('"revision":')[1].split(",")[0].rstrip("}")
            etcd.ctl("compact", revision, "--physical=true")
            os.kill(a.node_pid, signal.SIGCONT)
            agree([a, b, c], "up", "up", "up")
            d = cluster.start()  # its watch works again, too
            agree([a, b, c, d], "up", "up", "up", "up")
        finally:
            cluster.stop()


def test_what_is_written_to_etcd_by_others_does_no_harm(cluster):
    a = cluster.start()
    base = f"/penstock/{cluster.name}"
    cluster.etcd.ctl("put", f"{base}/nodes/zz", "garbage")
    cluster.etcd.ctl("put", f"{base}/nodes/" + "0" * 32, "garbage")
    cluster.etcd.ctl("put", f"{base}/elsewhere", "garbage")
    b = cluster.start()
    agree([a, b], "up", "up")
    cluster.etcd.ctl("del", f"{base}/view")
    agree([a, b], "up", "up")
    cluster.etcd.ctl("put", f"{base}/view", "garbage \x01 garbage")
    agree([a, b], "up", "up")
    assert int(connect(a).put("x", np.zeros(3, np.uint8)).version) == 1


def test_the_wall_clock_jumps(cluster, tmp_path):
    """By a year, there and back, under a node's feet: leases are of another clock."""
    source = tmp_path / "jump.c"
    source.write_text(r"""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdlib.h>
        #include <sys/time.h>
        #include <time.h>
        #include <unistd.h>
        static int (*real)(clockid_t, struct timespec*);
        int clock_gettime(clockid_t id, struct timespec* t) {
          if (real == NULL) real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
          int rc = real(id, t);
          const char* mark = getenv("JUMP");
          if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) && mark != NULL && access(mark, F_OK) == 0) t->tv_sec += 365L * 86400;
          return rc;
        }
        int gettimeofday(struct timeval* t, void* zone) {
          (void)zone;
          struct timespec now;
          int rc = clock_gettime(CLOCK_REALTIME, &now);
          t->tv_sec = now.tv_sec;
          t->tv_usec = now.tv_nsec / 1000;
          return rc;
        }
    """)
    library, mark = tmp_path / "jump.so", tmp_path / "jumped"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    a, b = cluster.start(), cluster.start(LD_PRELOAD=str(library), JUMP=str(mark))
    agree([a, b], "up", "up")
    term = seen(a)["term"]
    store = connect(b)
    store.put("x", np.zeros(3, np.uint8))
    for jump in (mark.touch, mark.unlink):
        jump()
        end = time.monotonic() + 2 * TTL_S
        while time.monotonic() < end:
            assert store.get("x").path == "map"
            time.sleep(0.02)
        agree([a, b], "up", "up")
        assert int(connect(a).get("x").numpy()[0]) == 0
    assert seen(a)["term"] == term, "nobody was expelled"


def test_tls_user_and_password(short_tmp, tmp_path):
    made = Authority(tmp_path / "ca")
    server, client = made.sign("etcd"), made.sign("node")
    tls = ("--cert-file", str(server.cert), "--key-file", str(server.key), "--trusted-ca-file", str(made.ca), "--client-cert-auth")
    ctl = (f"--cacert={made.ca}", f"--cert={client.cert}", f"--key={client.key}")
    with Etcd(short_tmp / "etcd-tls", scheme="https", flags=tls, ctl_flags=ctl) as etcd:
        for words in (("user", "add", "root:secret"), ("role", "add", "penstock"), ("user", "add", "keeper:pass word"),
                      ("role", "grant-permission", "penstock", "readwrite", "--prefix=true", "/penstock/"), ("user", "grant-role", "keeper", "penstock"),
                      ("user", "grant-role", "root", "root"), ("auth", "enable")):
            etcd.ctl(*words)
        password, wrong = tmp_path / "password", tmp_path / "wrong"
        password.write_text("pass word\n")
        wrong.write_text("guess\n")
        ca, cert = f"--etcd_ca={made.ca}", (f"--etcd_cert={client.cert}", f"--etcd_key={client.key}")
        user = ("--etcd_user=keeper", f"--etcd_password_file={password}")
        cluster = Cluster(short_tmp, etcd, "tls")
        try:
            a, b = cluster.start(ca, *cert, *user), cluster.start(ca, *cert, *user)
            agree([a, b], "up", "up")
            etcd.members[0].kill()  # it forgets its tokens
            etcd.members[0].start()
            until(lambda: "unhealthy" not in etcd.ctl("--user=root:secret", "endpoint", "health", check=False), "etcd is back")
            time.sleep(2 * TTL_S)
            agree([a, b], "up", "up")
            for flags, why in (((ca, *cert, "--etcd_user=keeper", f"--etcd_password_file={wrong}"), "--etcd_user"), ((ca, *cert), "etcd")):
                refused_node = subprocess.run(
                    [str(BUILD / "bin" / "penstockd"), f"--socket_dir={short_tmp}/refused", "--grpc_port=0", "--data_port=0", "--memory=64MiB", etcd.flag,
                     "--cluster=tls", *flags], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
                assert refused_node.returncode == 1 and why in refused_node.stderr, refused_node.stderr
            agree([a, b], "up", "up")
        finally:
            cluster.stop()


@pytest.mark.parametrize(("flags", "why"), [
    (["--etcd=localhost"], "--etcd"), (["--etcd=http://localhost:2379"], "--etcd"), (["--member_ttl=1500ms"], "--member_ttl"),
    (["--node_id=xyz"], "--node_id"), (["--cluster=a/b"], "--cluster"), (["--etcd=h:1", "--peers=h:2"], "--peers"),
    (["--etcd=h:1", "--host=0.0.0.0"], "--advertise"), (["--etcd=h:1", "--data_port=none"], "--data_port"),
    (["--etcd_user=x"], "--etcd_password_file"), (["--etcd_cert=x"], "--etcd_key"), (["--zone=a b"], "--zone"),
    (["--host_label=a b"], "--host_label"), (["--etcd=h:1", "--node_id=" + "0" * 31 + "1"], "--node_id"),
])
def test_flags_that_cannot_be(flags, why, tmp_path):
    done = subprocess.run([str(BUILD / "bin" / "penstockd"), f"--socket_dir={tmp_path}", "--grpc_port=0", *flags], env=clean_environment(),
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2 and why in done.stderr, done.stderr
