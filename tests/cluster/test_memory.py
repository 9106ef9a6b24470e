"""Where a node's memory comes from: a cgroup that leaves less than was asked for, and reserved huge pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, Iterator

import pytest

import penstock
from support.daemon import Cli, start_daemon
from support.pattern import pattern, shows
from support.waiting import until

MIB = 1 << 20
LIMIT = 512 * MIB


# --- a memory cgroup ---


def memory_of(cgroup: Path) -> tuple[Path, Path]:
    """The files of the limit and of what was killed; version 2 and version 1 name them differently."""
    if (cgroup / "memory.max").exists():
        return cgroup / "memory.max", cgroup / "memory.events"
    return cgroup / "memory.limit_in_bytes", cgroup / "memory.oom_control"


def killed_in(cgroup: Path) -> int:
    return int(re.search(r"^oom_kill (\d+)", memory_of(cgroup)[1].read_text(), re.MULTILINE)[1])


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of a test's own that may use 512 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a memory cgroup")
    why = "no memory cgroup at /sys/fs/cgroup"
    for top in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = top / f"penstock-test-{os.getpid()}"
        try:
            group.mkdir()
            memory_of(group)[0].write_text(str(LIMIT))
        except OSError as error:
            why = f"{group}: {error.strerror}"
            if group.is_dir():
                group.rmdir()
            continue
        yield group
        until(lambda: not (group / "cgroup.procs").read_text(), "all processes of the cgroup have ended")
        group.rmdir()
        return
    pytest.skip(f"cannot make a memory cgroup: {why}")


def fill(store: penstock.Store, prefix: str, nbytes: int) -> int:
    """Puts until the store is full. Returns how many it took."""
    for count in range(2 * LIMIT // nbytes):
        try:
            store.put(f"{prefix}/{count}", pattern(count, nbytes))
        except penstock.StoreFullError:
            return count
    pytest.fail(f"never full: {2 * LIMIT >> 20} MiB went into a cgroup of {LIMIT >> 20} MiB")


@pytest.mark.parametrize("nbytes", [64 << 10, 3 * MIB], ids=["arenas", "extents"])
def test_a_cgroup_bounds_the_budget_and_nobody_is_killed(short_tmp, cgroup, nbytes):
    daemon = start_daemon(short_tmp / f"cgroup-{nbytes}", "--memory=4GiB", cgroup=cgroup)
    node = daemon.node_pid
    assert {str(daemon.process.pid), str(node)} <= set((cgroup / "cgroup.procs").read_text().split())
    with penstock.connect(str(daemon.socket_dir), timeout=30.0) as store:
        budget = int(store.stats()["memory_bytes"])
        assert LIMIT // 2 < budget < LIMIT, f"a budget of {budget >> 20} MiB in a cgroup of 512 MiB"
        count = fill(store, "x", nbytes)
        assert budget * 0.7 <= count * nbytes <= budget, f"full with {count} tensors of {nbytes} bytes"
        assert (daemon.node_pid, daemon.process.poll(), killed_in(cgroup)) == (node, None, 0)
        assert all(shows(store.get(f"x/{i}").numpy(), i) for i in range(0, count, 7))
        for i in range(count // 2):
            store.delete(f"x/{i}")
        again = fill(store, "again", nbytes)
        assert again >= count // 2 - 1, f"{count // 2} deleted, room for {again}"
        assert all(shows(store.get(f"again/{i}").numpy(), i) for i in range(0, again, 7))
        store.delete_prefix("")
        assert fill(store, "third", nbytes) >= count - 2
        assert (daemon.node_pid, daemon.process.poll(), killed_in(cgroup)) == (node, None, 0)
    assert daemon.stop() == 0


# --- reserved huge pages ---

RESERVED = Path("/proc/sys/vm/nr_hugepages")


def huge_pages(which: str) -> int:
    """HugePages_Total, _Free or _Rsvd; a page that is reserved is still counted as free."""
    return int(re.search(rf"^HugePages_{which}:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[1])


def unused() -> int:
    return huge_pages("Free") - huge_pages("Rsvd")


@pytest.fixture
def reserve() -> Iterator[Callable[[int], None]]:
    """Has the kernel set pages of 2 MiB aside, so that exactly so many are unused; undone at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to reserve huge pages")
    if not RESERVED.exists() or "Hugepagesize:       2048 kB" not in Path("/proc/meminfo").read_text():
        pytest.skip("this kernel has no huge pages of 2 MiB by default")
    before = RESERVED.read_text()

    def set_aside(count: int) -> None:
        try:
            RESERVED.write_text(str(huge_pages("Total") + count - unused()))
        except OSError as error:
            pytest.skip(f"cannot set vm.nr_hugepages: {error.strerror}")
        if unused() != count:
            pytest.skip(f"asked for {count} unused huge pages, the kernel gave {unused()}")

    yield set_aside
    RESERVED.write_text(before)
    assert RESERVED.read_text() == before


def use_in_every_way(store: penstock.Store, rounds: int) -> None:
    """Puts in arenas and extents, drafts, overwrites, slices; each must show its bytes, then and at the end."""
    sizes = (8, 64 << 10, 1 * MIB + 8, 3 * MIB, 7 * MIB + 4096)
    for n in range(rounds):
        for seed, nbytes in enumerate(sizes, n):
            store.put(f"put/{nbytes}", pattern(seed, nbytes))
            with store.create(f"draft/{nbytes}", nbytes, "u8") as draft:
                draft.numpy()[:] = pattern(seed, nbytes)
            for kind in ("put", "draft"):
                view = store.get(f"{kind}/{nbytes}")
                assert shows(view.numpy(), seed), f"{kind} of {nbytes} bytes"
                assert view[4:8].numpy().tolist() == pattern(seed, nbytes)[4:8].tolist()
    for seed, nbytes in enumerate(sizes, rounds - 1):
        assert shows(store.get(f"put/{nbytes}").numpy(), seed) and shows(store.get(f"draft/{nbytes}").numpy(), seed)


def use_with_torch(store: penstock.Store) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(1 << 20, dtype=torch.float32).reshape(1024, 1024)
    store.put("torch", tensor)
    assert torch.equal(store.get("torch").torch(), tensor)
    with store.create("torch draft", (1024, 1024), "f32") as draft:
        draft.torch().copy_(tensor)
    assert torch.equal(store.get("torch draft").torch(), tensor)


@pytest.mark.alone
@pytest.mark.parametrize("flag", ["hugetlb", "auto"])
def test_reserved_huge_pages_are_used(short_tmp, reserve, flag):
    reserve(128)
    daemon = start_daemon(short_tmp / f"huge-{flag}", "--memory=128MiB", f"--huge_pages={flag}")
    with penstock.connect(str(daemon.socket_dir)) as store:
        use_in_every_way(store, rounds=2)
        use_with_torch(store)
        df = store.stats()
        assert df["page_kind"] == "hugetlb 2MiB" and int(df["extents"]) > 0
        used = 128 - unused()
        assert used == int(df["segment_bytes"]) + int(df["leaving_bytes"]) >> 21, f"{used} huge pages for {df}"
        doctor = {row["check"]: row["found"] for row in Cli(daemon.socket_dir).json("doctor")}
        assert "hugetlb" in doctor["node's memory"], doctor
        assert "hugetlb" in Cli(daemon.socket_dir).text("df")
    assert daemon.stop() == 0
    until(lambda: unused() == 128, "the huge pages are given back")


@pytest.mark.alone
@pytest.mark.parametrize("flag", ["thp", "off"])
def test_reserved_huge_pages_are_left_alone_when_not_wanted(short_tmp, reserve, flag):
    reserve(128)
    daemon = start_daemon(short_tmp / f"huge-{flag}", "--memory=128MiB", f"--huge_pages={flag}")
    with penstock.connect(str(daemon.socket_dir)) as store:
        use_in_every_way(store, rounds=1)
        assert "hugetlb" not in store.stats()["page_kind"] and unused() == 128
    assert daemon.stop() == 0


@pytest.mark.alone
@pytest.mark.parametrize("pages", [0, 1, 10, 30])
def test_too_few_reserved_huge_pages_are_no_reason_to_fail(short_tmp, reserve, pages):
    """The memory of 128 MiB is 64 pages: what finds none left is of small pages."""
    reserve(pages)
    daemon = start_daemon(short_tmp / f"few-{pages}", "--memory=128MiB", "--huge_pages=hugetlb")
    node = daemon.node_pid
    with penstock.connect(str(daemon.socket_dir)) as store:
        use_in_every_way(store, rounds=2)
        use_with_torch(store)
        store.delete_prefix("")
        for nbytes in (64 << 10, 3 * MIB):
            count = fill(store, "x", nbytes)
            assert count * nbytes >= 128 * MIB * 0.7
            assert all(shows(store.get(f"x/{i}").numpy(), i) for i in range(count))
            store.delete_prefix("")
        assert daemon.node_pid == node and daemon.process.poll() is None
    assert daemon.stop() == 0
    until(lambda: unused() == pages, "the huge pages are given back")
