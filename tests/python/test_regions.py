"""Regions: mutable shared memory, its lock, and what a death leaves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
import traceback

import numpy as np
import pytest

import penstock

SOON = 30.0

pytestmark = pytest.mark.usefixtures("no_mutable_left")


def says(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def in_thread(call):
    """What `call` returned or raised in another thread."""
    results = []

    def run():
        try:
            results.append(call())
        except penstock.Error as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_two_processes_change_one_memory(store, spawn):
    region = store.region("work", nbytes=1 << 20)
    assert region.created and region.nbytes == 1 << 20 and not region.closed
    array = region.numpy("f32", (256, 1024))
    assert not array.any() and array.flags.writeable
    with region.writing() as hold:
        array[3, 4] = 5
        assert hold.writing and hold.held and not hold.abandoned
    assert not hold.held
    other = spawn("""
region = store.region("work")
with region.reading():
    print(region.numpy("f32", (256, 1024))[3, 4], region.created, flush=True)
with region.writing():
    region.numpy("f32")[-1] = 6
print("done", flush=True)
""")
    assert says(other) == "5.0 False"
    assert says(other) == "done"
    with region.reading() as hold:
        assert array[-1, -1] == 6
        mine = hold.numpy("f32", (256, 1024))
        assert mine[-1, -1] == 6 and not mine.flags.writeable, "held for reading"
    region.close()


def test_the_array_is_where_it_was_asked_for(store):
    with store.region("x", 100) as region:
        region.numpy()[:] = np.arange(100, dtype=np.uint8)
        assert region.numpy("u8", (3, 3), offset=10).tolist() == [[10, 11, 12], [13, 14, 15], [16, 17, 18]]
        assert region.numpy("u32").shape == (25,) and region.numpy("u8", offset=90).shape == (10,)
        assert region.numpy("u8", 0, offset=100).shape == (0,)
        for call, match in [
            (lambda: region.numpy("u32", offset=2), "^offset"),
            (lambda: region.numpy("u8", offset=101), "^offset"),
            (lambda: region.numpy("u8", 101), "^shape"),
            (lambda: region.numpy("u8", 10, offset=91), "^shape"),
            (lambda: region.numpy("nothing"), "dtype"),
        ]:
            with pytest.raises(penstock.InvalidArgumentError, match=match):
                call()


def test_torch_shares_it(store):
    torch = pytest.importorskip("torch")
    with store.region("x", 400) as region:
        tensor = torch.from_numpy(region.numpy("f32"))
        tensor += 3
        assert (region.numpy("f32") == 3).all()
        del tensor


def test_wrong_arguments(store):
    with pytest.raises(penstock.NotFoundError):
        store.region("x")
    with pytest.raises(penstock.InvalidArgumentError, match="^nbytes"):
        store.region("x", 0)
    with pytest.raises(penstock.InvalidArgumentError, match="^name"):
        store.region("/x", 10)
    with pytest.raises(TypeError, match="^nbytes"):
        store.region("x", "many")
    with pytest.raises(penstock.StoreFullError):
        store.region("x", 1 << 40)
    with store.region("x", 10) as region:
        with pytest.raises(penstock.InvalidArgumentError, match="^nbytes: is 11.* 10 bytes"):
            store.region("x", 11)
        with pytest.raises(penstock.AlreadyExistsError):
            store.region("x", 10, exclusive=True)
        with pytest.raises(penstock.InvalidArgumentError, match="^timeout"):
            region.reading(timeout=-1)


def test_readers_share_writers_are_alone(store):
    with store.region("x", 10) as region:
        assert str(region.state()) == "idle" and region.state().owners == []
        with region.reading():
            assert in_thread(lambda: region.reading(timeout=0).release()) is None
            second = store.region("x").reading()
            state = region.state()
            assert (str(state), state.mode, state.readers) == ("reading by 2", "reading", 2)
            assert state.owners == [store.session_id] * 2
            second.release()
            assert isinstance(in_thread(lambda: region.writing(timeout=0.01)), penstock.DeadlineError)
        with region.writing():
            assert str(region.state()) == "writing" and region.state().owners == [store.session_id]
            for hold in (region.reading, region.writing):
                error = in_thread(lambda hold=hold: hold(timeout=0))
                assert isinstance(error, penstock.DeadlineError) and isinstance(error, TimeoutError)


def test_deadlocks_and_double_release_are_errors(store):
    with store.region("x", 10) as region:
        with region.reading():
            with pytest.raises(penstock.ConflictError, match="wait for ever"):
                region.writing()
        hold = region.writing()
        for again in (region.reading, region.writing, store.region("x").writing):
            with pytest.raises(penstock.ConflictError, match="wait for ever"):
                again()
        hold.release()
        with pytest.raises(penstock.ConflictError, match="before"):
            hold.release()
        with pytest.raises(penstock.ConflictError, match="before"):
            hold.numpy()
        assert str(region.state()) == "idle"
        with pytest.raises(ZeroDivisionError), region.writing():
            1 / 0
        assert str(region.state()) == "idle"


def test_many_processes_count(store, spawn):
    code = """
region = store.region("x")
count = region.numpy("i64")
for _ in range(200):
    with region.writing(timeout=30):
        a, b = count[0], count[1]
        count[0] = a + 1
        count[1] = b + 1
    with region.reading(timeout=30):
        assert count[0] == count[1]
print("done", flush=True)
"""
    with store.region("x", 16) as region:
        workers = [spawn(code) for _ in range(3)]
        assert [says(w) for w in workers] == ["done"] * 3
        assert region.numpy("i64").tolist() == [600, 600]


def test_a_writer_dies_in_the_middle(store, spawn):
    with store.region("x", 1000) as region:
        writer = spawn("""
region = store.region("x")
hold = region.writing()
region.numpy()[:500] = 1
print(store.session_id, flush=True)
sys.stdin.read()
""")
        assert [int(says(writer))] == region.state().owners
        killed = time.monotonic()
        writer.kill()
        with region.reading(timeout=SOON) as hold:
            seconds = time.monotonic() - killed
            assert hold.abandoned, "the bytes may be half-written"
        assert seconds < (3.0 if os.getloadavg()[0] > (os.cpu_count() or 1) else 1.0)
        with region.writing() as hold:
            assert hold.abandoned
            region.numpy()[:] = 0
        with region.reading() as hold:
            assert not hold.abandoned


@pytest.mark.parametrize("mode", ["reading", "writing"])
def test_a_holder_that_dies_keeps_no_one_waiting(store, spawn, mode):
    with store.region("x", 10) as region:
        holder = spawn(f"hold = store.region('x').{mode}()\nprint('held', flush=True)\nsys.stdin.read()\n")
        assert says(holder) == "held"
        waiter = spawn(
            "hold = store.region('x').writing(timeout=30)\nprint(hold.abandoned, flush=True)\nsys.stdin.read()\n"
        )
        while region.state().waiting == 0:
            time.sleep(0.001)
        holder.kill()
        assert says(waiter) == str(mode == "writing")
        waiter.kill()
        assert region.writing(timeout=SOON).abandoned


def test_it_lives_until_nobody_has_it_open(store, spawn, eventually):
    region = store.region("x", 10)
    other = spawn("region = store.region('x')\nprint('open', flush=True)\nsys.stdin.read()\n")
    assert says(other) == "open"
    region.numpy()[:] = 7
    region.close()
    with pytest.raises(penstock.ConflictError, match="closed"):
        region.numpy()
    with store.region("x") as again:
        assert (again.numpy() == 7).all()
    other.kill()

    def gone() -> bool:
        try:
            store.region("x").close()
        except penstock.NotFoundError:
            return True
        return False

    eventually(gone, "the region went with the last process")


def test_delete(store):
    region = store.region("x", 10)
    array = region.numpy()
    array[:] = 1
    assert region.delete() and not region.delete() and region.deleted
    with store.region("x", 20) as other:
        assert not other.numpy().any() and (array == 1).all()
    with region.writing():
        pass
    region.close()
    assert (array == 1).all(), "arrays stay good"


def test_a_forked_child_goes_on_with_holds_of_its_own(store):
    region = store.region("x", 80)
    array = region.numpy("i64")
    hold = region.writing()
    ready, go = os.pipe()
    tried, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pytest.raises(penstock.ConflictError, match="forked"):
                hold.release()
            with pytest.raises(penstock.DeadlineError):
                region.reading(timeout=0)
            os.write(done, b"x")
            os.read(ready, 1)
            with region.writing(timeout=SOON):
                region.numpy("i64")[0] += 1
                array[1] = 9  # an array of before the fork
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    array[0] = 41
    os.read(tried, 1)
    hold.release()
    os.write(go, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (ready, go, tried, done):
        os.close(fd)
    with region.reading(timeout=SOON):
        assert array[:2].tolist() == [42, 9]
    region.close()


def test_async_twins(store):
    async def count(region, times: int) -> None:
        for _ in range(times):
            async with region.writing(timeout=SOON):
                seen = int(region.region.numpy("i64")[0])
                await asyncio.sleep(0)
                region.region.numpy("i64")[0] = seen + 1

    async def run() -> int:
        async with await store.aio.region("x", 8) as region:
            await asyncio.gather(*(count(region, 10) for _ in range(4)))
            async with region.reading() as hold:
                with pytest.raises(penstock.ConflictError, match="wait for ever"):
                    await region.writing()
                return int(hold.numpy("i64")[0])

    assert asyncio.run(run()) == 40
