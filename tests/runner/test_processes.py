"""A command's end, its time limit, and the processes that it leaves."""

import io
import os
import sys
import tempfile
import time

import pytest

from runner import processes


@pytest.fixture
def log():
    with tempfile.TemporaryFile() as file:
        yield file


def run(log, script, **options):
    options.setdefault("timeout", 30)
    return processes.run(["bash", "-c", script], log=log, **options)


def text(log: io.BufferedRandom) -> str:
    log.seek(0)
    return log.read().decode()


def wait_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not os.path.exists(f"/proc/{pid}"):
            return True
        time.sleep(0.01)
    return False


def test_exit_code_and_output_are_kept(log):
    ended = run(log, "echo out; echo err >&2; exit 3")
    assert (ended.code, ended.timed_out, ended.ok) == (3, False, False)
    assert text(log) == "out\nerr\n"
    assert ended.why() == "exit code 3"


def test_a_signal_is_named(log):
    ended = run(log, "kill -SEGV $$")
    assert ended.why() == "died of SIGSEGV"


def test_success_leaves_nothing(log):
    ended = run(log, "true")
    assert ended.ok and ended.left_behind == []


def test_the_time_limit_kills_the_whole_family(log):
    # The grandchild leaves the process group and the session: killpg alone would miss it.
    ended = run(log, "setsid sleep 1000 & echo $!; wait", timeout=0.5)
    assert ended.timed_out and not ended.ok
    assert "time limit" in ended.why()
    assert wait_gone(int(text(log)))


def test_an_orphan_in_its_own_session_is_named_and_killed(log):
    ended = run(log, "setsid sleep 1000 & echo $!", grace=0.3)
    assert ended.ok
    pid = int(text(log))
    assert ended.left_behind == [f"pid {pid}: sleep 1000"]
    assert wait_gone(pid)


def test_an_orphan_that_ends_in_time_is_no_offence(log):
    ended = run(log, "setsid sleep 0.2 & true", grace=20)
    assert ended.left_behind == []
    assert ended.seconds < 20


def test_orphans_are_reaped_while_the_command_runs(log):
    # The command waits until its orphan is gone from /proc: a zombie that nobody reaps would stay.
    script = (
        "(setsid sleep 0.1 & echo $! >&3) 3>$TMPDIR/pid; pid=$(cat $TMPDIR/pid);"
        "while test -e /proc/$pid; do sleep 0.01; done"
    )
    with tempfile.TemporaryDirectory() as folder:
        ended = run(log, script, env={**os.environ, "TMPDIR": folder}, timeout=20)
    assert ended.ok


def test_standard_input_is_empty(log):
    ended = processes.run(
        [sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"], log=log, timeout=30
    )
    assert ended.ok and text(log) == "''\n"
