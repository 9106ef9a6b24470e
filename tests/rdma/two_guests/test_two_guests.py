"""Two machines, one node each, joined by a wire: this one reads and writes what the other one holds (other_guest.py)."""

from __future__ import annotations

import os
import time
from typing import Iterator

import numpy as np
import pytest

import penstock
from support.daemon import start_daemon
from support.nodes import flags_of_node
from support.pattern import pattern, shows
from support.verbs import needs_verbs, sent_packets
from support.waiting import until

SIZE = 4 << 20
OTHER = os.environ.get("TEST_OTHER_GUEST", "")

pytestmark = [needs_verbs, pytest.mark.skipif(not OTHER, reason="no second guest: tests/rdma/run starts two")]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[penstock.Store]:
    daemon = start_daemon(tmp_path_factory.mktemp("n"), "--memory=64MiB", *flags_of_node(os.environ["TEST_THIS_GUEST"], OTHER))
    with penstock.connect(str(daemon.socket_dir), timeout=20) as store:
        until(lambda: reached(store), "the other guest's node is up", deadline_s=90)
        yield store
    assert daemon.stop() == 0


def reached(store: penstock.Store) -> bool:
    try:
        return store.exists("power")
    except penstock.UnavailableError:
        return False


def test_get(store):
    view = store.get("w/0")
    assert view.path == "fetch" and shows(view.numpy(), 0)
    peer = store.transports()[1]
    assert (peer["path"], peer["why"], peer["read_bytes"]) == ("rdma", "", SIZE)
    assert store.stat("w/0").nodes == [peer["node"]], "it is at home there"


def test_put(store):
    version = store.stat("theirs").version
    before = sent_packets()
    assert store.put("theirs", pattern(3, SIZE)).version == version + 1
    assert sent_packets() - before >= SIZE // 4096, "the bytes went over the device"
    assert shows(store.get("theirs").numpy(), 3)


def test_box(store):
    view = store.get("w/1", np.s_[100_000:200_000])
    assert view.path == "rdma" and np.array_equal(view.numpy(), pattern(1, SIZE)[100_000:200_000])


def test_out_in_registered_memory(store):
    out = np.zeros(SIZE, np.uint8)
    with store.register(out) as registered:
        assert registered.lanes == ["rdma"]
        assert shows(store.get("w/2", out=out), 2)


def test_the_power_of_the_other_one_goes_off(store):
    out = np.zeros(SIZE, np.uint8)
    store.put("power", pattern(1, 1))
    with penstock.connect(store.address, timeout=4) as impatient:

        def fails() -> bool:
            began = time.monotonic()
            try:
                impatient.get("w/1", out=out)
            except (penstock.UnavailableError, penstock.DeadlineError):
                assert time.monotonic() - began < 4 + 1
                return True
            return False

        until(fails, "reads fail, each by its deadline")
