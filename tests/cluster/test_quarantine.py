"""What nobody can tell to be current after etcd has lost its data: listed, served to nobody, taken or dropped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.cluster import Cluster, agree, connect, patiently
from support.daemon import Cli
from support.etcd import Etcd, needs_etcd_reason
from support.waiting import until

pytestmark = pytest.mark.skipif(needs_etcd_reason is not None, reason=str(needs_etcd_reason))


def value(i: int, size: int = 1000) -> np.ndarray:
    return np.full(size, i % 251, np.uint8)


@pytest.fixture
def wiped(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes; "a/0" .. "a/9" at the first and, as replicas of it, "both" at both; then etcd has lost everything."""
    where = short_tmp / f"etcd-{request.node.name[-20:].strip(']')}"
    with Etcd(where) as etcd:
        cluster = Cluster(short_tmp, etcd, f"q-{request.node.name[-20:].strip(']')}")
        try:
            stores = cluster.start_all(2)
            for i in range(10):
                stores[0].put(f"a/{i}", value(i), metadata={"i": str(i)}, replicas=1)
            stores[0].put("both", value(77), replicas=2)
            stores[0].put("empty", np.zeros((0, 3), np.float32))
            stores[0].put("short", value(5), ttl=1e-3 * 1500)
            etcd.members[0].kill()
            shutil.rmtree(where / "m0")
            etcd.members[0].start()
            etcd.wait()
            agree(cluster.daemons, 2)
            until(lambda: all(int(df(cluster, i)["quarantined"]) > 0 for i in (0, 1)), "what they have is put aside")
            yield cluster
        finally:
            cluster.stop()


def cli(cluster: Cluster, which: int) -> Cli:
    return Cli(cluster.daemons[which].socket_dir)


def df(cluster: Cluster, which: int) -> dict:
    return cli(cluster, which).json("df")


def test_it_is_listed_and_taken_and_dropped(wiped):
    there = cli(wiped, 0).json("quarantine")
    names = [f"a/{i}" for i in range(10)] + ["both", "empty", "short"]
    assert [item["name"] for item in there] == names and int(df(wiped, 0)["quarantined"]) == len(names)
    assert (there[3]["shape"], there[3]["dtype"], there[3]["metadata"], there[3]["nbytes"]) == ([1000], "u8", {"i": "3"}, 1000)
    assert [item["name"] for item in cli(wiped, 0).json("quarantine", "a/1")] == ["a/1"]
    assert [item["name"] for item in cli(wiped, 1).json("quarantine")] == ["both"]
    text = cli(wiped, 0).text("quarantine", "a/")
    assert "a/9" in text and text.splitlines()[-1] == "10 tensors, 9.77KiB"
    assert "13 of those withheld are quarantined" in cli(wiped, 0).text("df")

    a, b = (connect(daemon) for daemon in wiped.daemons)
    for store in (a, b):
        with pytest.raises(penstock.NotFoundError):
            patiently(lambda: store.get("a/3"))
    patiently(lambda: b.put("a/4", value(99)))  # somebody has put it anew meanwhile
    failed = cli(wiped, 0).run("quarantine", "--take", "a/", "-o", "json", code=None)
    assert failed.returncode != 0 and b"'a/4'" in failed.stderr and b"exists" in failed.stderr and json.loads(failed.stdout) == {"taken": 9}
    for store in (a, b):
        for i in range(10):
            got = patiently(lambda: store.get(f"a/{i}"))
            assert np.array_equal(got.numpy(), value(99 if i == 4 else i))
        assert store.stat("a/3").metadata == {"i": "3"}
    assert cli(wiped, 0).json("quarantine", "--take", "--replace", "a/4") == {"taken": 1}
    assert np.array_equal(patiently(lambda: b.get("a/4")).numpy(), value(4))

    # Of what both have the first one that is taken wins, with as many replicas as it had.
    assert cli(wiped, 1).json("quarantine", "--take", "both") == {"taken": 1}
    assert np.array_equal(patiently(lambda: a.get("both")).numpy(), value(77)) and len(a.stat("both").nodes) == 2
    assert cli(wiped, 0).run("quarantine", "--take", "both", code=None).returncode != 0
    assert cli(wiped, 0).json("quarantine", "--take", "empty") == {"taken": 1} and patiently(lambda: b.get("empty")).shape == (0, 3)
    late = cli(wiped, 0).run("quarantine", "--take", "short", code=None)
    assert late.returncode != 0 and b"time to live is over" in late.stderr

    assert cli(wiped, 0).json("quarantine", "--drop", "--all") == {"dropped": 2}
    assert cli(wiped, 0).json("quarantine") == cli(wiped, 1).json("quarantine") == []
    a.delete_prefix("")
    until(lambda: all(int(df(wiped, i)[key]) == 0 for i in (0, 1) for key in ("quarantined", "withheld", "tensors", "retired", "drafts")), "nothing is left", 30)


def test_many_are_told_in_pages_and_outlive_the_process(short_tmp):
    where = short_tmp / "etcd-pages"
    with Etcd(where) as etcd:
        cluster = Cluster(short_tmp, etcd, "pages")
        try:
            (store,) = cluster.start_all(1)
            names = [f"n/{i:04}" for i in range(1203)]
            store.put_many({name: value(i, 10) for i, name in enumerate(names)})
            etcd.members[0].kill()
            shutil.rmtree(where / "m0")
            etcd.members[0].start()
            etcd.wait()
            agree(cluster.daemons, 1)
            until(lambda: int(df(cluster, 0)["quarantined"]) == 1203, "all are put aside")
            before = cluster.daemons[0].node_pid
            cli(cluster, 0).run("node", "restart")
            until(lambda: cluster.daemons[0].node_pid not in (None, before), "the next process")
            agree(cluster.daemons, 1)
            assert [item["name"] for item in cli(cluster, 0).json("quarantine")] == names and int(df(cluster, 0)["quarantined"]) == 1203
            assert cli(cluster, 0).json("quarantine", "--take", "n/05") == {"taken": 100}
            assert cli(cluster, 0).json("quarantine", "--drop", "--all") == {"dropped": 1103}
            assert [item.name for item in store.list("")] == names[500:600]
        finally:
            cluster.stop()


def test_mistakes_are_told(cli_of_one):
    assert cli_of_one.json("quarantine") == []
    for words in (["--take"], ["--drop"], ["--take", "--drop", "x"], ["--replace", "x"], ["--all", "x"]):
        assert "quarantine: " in cli_of_one.error(2, "quarantine", *words)


@pytest.fixture
def cli_of_one(daemon) -> Cli:
    return Cli(daemon.socket_dir)
