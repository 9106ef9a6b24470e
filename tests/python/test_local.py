"""start_local: a node of one's own, which ends with its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import penstock


def test_start_use_stop():
    with penstock.start_local(memory="64MiB") as node:
        with node.connect() as store:
            store.put("x", [1, 2, 3])
            view = store.get("x")
        pid, address = node.pid, node.address
        assert Path(address, "fd.sock").exists()
    node.close()
    assert not Path(address).exists() and not Path(f"/proc/{pid}").exists()
    assert view.numpy().tolist() == [1, 2, 3]  # memory outlives the node


def test_two_nodes_know_nothing_of_each_other():
    with penstock.start_local("64MiB") as one, penstock.start_local("64MiB") as two:
        with one.connect() as a, two.connect() as b:
            a.put("x", 1)
            assert a.exists("x") and not b.exists("x")


def test_address_from_the_environment(node):
    code = "import penstock; print(penstock.connect().address)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PENSTOCK_ADDRESS": node.address})
    assert done.stdout.strip() == node.address, done.stderr


def test_it_ends_with_its_process(eventually):
    code = """
import penstock, os
node = penstock.start_local("64MiB")
store = node.connect()
store.put("x", 1)
print(node.pid, node.ready["pid"], node.address, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    warden, node, address = done.stdout.split()
    for pid in (warden, node):
        eventually(lambda: not alive(int(pid)), f"process {pid} ended with its starter")
    subprocess.run(["rm", "-rf", address], check=True)  # SIGKILL left nobody to remove it


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_forked_child_does_not_stop_it():
    with penstock.start_local("64MiB") as node:
        pid = os.fork()
        if pid == 0:
            node.close()
            os._exit(0)
        os.waitpid(pid, 0)
        with node.connect() as store:
            store.put("x", 1)


def test_what_it_says_is_in_the_error():
    with pytest.raises(penstock.UnavailableError, match="memory"):
        penstock.start_local(memory="lots")


def test_a_daemon_that_is_not_there(monkeypatch, tmp_path):
    from penstock import local

    monkeypatch.setattr(local, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PENSTOCKD", raising=False)
    with pytest.raises(penstock.UnavailableError, match="not found"):
        penstock.start_local()


def test_importing_is_quick_and_lean():
    code = "import penstock, sys; print([m for m in ('torch', 'ml_dtypes', 'asyncio', 'jax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_everything_public_is_documented():
    for name in penstock.__all__:
        assert getattr(penstock, name).__doc__, name
