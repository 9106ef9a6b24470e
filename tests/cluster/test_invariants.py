"""The invariants 1 to 5 and 10 of DESIGN.md, each by a test that fails without the mechanism that it names."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest

import penstock
from support import attacker
from support.books import MEMORY, TRANSIENT, await_books, books
from support.daemon import BUILD, ROOT, Daemon, clean_environment, start_daemon
from support.pattern import pattern, shows
from support.waiting import until
from support.worker import Worker

SMALL, BIG = 4096, 3 << 20
NOBODY = 65534


@pytest.fixture
def store(daemon: Daemon) -> Iterator[penstock.Store]:
    with penstock.connect(str(daemon.socket_dir), timeout=30.0) as store:
        store.delete_prefix("")
        yield store


@pytest.fixture
def worker(daemon: Daemon) -> Iterator[Worker]:
    with Worker(daemon.socket_dir) as worker:
        yield worker


# --- 1: tensor bytes never pass through gRPC, and same-host bytes never through a socket ---

TRACED = """
import os, sys
import penstock
from support.pattern import pattern, shows
def mark(name):
    os.access(f"/mark/{name}", os.F_OK)
store = penstock.connect()
large, small = pattern(1, 8 << 20), pattern(2, 512 << 10)
mark("bytes")
store.put("large", large)
store.put("small", small)
with store.create("draft", 8 << 20, "u8") as draft:
    draft.numpy()[:] = large
assert shows(store.get("large").numpy(), 1) and shows(store.get("small").numpy(), 2)
assert shows(store.get("draft").numpy(), 1)
mark("end of bytes")
def loop(n):
    for _ in range(n):
        store.get("small").numpy()
loop(1000)
mark("warm")
loop(10_000)
mark("end of warm")
"""


@pytest.fixture(scope="module")
def trace(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """strace's lines of a client that puts 16.5 MiB, reads them, and gets in a loop."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path_factory.mktemp("strace") / "log"
    if subprocess.run(["strace", "-o", log, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow ptrace")
    env = clean_environment(PENSTOCK_ADDRESS=str(daemon.socket_dir))
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), env.get("PYTHONPATH", "")))
    subprocess.run(["strace", "-f", "-s", "0", "-o", log, sys.executable, "-c", TRACED], env=env, check=True, timeout=110)
    return log.read_text().splitlines()


def between(trace: list[str], name: str) -> list[str]:
    first, last = (next(i for i, line in enumerate(trace) if f'"/mark/{mark}"' in line)
                   for mark in (name, f"end of {name}"))
    return trace[first + 1:last]


CARRIES_BYTES = re.compile(
    r"\b(?:p?(?:read|write)(?:64|v|v2)?|send(?:to|msg|mmsg|file)|recv(?:from|msg|mmsg)|splice|vmsplice|tee|"
    r"copy_file_range|process_vm_(?:read|write)v)\b.*= (\d+)$")


def test_1_same_host_bytes_pass_through_no_socket(trace):
    """Mechanism: puts are copied into shared memory (ring, extent), gets are a mapping."""
    lines = between(trace, "bytes")
    assert any("sendmsg" in line for line in lines), "the trace shows no call at all: the test sees nothing"
    moved = sum(int(match[1]) for line in lines if (match := CARRIES_BYTES.search(line)))
    assert moved < 64 << 10, f"{moved} bytes went through descriptors for 16.5 MiB of tensors\n" + "\n".join(lines)


def test_1_a_warm_get_makes_no_system_call(trace):
    """Mechanism: the catalog and the pin table are memory; nothing is asked."""
    main = trace[0].split()[0]
    lines = [line for line in between(trace, "warm") if line.split()[0] == main]
    assert lines == [], f"{len(lines)} system calls in 10,000 gets"


# --- 2: what a view shows never changes and is never freed while the view lives ---


def test_2_views_outlive_all_that_happens_to_their_tensors(store, daemon, worker):
    """Mechanism: a retired block is freed only after a scan of all pin tables finds no pin (RetiredRecords::Scan)."""
    holder = Worker(daemon.socket_dir)  # of its own: if the mechanism is broken, this process may well crash
    holder.do("arrays = {}")

    def put_and_hold(name: str, seed: int, nbytes: int, **options: object) -> None:
        holder.do(f"store.put({name!r}, pattern({seed}, {nbytes}), **{options!r})\n"
                  f"arrays[{name!r}] = (store.get({name!r}).numpy(), {seed})")

    def all_unchanged(when: str) -> None:
        changed = holder.do("[name for name, (array, seed) in arrays.items() if not shows(array, seed)]")
        assert not changed, f"changed {when}: {changed}"

    with holder:
        for n, nbytes in enumerate((8, SMALL, 300 << 10, BIG)):
            put_and_hold(f"overwritten/{n}", 10 + n, nbytes)
            put_and_hold(f"deleted/{n}", 20 + n, nbytes)
            put_and_hold(f"expired/{n}", 30 + n, nbytes, ttl=1.0)
            put_and_hold(f"evicted/{n}", 40 + n, nbytes, keep=False)
        worker.do(f"store.put('writer died', pattern(50, {BIG}))")
        holder.do("arrays['writer died'] = (store.get('writer died').numpy(), 50)")
        worker.kill()
        holder.do("child = os.fork()\nif child == 0: os._exit(0)\nos.waitpid(child, 0)")
        for n in range(4):
            store.put(f"overwritten/{n}", pattern(60 + n, 8))
            store.delete(f"deleted/{n}")
        until(lambda: not store.exists("expired/3"), "expiry")
        with Worker(daemon.socket_dir) as other:
            other.do("try:\n"
                     "    for i in range(2000): store.put(f'fill/{i}', pattern(i, 300 << 10), keep=False)\n"
                     "except penstock.StoreFullError: pass")
            assert int(store.stats()["evictions"]) > 0, "nothing was evicted: the store was not full"
            all_unchanged("by writers, deletes, expiry, eviction, death of the writer, a fork")
            generation = int(store.stats()["generation"])
            os.kill(daemon.node_pid, signal.SIGKILL)
            until(lambda: int(store.stats()["generation"]) > generation, "a new node")
            all_unchanged("by a new node")
            other.do("store.delete_prefix('fill/')")
            other.do("[store.put(f'again/{i}', pattern(i, 300 << 10)) for i in range(200)]")
            all_unchanged("by what was written after the new node came")
    store.delete_prefix("")


# --- 3: who did not write a tensor cannot change it ---


def attack(daemon: Daemon, *prefix: str, **popen: object) -> dict[str, dict[str, str]]:
    env = clean_environment()
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), env.get("PYTHONPATH", "")))
    ended = subprocess.run([*prefix, sys.executable, "-m", "support.attacker", str(daemon.socket_dir)],
                           env=env, capture_output=True, text=True, timeout=100, **popen)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def check_attacks(report: dict[str, dict[str, str]]) -> None:
    control = report.pop("unsealed")
    works_not = [name for name, outcome in control.items() if outcome != "changed" and name not in attacker.NEVER]
    assert not works_not, f"these attacks do not even work on unsealed memory: {works_not}"
    kinds = {label.rstrip(" 0123456789") for label in report}
    assert kinds == {"catalog header", "catalog chunk", "index", "arena", "extent"}, f"attacked only {kinds}"
    for segment, outcomes in report.items():
        private = outcomes.pop("private mapping")
        succeeded = {name: outcome for name, outcome in outcomes.items() if outcome in ("changed", "accepted")}
        assert not succeeded, f"{segment}: {succeeded}"
        assert private == "accepted", f"{segment}: a change of a private mapping: {private}"


def attacked_store(daemon: Daemon, run: object) -> None:
    with Worker(daemon.socket_dir) as victim, penstock.connect(str(daemon.socket_dir)) as store:
        victim.do(f"store.put('small', pattern(1, {SMALL})); store.put('large', pattern(2, {BIG}))")
        check_attacks(run())
        assert shows(store.get("small").numpy(), 1) and shows(store.get("large").numpy(), 2)
        assert victim.do("store.put('goes on', pattern(3, 100)).version") >= 1


def test_3_the_same_user_cannot_change_what_others_wrote(short_tmp):
    """Mechanism: F_SEAL_FUTURE_WRITE, GROW and SHRINK on every segment before anybody is given its descriptor."""
    uid = NOBODY if os.geteuid() == 0 else None
    home = short_tmp / "nobody"
    home.mkdir()
    if uid is not None:
        short_tmp.chmod(0o711)
        os.chown(home, uid, uid)
    daemon = start_daemon(home / "s", "--memory=128MiB", "--socket_mode=0777", uid=uid)
    attacked_store(daemon, lambda: attack(daemon, user=uid, group=uid, extra_groups=None if uid is None else []))
    assert daemon.stop() == 0


def test_3_root_without_ptrace_cannot_either(daemon, store):
    """Mechanism: as above. Capabilities do not lift seals."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    drop = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    status = subprocess.run([*drop, "cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    effective = int(re.search(r"CapEff:\s*(\w+)", status)[1], 16)
    assert not effective & (1 << 19), "CAP_SYS_PTRACE was not dropped"
    attacked_store(daemon, lambda: attack(daemon, *drop))


def test_3_the_writer_loses_its_own_means_at_publish(worker):
    """Mechanism: publish turns the writer's mapping read-only; a late write faults instead of changing the tensor."""
    worker.do(f"draft = store.create('x', {BIG}, 'u8'); late = draft.numpy(); late[:] = pattern(1, {BIG})")
    worker.do("draft.publish()")
    assert worker.do("shows(store.get('x').numpy(), 1)")
    worker.start("import ctypes; ctypes.memset(late.ctypes.data + 5, 0, 1)")  # past NumPy's own flag
    assert worker.process.wait(timeout=60) == -11, "a late write was possible"


# --- 4: whatever a process held is gone within 1 s of its death ---


def test_4_what_a_process_held_is_gone_after_its_death(store, worker):
    """Mechanism: end-of-file on the fd socket ends the session, which frees all that it held (Store::EndSession)."""
    store.put("x", pattern(1, SMALL))
    worker.close()
    before = books(store, TRANSIENT + MEMORY)
    with Worker(Path(store.address)) as victim:
        victim.do("views = [store.get('x') for _ in range(1000)]")
        victim.do(f"drafts = [store.create(f'd/{{i}}', {BIG}, 'u8') for i in range(3)]")
        store.put("x", pattern(2, SMALL))
        held = books(store)
        assert (held["drafts"], held["retired"], held["pins"]) == (3, 1, before["pins"] + 1000)
        await_books(store, before, victim.kill(), "1000 pins, 3 drafts and their extents")


# --- 5: visible whole or not at all ---

WATCHER = """
import threading
wrong, seen, stop = [], set(), threading.Event()
def look():
    while not stop.is_set():
        for name in ('small', 'large', 'drafted'):
            try:
                view = store.get(name)
            except penstock.NotFoundError:
                continue
            seed = int(view.metadata['seed'])
            seen.add((name, seed))
            if not shows(view.numpy(), seed) or view.nbytes != int(view.metadata['nbytes']):
                wrong.append((name, view.version))
thread = threading.Thread(target=look)
thread.start()
"""


def test_5_a_tensor_is_visible_whole_or_not_at_all(store, worker):
    """Mechanism: a record's sequence becomes odd after its block and all its fields were written."""
    worker.do(WATCHER)
    for seed in range(60):
        large = BIG + 8 * seed
        store.put("small", pattern(seed, 8 + seed), metadata={"seed": str(seed), "nbytes": str(8 + seed)})
        metadata = {"seed": str(seed), "nbytes": str(large)}
        store.put("large", pattern(seed, large), metadata=metadata)
        draft = store.create("drafted", large, "u8", metadata=metadata)
        draft.numpy()[: large // 2] = pattern(seed, large)[: large // 2]
        assert seed > 0 or not store.exists("drafted")
        draft.numpy()[large // 2:] = pattern(seed, large)[large // 2:]
        draft.publish()
    until(lambda: worker.do("('drafted', 59) in seen"), "the watcher saw the last one")
    worker.do("stop.set(); thread.join()")
    assert worker.do("wrong") == []
    assert worker.do("len(seen)") > 10, "the watcher saw too little to be a test"
    abandoned = store.create("abandoned", SMALL, "u8")
    abandoned.abort()
    assert not store.exists("abandoned")


STEPS = {  # where the node stops in a put, and which version a reader may see there
    "node.put.reserved": {1}, "node.put.copied": {1}, "node.publish.before": {1}, "node.publish.state": {1},
    "node.publish.live": {1, 2}, "node.publish.replaced": {2}, "node.retire.even": {2},
}


def test_5_a_reader_sees_the_old_or_the_new_at_every_step_of_a_put(short_tmp):
    """Mechanism: as above; the order of copy, publish, index and retire (Store::MakeLive)."""
    faults = short_tmp / "steps-faults"
    faults.mkdir()
    daemon = start_daemon(short_tmp / "steps", "--memory=128MiB", PENSTOCK_FAULT_DIR=str(faults))
    with Worker(daemon.socket_dir) as writer, Worker(daemon.socket_dir) as reader:
        for point, allowed in STEPS.items():
            writer.do(f"store.put('x', pattern(1, {SMALL}))")
            assert reader.do("shows(store.get('x').numpy(), 1)")
            node = daemon.node_pid
            (faults / point).write_text("stop")
            writer.start(f"store.put('x', pattern(2, {SMALL}))")
            until(lambda: not (faults / point).exists(), f"{point} is reached")
            until(lambda: Path(f"/proc/{node}/stat").read_text().rpartition(")")[2].split()[0] == "T", "a stopped node")
            seen = reader.do("[seed for seed in (1, 2) if shows(store.get('x').numpy(), seed)]")
            os.kill(node, signal.SIGCONT)
            writer.result()
            assert len(seen) == 1 and seen[0] in allowed, f"at {point} a reader saw {seen or 'a torn tensor'}"
            assert reader.do("shows(store.get('x').numpy(), 2)")
    assert daemon.stop() == 0


# --- 10: one node's address and nothing else; exists and stat change no lifetime ---

ALONE = """
import os
assert not os.path.exists('/dev/shm/x') and len(os.listdir('/dev/shm')) == 0
import penstock
from support.pattern import pattern, shows
store = penstock.connect('/mnt')
assert shows(store.get('x').numpy(), 1)
store.put('from inside', pattern(2, 3 << 20))
assert shows(store.get('from inside').numpy(), 2)
"""


def test_10_a_client_needs_the_socket_directory_and_nothing_else(daemon, store):
    """Mechanism: memory comes as descriptors through fd.sock: no shared /dev/shm, pid, IPC or network namespace."""
    flags = ["--mount", "--pid", "--fork", "--net", "--ipc", "--mount-proc"]
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow new namespaces")
    store.put("x", pattern(1, SMALL))
    env = {k: v for k, v in clean_environment().items() if k in ("PATH", "PYTHONPATH")}
    env["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), env.get("PYTHONPATH", "")))
    script = 'mount --bind "$1" /mnt && mount -t tmpfs none /dev/shm && exec "$2" -c "$3"'
    if not any(str(path).startswith("/tmp/") for path in (ROOT, BUILD, sys.executable, penstock.__file__)):
        script = script.replace("exec", "mount -t tmpfs none /tmp && exec")
    ended = subprocess.run(["unshare", *flags, "sh", "-c", script, "sh", str(daemon.socket_dir), sys.executable, ALONE],
                           env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    with store.get("from inside") as view:
        assert shows(view.numpy(), 2)


def test_10_a_tcp_address_is_enough_on_the_same_host(daemon, store):
    """Mechanism: NodeInfo over gRPC names the socket directory; descriptors prove that it is this host."""
    store.put("x", pattern(1, SMALL))
    with penstock.connect(f"127.0.0.1:{daemon.ready['grpc_port']}") as other:
        assert shows(other.get("x").numpy(), 1)


def test_10_exists_and_stat_never_change_a_lifetime(store):
    """Mechanism: both only read a record; the time of expiry is fixed at publish."""
    info = store.put("x", pattern(1, SMALL), ttl=0.5)
    end = info.created + 0.5
    while store.exists("x"):
        try:
            now = store.stat("x")
        except penstock.NotFoundError:
            break
        left = (info.ttl, now.ttl, info.ttl)  # what is left at the time of asking, of one and the same expiry
        assert now.created == info.created and left[0] >= left[1] >= left[2]
        assert time.time() < end + 1.0, "asking kept it alive"
    assert time.time() >= end - 0.01, "it was gone before its time"
    until(lambda: int(store.stats()["tensors"]) == 0, "the node lets it go")
