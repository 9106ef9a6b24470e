"""The other guest of test_two_guests.py: a node with some tensors, and the power goes off when it is told so.

Arguments: host:port of this node and of the one that is its peer.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import penstock
from support.daemon import start_daemon
from support.nodes import flags_of_node
from support.pattern import pattern
from support.waiting import until

LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC


def peer_answers(store: penstock.Store) -> bool:
    try:
        return store.exists("nothing") is False
    except penstock.UnavailableError:
        return False


def main(address: str, peer: str) -> None:
    daemon = start_daemon(Path("/tmp/n"), "--memory=64MiB", *flags_of_node(address, peer))
    with penstock.connect(str(daemon.socket_dir)) as store:
        until(lambda: peer_answers(store), "the peer's node is up: new names are put when it has said that it does not have them", 90)
        for i in range(3):
            store.put(f"w/{i}", pattern(i, 4 << 20))
        store.put("theirs", pattern(2, 10))
        first = store.put("power", pattern(0, 1)).version
        store.wait("power", version=first + 1)
    ctypes.CDLL(None).reboot(LINUX_REBOOT_CMD_POWER_OFF)  # at once, as if somebody had pulled the plug


main(*sys.argv[1:])
