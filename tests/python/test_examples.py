"""The examples run, and do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "client" / "python" / "examples"


def run(name: str) -> str:
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_rl_observations_loses_no_step() -> None:
    out = run("rl_observations.py")
    assert re.search(r"^300 steps of 64 environments, [\d,]+ observations/s, reward 19200,", out, re.M), out


def test_weight_sync_brings_the_last_step_to_every_worker() -> None:
    out = run("weight_sync.py")
    assert len(re.findall(r"^worker: \d+ updates, the last is step 20$", out, re.M)) == 4, out
    assert "trainer: 20 steps" in out
