"""What the command line shows of a node: df, nodes, sessions, pins, top, events, watch, doctor, bench."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from support.daemon import DEADLINE_S, Cli, Daemon
from support.nodes import HAS_RDMA, start_nodes

DF_FIELDS = {
    "memory_bytes", "segment_bytes", "tensor_bytes", "block_bytes", "draft_bytes", "retired_bytes", "tensors",
    "drafts", "retired", "pins", "sessions", "arena_bytes", "extent_bytes", "arenas", "extents", "catalog_bytes",
    "leaving_bytes", "page_kind", "cache_bytes", "puts", "deletes", "evictions", "expirations", "adoptions",
    "started_ns", "generation", "quarantined_bytes", "channels", "channel_bytes", "regions", "region_bytes",
    "withheld", "withheld_bytes", "held", "held_bytes",
    "checksum_errors",
    "damaged", "damaged_bytes", "quarantined", "max_tensors", "max_pins", "max_requests_per_s", "throttled",
    "lost", "under_replicated", "repaired", "repaired_bytes",
    "spill_limit_bytes", "spilled", "spilled_bytes", "spills", "spill_ins",
}
NODE_FIELDS = {
    "node_uuid", "generation", "version", "layout_version", "socket_dir", "started_ns", "pid", "warden_pid",
    "grpc_address", "page_kind", "data_address", "lanes", "peers", "tls", "tcp_address", "reads_by_rdma",
    "http_address", "cluster", "tenant",
}
SESSION_FIELDS = {
    "id", "pid", "uid", "label", "pins", "drafts", "extent_bytes", "pinned_retired_bytes", "opened_ns", "requests",
}


def put(cli: Cli, name: str, nbytes: int = 8) -> None:
    cli.run("put", name, "-", "--dtype", "u8", "--shape", nbytes, stdin=bytes(nbytes))


def test_df_counts_what_is_stored(cli: Cli) -> None:
    before = cli.json("df")
    assert set(before) == DF_FIELDS and before["tensors"] == 0 and before["tensor_bytes"] == 0
    assert before["memory_bytes"] == 256 << 20
    put(cli, "a", 1000)
    put(cli, "b", 2 << 20)
    after = cli.json("df")
    assert after["tensors"] == 2 and after["tensor_bytes"] == 1000 + (2 << 20)
    assert after["puts"] >= before["puts"] + 2 and after["block_bytes"] >= after["tensor_bytes"]
    text = cli.text("df")
    assert text.splitlines()[0].split() == ["WHAT", "COUNT", "SIZE", "OF", "BUDGET"]
    assert "256MiB" in text and str(256 << 20) in cli.text("df", "-b")


def test_nodes_shows_the_one_that_answers(cli: Cli, daemon: Daemon) -> None:
    (node,) = cli.json("nodes")
    assert set(node) == NODE_FIELDS
    assert node["warden_pid"] == daemon.process.pid and node["socket_dir"] == str(daemon.socket_dir)
    assert node["lanes"] == ["stream", "rdma"][:1 + HAS_RDMA] and node["peers"] == [] and node["cluster"]["name"] == ""
    assert node["tcp_address"] == f"127.0.0.1:{daemon.ready['grpc_port']}" and node["tcp_address"] in cli.text("nodes")
    assert node["tls"] is False and "TLS" not in cli.text("nodes")
    assert node["node_uuid"] in cli.text("nodes") and "PEER" not in cli.text("nodes")


def test_sessions_show_this_call_among_them(cli: Cli) -> None:
    sessions = cli.json("sessions")
    assert all(set(session) == SESSION_FIELDS for session in sessions)
    assert "penstock sessions" in [session["label"] for session in sessions]
    assert "penstock sessions" in cli.text("sessions")


def test_watch_prints_events_as_they_happen(cli: Cli) -> None:
    with cli.popen("watch", "w/", "-o", "json", "--from-start", "-n", "3") as watcher:
        put(cli, "w/x")
        put(cli, "elsewhere")
        put(cli, "w/x")
        cli.run("rm", "w/x")
        out, err = watcher.communicate(timeout=DEADLINE_S)
    assert watcher.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert [(e["kind"], e["name"], e["version"]) for e in events] == [
        ("put", "w/x", 1), ("put", "w/x", 2), ("delete", "w/x", 2)]
    assert list(events[0]) == ["kind", "sequence", "time", "name", "version", "text", "info"]
    assert events[0]["info"]["shape"] == [8] and events[2]["info"] is None
    again = cli.run("watch", "w/", "--after", events[1]["sequence"], "-n", "1", "-o", "json")
    assert json.loads(again.stdout)["sequence"] == events[2]["sequence"]


def test_watch_ends_quietly_on_an_interrupt(cli: Cli) -> None:
    with cli.popen("watch", "--from-start", "i/") as watcher:
        put(cli, "i/x")
        assert b"i/x" in watcher.stdout.readline()  # so it is inside its loop
        watcher.send_signal(signal.SIGINT)
        out, err = watcher.communicate(timeout=DEADLINE_S)
    assert watcher.returncode == 0 and err == b""


def test_events_ends_when_there_is_nothing_more(cli: Cli) -> None:
    put(cli, "e/x")
    lines = [json.loads(line) for line in cli.text("events", "-o", "json").splitlines()]
    assert ("put", "e/x") in [(e["kind"], e["name"]) for e in lines]
    assert lines[0]["kind"] == "node" and lines[0]["text"]  # its start
    assert [e["sequence"] for e in lines] == sorted(e["sequence"] for e in lines)
    assert "e/x" in cli.text("events")


def test_top_once_needs_no_terminal(cli: Cli) -> None:
    put(cli, "t/x")
    picture = cli.json("top", "-1")
    assert list(picture) == ["time", "node", "df", "rates", "sessions"]
    assert set(picture["df"]) == DF_FIELDS and set(picture["rates"]) == {"puts", "deletes", "evictions"}
    assert picture["rates"]["puts"] > 0
    assert set(picture["sessions"][0]) == SESSION_FIELDS | {"requests_per_second"}
    text = cli.text("top", "-1")
    assert "memory" in text and "tensors" in text and "penstock top" in text
    cli.error(2, "top", "-1", "--interval", "0")


def test_live_top_goes_on_until_an_interrupt(cli: Cli) -> None:
    with cli.popen("top", "--interval", "10ms", "-o", "json") as top:
        pictures = [json.loads(top.stdout.readline()) for _ in range(3)]
        top.send_signal(signal.SIGINT)
        top.communicate(timeout=DEADLINE_S)
    assert top.returncode == 0
    assert pictures[0]["time"] < pictures[1]["time"] < pictures[2]["time"]


def test_pins_show_who_reads_what(cli: Cli) -> None:
    # `get` holds its pin while it writes; a pipe that nobody empties keeps it there.
    put(cli, "p/x", 4 << 20)
    with cli.popen("get", "p/x", "--raw") as reader:
        assert reader.stdout.read(1) == b"\0"
        pins = cli.json("pins", "p/")
        cli.run("rm", "p/x")
        retired = cli.json("pins")
        text = cli.text("pins")
        held_back = max(s["pinned_retired_bytes"] for s in cli.json("sessions"))
        assert len(reader.stdout.read()) == (4 << 20) - 1
        assert reader.wait(timeout=DEADLINE_S) == 0
    assert [set(pin) for pin in pins] == [{"session", "name", "version", "nbytes", "count", "retired"}]
    assert (pins[0]["name"], pins[0]["version"], pins[0]["nbytes"], pins[0]["count"]) == ("p/x", 1, 4 << 20, 1)
    assert pins[0]["retired"] is False and retired[0]["retired"] is True
    assert "p/x" in text and "retired" in text
    assert held_back >= 4 << 20
    assert cli.json("pins", "nothing/") == []


def test_doctor_finds_a_healthy_node(cli: Cli) -> None:
    findings = cli.json("doctor")
    assert all(list(f) == ["check", "health", "found", "advice"] for f in findings)
    checks = {f["check"]: f for f in findings}
    assert {"kernel", "memory", "huge pages", "open files", "locked memory", "clock", "socket directory", "node",
            "versions", "node's memory", "RDMA devices", "MTU", "data port", "node's memlock"} <= checks.keys()
    assert all(f["health"] in ("ok", "warn") for f in findings)
    assert all(f["advice"] for f in findings if f["health"] != "ok")
    assert "node" in cli.text("doctor")


def test_doctor_asks_the_peers(short_tmp) -> None:
    a, b = start_nodes(short_tmp / "doctor", 2)

    def found(check: str, code: int = 0) -> dict[str, str]:
        findings = json.loads(Cli(a.socket_dir).run("doctor", "-o", "json", "--timeout", "5s", code=code).stdout)
        return next(f for f in findings if f["check"] == check)

    peer = found("peer")
    assert peer["health"] == "ok" and f"127.0.0.1:{b.ready['grpc_port']}: " in peer["found"]
    assert HAS_RDMA or "stream; " in peer["found"] and "no RDMA device" in peer["found"]
    port = found("data port")
    assert port["health"] == "warn" and "loopback" in port["found"] and "--data_net" in port["advice"]
    assert b.stop() == 0
    peer = found("peer", code=1)
    assert peer["health"] == "fail" and "does not answer" in peer["found"] and "penstockd" in peer["advice"]
    assert a.stop() == 0


def test_doctor_fails_without_a_node(short_tmp) -> None:
    nowhere = Cli(short_tmp / "nowhere")
    result = nowhere.run("doctor", "--timeout", "200ms", code=1)
    assert b"fail" in result.stdout and b"penstockd" in result.stdout
    nowhere.run("doctor", "--no-node")


@pytest.mark.parametrize("kind", ["get", "put", "mixed"])
def test_bench_measures_and_cleans_up(cli: Cli, kind: str) -> None:
    told = cli.json("bench", kind, "--size", "1KiB", "--count", "20", "--seconds", "50ms")
    assert list(told) == ["bench", "tensor_bytes", "names", "operations", "seconds", "operations_per_second",
                          "p50_ns", "p99_ns", "p999_ns"]
    assert told["operations"] > 0 and 0 < told["p50_ns"] <= told["p99_ns"] <= told["p999_ns"]
    assert cli.text("ls") == ""


def test_a_stopped_node_is_unavailable(short_tmp) -> None:
    nowhere = Cli(short_tmp / "gone")
    for verb in (["ls"], ["df"], ["get", "x"], ["watch"]):
        nowhere.error(4, *verb, "--timeout", "100ms")


def test_get_waits_for_a_name(cli: Cli) -> None:
    with cli.popen("get", "late", "--wait", "30s", "--raw") as waiter:
        put(cli, "late")
        out, err = waiter.communicate(timeout=DEADLINE_S)
    assert waiter.returncode == 0 and out == bytes(8), err
    assert "late" not in cli.text("ls", "x")
    code = cli.popen("get", "never", "--wait", "50ms", stdin=subprocess.DEVNULL)
    code.communicate(timeout=DEADLINE_S)
    assert code.returncode in (3, 7)
