"""penstock bench --from --to: transfers between nodes."""

from __future__ import annotations

import pytest

from support.daemon import Cli, Daemon, start_daemon
from support.nodes import start_nodes
from support.waiting import until


def address(node: Daemon) -> str:
    return f"127.0.0.1:{node.ready['grpc_port']}"


def bench(node: Daemon, *words: str) -> dict:
    return Cli(node.socket_dir).json("bench", "--size=1MiB", "--seconds=100ms", *words)


def peer_of(node: Daemon) -> dict:
    return Cli(node.socket_dir).json("nodes")[0]["peers"][0]


def assert_nothing_is_left(nodes: list[Daemon]) -> None:
    for node in nodes:
        cli = Cli(node.socket_dir)
        assert cli.json("ls") == []
        until(lambda: all(int(cli.json("df")[what]) == 0 for what in ("drafts", "pins", "retired")), "the node holds nothing")


@pytest.mark.parametrize("words, kind", [(["--from={there}"], "read"), (["--to={there}"], "write"),
                                         (["--from={there}", "--to={here}"], "read"), (["--from={here}", "--to={there}"], "write")])
def test_transfers_are_measured_in_both_directions(nodes, words, kind):
    here, there = nodes
    told = bench(here, *(word.format(here=address(here), there=address(there)) for word in words))
    assert list(told) == ["bench", "peer", "why", "results"] and (told["bench"], told["peer"]) == (kind, address(there))
    [result] = told["results"]
    assert list(result) == ["tensor_bytes", "rounds", "p50_ns", "p99_ns", "bytes_per_second", "lane"]
    assert told["why"] == peer_of(here)["why"] != ""
    assert result["tensor_bytes"] == 1 << 20 and result["rounds"] > 1 and result["lane"] == "stream"
    assert 0 < result["p50_ns"] <= result["p99_ns"]
    assert result["bytes_per_second"] == pytest.approx((1 << 20) / result["p50_ns"] * 1e9)
    assert_nothing_is_left(nodes)


def test_what_is_measured_are_real_reads(nodes):
    here, there = nodes
    before = int(Cli(here.socket_dir).json("nodes")[0]["peers"][0]["read_bytes"])
    rounds = bench(here, f"--from={address(there)}")["results"][0]["rounds"]
    after = int(Cli(here.socket_dir).json("nodes")[0]["peers"][0]["read_bytes"])
    assert after - before == rounds << 20


def test_a_node_may_be_said_by_its_id_and_people_see_a_table_of_three_sizes(nodes):
    here, there = nodes
    cli = Cli(here.socket_dir)
    bench(here, f"--to={address(there)}")  # from now on they know each other's ids
    uuid = Cli(there.socket_dir).json("nodes")[0]["node_uuid"]
    lines = cli.text("bench", f"--from={uuid[:8]}", f"--to={here.socket_dir}", "--seconds=20ms").splitlines()
    assert lines[0].startswith(f"to this node from {address(there)}: reads by stream")
    assert lines[1].split() == ["SIZE", "ROUNDS", "MEDIAN", "P99", "RATE"]
    assert [line.split("iB")[0].replace(" ", "") for line in lines[2:]] == ["4K", "1M", "64M"]
    assert_nothing_is_left(nodes)


@pytest.mark.parametrize("words, says", [
    (["--from=10.0.0.1:9"], "--from: no node '10.0.0.1:9' is known here: this node is"),
    (["--to={here}"], "one of them must be the node of --address"),
    (["--from={there}", "--to={there}"], "one of them must be the node of --address"),
    (["get", "--from={there}"], "leave out get, put, mixed and --count"),
    (["--count=3", "--from={there}"], "leave out get, put, mixed and --count"),
    (["--size=5GiB", "--from={there}"], "--size: 5"),
    (["--size=0", "--from={there}"], "--size: 0"),
    (["--seconds=never", "--from={there}"], "--seconds: 'never'"),
])
def test_what_cannot_be_meant_is_refused_by_the_name_of_the_flag(nodes, words, says):
    here, there = nodes
    words = [word.format(here=address(here), there=address(there)) for word in words]
    assert says in Cli(here.socket_dir).error(2, "bench", *words)
    assert_nothing_is_left(nodes)


def test_a_node_without_peers_says_so(short_tmp):
    alone = start_daemon(short_tmp / "bench-alone", "--memory=64MiB")
    assert "has no --peers" in Cli(alone.socket_dir).error(2, "bench", "--from=127.0.0.1:7411")
    assert alone.stop() == 0


def test_what_does_not_fit_is_an_error_and_leaves_nothing(nodes):
    Cli(nodes[0].socket_dir).error(5, "bench", f"--from={address(nodes[1])}", "--size=1GiB")
    assert_nothing_is_left(nodes)


def test_a_peer_that_is_gone_is_named(short_tmp):
    here, there = start_nodes(short_tmp / "bench-gone", 2, "--memory=64MiB")
    assert there.stop() == 0
    assert address(there) in Cli(here.socket_dir).error(4, "bench", f"--from={address(there)}")
    assert here.stop() == 0
