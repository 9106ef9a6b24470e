"""SIGKILL of the node at every step of what the cluster's directory does with its records (server/store/store_cluster.cc)."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.daemon import BUILD

PROGRAM = BUILD / "tests" / "support" / "store_cluster_crash"
POINTS = [
    "node.directory.preparing", "node.directory.prepared", "node.directory.version", "node.directory.live",
    "node.directory.leased", "node.directory.published", "node.directory.replaced", "node.directory.unleased",
    "node.directory.aside", "node.directory.dropping", "node.retire.even", "node.adopt.live",
]


@pytest.mark.parametrize("name", [*(point.replace(".", "_") for point in POINTS), "a_return_is_noted_whole"])
def test_the_next_process_settles_what_it_finds(name, tmp_path):
    run = subprocess.run([PROGRAM, f"--gtest_filter=*.{name}"], env={**os.environ, "PENSTOCK_FAULT_DIR": str(tmp_path)},
                         capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and "[  PASSED  ] 1 test." in run.stdout, run.stdout + run.stderr
    assert not list(tmp_path.iterdir()), "armed and not reached"
