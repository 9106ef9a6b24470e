"""Channels whose writer is a client of another node: readers do not differ, but for what the link does."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import numpy as np
import pytest

import penstock
from support.books import MUTABLE, books
from support.certificates import Authority
from support.daemon import Cli, start_daemon
from support.hosts import Hosts
from support.nodes import free_ports, start_nodes
from support.waiting import freeze, until

SOON = 30.0
MIB = 1 << 20
NOTHING = dict.fromkeys(MUTABLE, 0)


@pytest.fixture
def pair(stores):
    """The writer's node and the reader's; nothing of channels is left on either."""
    yield stores
    for store in stores:
        until(lambda: books(store, MUTABLE) == NOTHING, f"nothing is left: {books(store, MUTABLE)}")


def followed(store: penstock.Store) -> int:
    return int(books(store, ("channel_bytes",))["channel_bytes"])


def test_a_step_goes_to_another_node(pair):
    a, b = pair
    with a.channel("env/0/obs", (84, 84, 4), "u8", slots=4) as ch:
        with b.subscribe("env/0/obs", timeout=SOON) as rd:
            assert (rd.name, rd.dtype, rd.shape, rd.slots, rd.closed) == ("env/0/obs", "u8", (84, 84, 4), 4, False)
            assert rd.latest() is None
            for i in range(1, 30):
                assert ch.put(np.full((84, 84, 4), i, np.uint8)) == i
                step = rd.next(SOON)
                assert (step.seq, step.missed, rd.missed) == (i, 0, 0)
                assert (step.numpy() == i).all() and step.ok()
                assert rd.latest().seq == i
            with pytest.raises(ValueError, match="read-only"):
                step.numpy()[0, 0, 0] = 1
            with pytest.raises(penstock.DeadlineError):
                rd.next(timeout=0.05)


def test_who_subscribes_late_finds_the_newest_step(pair):
    a, b = pair
    with a.channel("x", (), "i64", slots=4) as ch:
        for i in range(1, 8):
            ch.put(np.int64(i * 10))
        with b.subscribe("x", timeout=SOON) as rd, b.subscribe("x", timeout=SOON) as other:
            for reader in (rd, other):
                step = reader.latest()
                assert (step.seq, int(step.numpy())) == (7, 70)
            ch.put(np.int64(80))
            step = rd.next(SOON)
            assert (step.seq, step.missed, int(step.numpy())) == (8, 0, 80)
            assert books(b, ("channels",)) == {"channels": 1}, "one mirror for all readers"


def test_a_slow_reader_is_told_how_many_it_missed(pair):
    a, b = pair
    with a.channel("x", (), "i64", slots=4) as ch, b.subscribe("x", timeout=SOON) as rd:
        for i in range(1, 101):
            ch.put(np.int64(i))
        seen = []
        while not seen or seen[-1].seq < 100:
            seen.append(rd.next(SOON))
            assert int(seen[-1].numpy()) == seen[-1].seq or not seen[-1].ok()
        assert [s.seq for s in seen] == sorted({s.seq for s in seen})
        assert len(seen) + rd.missed == 100 and sum(s.missed for s in seen) == rd.missed


def test_closed_and_opened_again(pair):
    a, b = pair
    ch = a.channel("x", 4, "u8")
    ch.put(np.full(4, 1, np.uint8))
    with b.subscribe("x", timeout=SOON) as rd:
        assert rd.next(SOON).seq == 1
        ch.put(np.full(4, 2, np.uint8))
        ch.close()
        assert rd.next(SOON).seq == 2, "what was written before the end is still given"
        for call in (lambda: rd.next(SOON), rd.latest):
            with pytest.raises(penstock.UnavailableError, match="closed it or died"):
                call()
        assert rd.closed
        with pytest.raises(penstock.NotFoundError):
            b.subscribe("x")
        with a.channel("x", 9, "f32") as again:
            again.put(np.full(9, 3, np.float32))
            with b.subscribe("x", timeout=SOON) as new:
                step = new.next(SOON)
                assert (new.shape, step.seq, float(step.numpy()[0])) == ((9,), 1, 3.0)


def test_a_reader_waits_for_a_channel_to_appear_there(pair):
    a, b = pair
    opened: list[penstock.ChannelReader] = []
    thread = threading.Thread(target=lambda: opened.append(b.subscribe("late", timeout=SOON)))
    thread.start()
    time.sleep(0.3)
    with a.channel("late", 3, "u8") as ch:
        thread.join(SOON)
        ch.put(np.arange(3, dtype=np.uint8))
        with opened[0] as rd:
            assert rd.next(SOON).numpy().tolist() == [0, 1, 2]


def test_what_is_nowhere_is_not_found(pair):
    _, b = pair
    with pytest.raises(penstock.NotFoundError, match="on none of 2 nodes"):
        b.subscribe("nowhere")
    with pytest.raises(penstock.NotFoundError, match="other hosts cannot share one"):
        b.region("nowhere")


def test_a_channel_here_comes_first_and_takes_the_name_from_a_mirror(pair):
    a, b = pair
    with a.channel("x", 1, "u8") as there:
        there.put(np.full(1, 1, np.uint8))
        with b.subscribe("x", timeout=SOON) as rd:
            assert rd.next(SOON).numpy()[0] == 1
            with b.channel("x", 1, "u8") as here:
                with pytest.raises(penstock.UnavailableError):
                    rd.next(SOON)
                here.put(np.full(1, 2, np.uint8))
                with b.subscribe("x") as own, a.subscribe("x") as other:
                    assert (own.next(SOON).numpy()[0], other.next(SOON).numpy()[0]) == (2, 1)
                until(lambda: books(b, ("channels",))["channels"] == 2, "the old mirror has a reader")


@pytest.mark.parametrize("nbytes", [0, 1, 16 << 10, 64 << 10, (256 << 10) + 1, 8 * MIB])
def test_steps_of_all_sizes_are_whole(pair, nbytes):
    a, b = pair
    with a.channel("x", nbytes, "u8", slots=3) as ch, b.subscribe("x", timeout=SOON) as rd:
        for i in range(1, 21):
            ch.put(np.full(nbytes, i, np.uint8))
            step = rd.next(SOON)
            array = step.numpy()
            assert step.seq == i and array.shape == (nbytes,) and (array == i).all() and step.ok()


@pytest.mark.parametrize("nbytes", [64 << 10, 4 * MIB])
def test_what_a_fast_writer_overwrites_is_never_taken_for_whole(pair, nbytes):
    a, b = pair
    stop = threading.Event()
    with a.channel("x", nbytes // 4, "u32", slots=2) as ch, b.subscribe("x", timeout=SOON) as rd:

        def write() -> None:
            while not stop.is_set():
                with ch.write() as slot:
                    slot.numpy()[:] = ch.seq + 1

        thread = threading.Thread(target=write)
        thread.start()
        out = np.zeros(nbytes // 4, np.uint32)
        end, whole = time.monotonic() + 1.5, 0
        try:
            while time.monotonic() < end:
                try:
                    seq = rd.read_into(out, next=True, timeout=SOON)
                except penstock.DataLossError:
                    continue
                assert (out == seq).all()
                whole += 1
        finally:
            stop.set()
            thread.join()
        assert whole > 3


def test_many_channels_at_once(pair):
    a, b = pair
    count = 300
    writers = [a.channel(f"env/{i}", 100, "i64", slots=4) for i in range(count)]
    big = a.channel("big", 4 * MIB, "u8", slots=2)
    readers = [b.subscribe(f"env/{i}", timeout=SOON) for i in range(count)]
    of_big = b.subscribe("big", timeout=SOON)
    for step in range(1, 6):
        big.put(np.full(4 * MIB, step, np.uint8))
        for i, ch in enumerate(writers):
            ch.put(np.full(100, 1000 * i + step))
        for i, rd in enumerate(readers):
            got = rd.next(SOON)
            assert got.seq == step and (got.numpy() == 1000 * i + step).all()
        assert (of_big.next(SOON).numpy() == step).all()
    assert books(b, ("channels",)) == {"channels": count + 1}
    for one in (*readers, of_big):
        one.close()
    del got
    until(lambda: books(b, MUTABLE) == NOTHING, "the mirrors go with their last reader")
    own = count * 8192 + 8 * MIB  # and a page of slots each
    until(lambda: followed(a) < own + (count + 1) * 4096 + MIB, "and so does what they took there")
    for one in (*writers, big):
        one.close()


def test_both_ways_and_many_readers(pair):
    a, b = pair
    with a.channel("there", 10, "u8") as one, b.channel("back", 10, "u8") as two:
        readers = [b.subscribe("there", timeout=SOON) for _ in range(8)]
        with a.subscribe("back", timeout=SOON) as back:
            for i in range(1, 50):
                one.put(np.full(10, i, np.uint8))
                assert [int(rd.next(SOON).numpy()[0]) for rd in readers] == [i] * 8
                two.put(np.full(10, i, np.uint8))
                assert int(back.next(SOON).numpy()[0]) == i
        for rd in readers:
            rd.close()


def test_the_books_count_a_mirror_and_what_it_takes_there(pair):
    a, b = pair
    with a.channel("x", MIB, "u8", slots=4):
        own = followed(a)
        with b.subscribe("x", timeout=SOON):
            assert books(b, ("channels",)) == {"channels": 1} and followed(b) == own
            until(lambda: followed(a) == own + MIB, "a copy of a step")
            assert books(a, ("channels",)) == {"channels": 1}
            with pytest.raises(penstock.StoreFullError):
                b.put("too large", np.zeros(253 * MIB, np.uint8))
        until(lambda: (followed(a), followed(b)) == (own, 0), "back")


def test_a_mirror_without_room_is_a_clear_error(pair):
    a, b = pair
    with a.channel("x", 10 * MIB, "u8", slots=16), b.channel("full", 10 * MIB, "u8", slots=12):
        with pytest.raises(penstock.StoreFullError):
            b.subscribe("x", timeout=0)


def test_async_twin(pair):
    a, b = pair

    async def talk() -> list[int]:
        ch = await a.aio.channel("x", 4, "u8")
        async with await b.aio.subscribe("x", timeout=SOON) as rd:
            assert rd.latest() is None
            waiting = asyncio.create_task(rd.next(timeout=SOON))
            await asyncio.sleep(0)
            ch.put(np.ones(4, np.uint8))
            first = await waiting
            ch.put(np.ones(4, np.uint8))
            second = await rd.next(SOON)
            ch.close()
            with pytest.raises(penstock.UnavailableError):
                await rd.next(SOON)
            return [first.seq, second.seq]

    assert asyncio.run(talk()) == [1, 2]


def test_a_forked_childs_reader_goes_on(pair):
    a, b = pair
    with a.channel("x", 4, "u8") as ch, b.subscribe("x", timeout=SOON) as rd:
        ch.put(np.ones(4, np.uint8))
        assert rd.next(SOON).seq == 1
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.read(ready, 1)
                code = 0 if (rd.next(SOON).numpy() == 2).all() else 2
            finally:
                os._exit(code)
        ch.put(np.full(4, 2, np.uint8))
        os.write(go, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(ready)
        os.close(go)
        assert rd.next(SOON).seq == 2


def test_over_tls(tmp_path):
    daemons = start_nodes(tmp_path, 2, "--memory=256MiB", *Authority(tmp_path / "ca").sign("node").flags())
    with penstock.connect(str(daemons[0].socket_dir)) as a, penstock.connect(str(daemons[1].socket_dir)) as b:
        for nbytes in (1000, 8 * MIB):
            with a.channel("x", nbytes, "u8", slots=3) as ch, b.subscribe("x", timeout=SOON) as rd:
                for i in range(1, 11):
                    ch.put(np.full(nbytes, i, np.uint8))
                    step = rd.next(SOON)
                    assert step.seq == i and (step.numpy() == i).all() and step.ok()
    assert [daemon.stop() for daemon in daemons] == [0, 0]


def test_required_rdma_is_a_clear_error(tmp_path):
    daemons = start_nodes(tmp_path, 2, "--memory=64MiB")
    with penstock.connect(str(daemons[0].socket_dir)) as a, a.channel("x", 4, "u8"):
        with penstock.connect(str(daemons[1].socket_dir), require_transport="rdma") as b:
            with pytest.raises(penstock.TransportError, match="stream lane"):
                b.subscribe("x")
    assert [daemon.stop() for daemon in daemons] == [0, 0]


def test_tensor_bytes_go_over_the_data_port_alone(pair, nodes):
    """Invariant 1: what gRPC carries of a channel is its name and shape."""
    a, b = pair
    with a.channel("x", MIB, "u8", slots=3) as ch, b.subscribe("x", timeout=SOON) as rd:
        sessions = [s for s in Cli(nodes[0].socket_dir).json("sessions") if s["label"] == "channels"]
        assert len(sessions) == 1
        before = int(sessions[0]["requests"])
        for _ in range(50):
            ch.put(np.ones(MIB, np.uint8))
            rd.next(SOON)
        after = [int(s["requests"]) for s in Cli(nodes[0].socket_dir).json("sessions") if s["label"] == "channels"]
        assert after == [before], "no call for a step"
        with pytest.raises(penstock.DeadlineError):
            rd.next(0.01)


@pytest.mark.skipif(Hosts.why_not() is not None, reason=Hosts.why_not() or "")
def test_a_link_that_is_cut_is_told_and_goes_on_when_it_heals(tmp_path):
    port, = free_ports(1)
    with Hosts(2) as hosts:
        flags = [
            (f"--host={host.address}", f"--data_net={host.address}", f"--grpc_port={port}", f"--data_port={port + 1}", f"--peers={peer.address}:{port}")
            for host, peer in ((hosts[0], hosts[1]), (hosts[1], hosts[0]))
        ]
        daemons = [start_daemon(tmp_path / f"h{i}", "--memory=128MiB", *flags[i], prefix=hosts[i].prefix) for i in range(2)]
        with penstock.connect(str(daemons[0].socket_dir)) as a, penstock.connect(str(daemons[1].socket_dir)) as b:
            with a.channel("x", 1000, "u8", slots=3) as ch, b.subscribe("x", timeout=SOON) as rd:
                ch.put(np.full(1000, 1, np.uint8))
                assert rd.next(SOON).seq == 1
                hosts[0].cut()
                cut = time.monotonic()
                with pytest.raises(penstock.UnavailableError, match=f"{hosts[0].address}.*is not heard"):
                    rd.next(SOON)
                assert time.monotonic() - cut < 10 and not rd.closed
                with pytest.raises(penstock.UnavailableError, match="is not heard"):
                    rd.latest()
                with pytest.raises(penstock.UnavailableError):
                    b.subscribe("x")
                for i in range(2, 11):
                    ch.put(np.full(1000, i, np.uint8))
                hosts[0].heal()

                def step() -> penstock.ChannelStep | None:
                    try:
                        return rd.next(1.0)
                    except (penstock.UnavailableError, penstock.DeadlineError):
                        return None

                got = None
                end = time.monotonic() + SOON
                while (got is None or got.seq < 10) and time.monotonic() < end:
                    got = step() or got
                    time.sleep(0.05)
                assert got is not None and got.seq == 10 and (got.numpy() == 10).all(), "it goes on by itself"
                del got
        assert [daemon.stop() for daemon in daemons] == [0, 0]


def test_a_node_that_stands_still_is_told(tmp_path):
    daemons = start_nodes(tmp_path, 2, "--memory=64MiB")
    with penstock.connect(str(daemons[0].socket_dir)) as a, penstock.connect(str(daemons[1].socket_dir)) as b:
        with a.channel("x", 10, "u8") as ch, b.subscribe("x", timeout=SOON) as rd:
            ch.put(np.ones(10, np.uint8))
            assert rd.next(SOON).seq == 1
            node = daemons[0].node_pid
            freeze(node)
            try:
                with pytest.raises(penstock.UnavailableError, match="is not heard"):
                    rd.next(SOON)
                ch.put(np.full(10, 2, np.uint8))
            finally:
                os.kill(node, signal.SIGCONT)
            until(lambda: _seq_of(rd) == 2, "it goes on")
    assert [daemon.stop() for daemon in daemons] == [0, 0]


def _seq_of(rd: penstock.ChannelReader) -> int:
    try:
        step = rd.latest()
    except penstock.UnavailableError:
        return 0
    return 0 if step is None else step.seq
