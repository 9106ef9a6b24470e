"""store.aio: the same calls, awaitable."""

import ast
import asyncio
import contextlib
import inspect
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import penstock
from penstock.aio import AsyncStore


def test_every_call(store):
    async def main():
        aio = store.aio
        info = await aio.put("a/x", np.arange(3), metadata={"k": "v"})
        assert info.name == "a/x" and store.aio is aio
        assert (await aio.get("a/x")).numpy().tolist() == [0, 1, 2]
        assert (await aio.get("a/x", slice(1, 3))).numpy().tolist() == [1, 2]
        assert [i.name for i in await aio.put_many({"a/y": 1, "a/z": 2})] == ["a/y", "a/z"]
        assert list(await aio.get_many(["a/x", "a/y"])) == ["a/x", "a/y"]
        assert await aio.put_shard("a/s", [1, 2], global_shape=4, offset=0) is None
        shard = await aio.put_shard("a/s", [3, 4], global_shape=4, offset=2, version=None)
        assert shard is not None and (await aio.get("a/s")).numpy().tolist() == [1, 2, 3, 4] and await aio.delete("a/s")
        assert await aio.longest_prefix(["a/x", "b"]) == 1
        assert await aio.exists("a/x") and not await aio.exists("b")
        assert (await aio.stat("a/x")).metadata == {"k": "v"}
        assert [i.name async for i in aio.list("a/")] == ["a/x", "a/y", "a/z"]
        assert (await aio.wait("a/x", timeout=5)).name == "a/x"
        assert (await aio.get_or_create("a/made", lambda: np.arange(2))).shape == (2,)
        assert (await aio.stats())["tensors"] >= 4
        assert (await aio.transports())[0]["path"] == "map"
        with pytest.raises(penstock.Error, match="in no cluster"):
            await aio.move("a/x", "00", timeout=5)
        assert await aio.delete("a/x") and await aio.delete_prefix("a/") == 3

    asyncio.run(main())


def test_create(store):
    async def main():
        async with store.aio.create("x", 3, "u8") as draft:
            draft.numpy()[:] = 2
        with pytest.raises(ZeroDivisionError):
            async with store.aio.create("y", 3, "u8"):
                1 // 0
        draft = await store.aio.create("z", 3, "u8")
        draft.abort()

    asyncio.run(main())
    assert store.get("x").numpy().tolist() == [2, 2, 2]
    assert not store.exists("y") and not store.exists("z")


def test_errors_are_the_same(store):
    async def main():
        with pytest.raises(penstock.NotFoundError):
            await store.aio.get("missing")
        with pytest.raises(TypeError, match="name"):
            await store.aio.get(5)
        with pytest.raises(penstock.PartialError):
            await store.aio.get_many(["missing"])

    asyncio.run(main())


def test_waiting_does_not_stop_the_loop(store):
    async def main():
        waiting = asyncio.create_task(store.aio.wait("x", timeout=20))
        getting = asyncio.create_task(store.aio.get("x", wait=20))
        await asyncio.sleep(0)
        await store.aio.put("x", 1)
        assert (await waiting).name == "x" and (await getting).numpy() == 1

    asyncio.run(main())


def test_watch(store):
    async def main():
        async with store.aio.watch("w/") as watch:
            await store.aio.put("w/x", 1)
            await store.aio.put("w/y", 1)
            names = []
            async for event in watch:
                names.append(event.info.name)
                if len(names) == 2:
                    watch.close()
            return names

    assert asyncio.run(main()) == ["w/x", "w/y"]


def test_many_at_once(store):
    async def main():
        await asyncio.gather(*(store.aio.put(f"x/{i}", np.full(10, i)) for i in range(200)))
        views = await asyncio.gather(*(store.aio.get(f"x/{i}") for i in range(200)))
        return [int(view.numpy()[0]) for view in views]

    assert asyncio.run(main()) == list(range(200))


def calls_of(kind) -> dict[str, object]:
    found = {}
    for base in reversed(kind.__mro__[:-1]):
        found |= {
            name: call
            for name, call in vars(base).items()
            if not name.startswith("_") and not isinstance(call, property)
        }
    return found


def parameters(call) -> list[tuple[str, str, bool]]:
    """Of each: name, kind, whether it has a default; of what nanobind made, from the signature it keeps."""
    kept = getattr(call, "__nb_signature__", None)
    if kept is None:
        return [
            (p.name, p.kind.name, p.default is not p.empty)
            for p in inspect.signature(call).parameters.values()
        ][1:]
    text = re.sub(r"\\\d+", "None", kept[0][0])
    arguments = ast.parse(text + ": ...").body[0].args
    required = len(arguments.args) - len(arguments.defaults)
    positional = [(a.arg, "POSITIONAL_OR_KEYWORD", i >= required) for i, a in enumerate(arguments.args)][1:]
    return positional + [
        (a.arg, "KEYWORD_ONLY", default is not None)
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults)
    ]


def test_every_call_of_a_store_has_a_twin_with_its_arguments():
    calls, twins = calls_of(penstock.Store), calls_of(AsyncStore)
    assert sorted(calls) == sorted(twins) and {"get", "put", "create", "register"} <= set(calls)
    for name in sorted(calls):
        assert parameters(twins[name]) == parameters(calls[name]), name


def test_waiting_tasks_never_keep_others_from_running(store):
    async def main():
        waiting = [asyncio.create_task(store.aio.wait(f"x/{i}")) for i in range(100)]
        getting = [asyncio.create_task(store.aio.get(f"x/{i}", wait=20)) for i in range(100)]
        await asyncio.sleep(0)
        await asyncio.gather(*(store.aio.put(f"x/{i}", i) for i in range(100)))
        assert [info.name for info in await asyncio.gather(*waiting)] == [f"x/{i}" for i in range(100)]
        assert [int(view.numpy()) for view in await asyncio.gather(*getting)] == list(range(100))

    asyncio.run(main())


def test_a_view_that_comes_after_its_await_was_cancelled_is_released(store, held, eventually):
    async def main():
        getting = asyncio.create_task(store.aio.get("x", wait=20))
        making = asyncio.create_task(store.aio.get_or_create("y", lambda: np.zeros(3)))
        drafting = asyncio.create_task(store.aio.create("z", 10, "u8").__aenter__())
        await asyncio.sleep(0)
        for task in (getting, making, drafting):
            task.cancel()
        store.put("x", np.arange(3))  # while the get still looks
        for task in (getting, making, drafting):
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    eventually(lambda: held() == {"pins": 0, "drafts": 0}, "views and drafts that nobody awaits are gone")
    assert not store.exists("z")


def test_a_cancelled_put_is_whole_or_not_there(store, eventually, held):
    async def main():
        task = asyncio.create_task(store.aio.put("x", np.full(1 << 20, 7)))
        while held()["drafts"] == 0 and not store.exists("x"):  # one that has not begun is not done at all
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: store.exists("x"), "a put that began goes on to its end")
    assert (store.get("x").numpy() == 7).all()


def test_a_cancelled_block_aborts_its_draft(store, held):
    async def main():
        async def fill():
            async with store.aio.create("x", 3, "u8"):
                entered.set()
                await asyncio.Event().wait()

        entered = asyncio.Event()
        task = asyncio.create_task(fill())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not store.exists("x") and held()["drafts"] == 0


def test_a_watch_loses_no_event_to_a_cancelled_await(store):
    async def main():
        names, cancelled = [], 0
        async with store.aio.watch("w/") as watch:
            for i in range(20):
                waiting = asyncio.create_task(watch.__anext__())
                await asyncio.sleep(0)
                waiting.cancel()
                store.put(f"w/{i}", i)  # a cancelled call gets this event
                try:
                    names.append((await waiting).info.name)  # one that an earlier call got
                except asyncio.CancelledError:
                    cancelled += 1
            while len(names) < 20:
                names.append((await watch.__anext__()).info.name)
        return names, cancelled

    names, cancelled = asyncio.run(main())
    assert names == [f"w/{i}" for i in range(20)] and cancelled > 0


def test_a_program_ends_though_cancelled_waits_had_no_timeout(node):
    code = f"""
import asyncio, penstock
async def main():
    store = penstock.connect({node.address!r})
    calls = (store.aio.wait("never"), store.aio.get("never", wait=1000), store.aio.get_or_create("busy", lambda: None))
    for call in (*calls, store.aio.watch("never").__anext__()):
        try:
            await asyncio.wait_for(call, 0.01)
        except (asyncio.TimeoutError, penstock.Error):
            pass
asyncio.run(main())
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.monotonic() - began < 30


def test_timeouts_are_those_that_were_asked_for(store):
    async def main():
        began = time.monotonic()
        for timeout in (0, 0.01, 0.7):
            with pytest.raises(penstock.DeadlineError):
                await store.aio.wait("x", timeout=timeout)
            with pytest.raises(penstock.DeadlineError):
                await store.aio.get("x", wait=timeout)
        assert 1.4 < time.monotonic() - began < 10
        for wrong, error in (
            ("1", TypeError),
            (True, TypeError),
            (-1, ValueError),
            (float("nan"), ValueError),
        ):
            with pytest.raises(error):
                await store.aio.wait("x", timeout=wrong)

    asyncio.run(main())


def test_get_or_create_waits_and_fails_as_its_twin(store):
    async def main():
        began, release, calls = asyncio.Event(), asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def make():
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(20)
            return np.arange(3)

        making = asyncio.create_task(store.aio.get_or_create("x", make))
        await began.wait()
        waiting = asyncio.create_task(store.aio.get_or_create("x", lambda: 1 // 0, timeout=0.7))
        with pytest.raises(penstock.DeadlineError, match="for 0.7 s"):
            await waiting
        late = asyncio.create_task(store.aio.get_or_create("x", lambda: 1 // 0))
        release.set()
        assert (await making).shape == (await late).shape == (3,)

        def make_late():
            calls.append(1)
            raise penstock.DeadlineError("mine")

        with pytest.raises(penstock.DeadlineError, match="mine"):
            await store.aio.get_or_create("y", make_late, timeout=20)
        assert calls == [1]
        with pytest.raises(TypeError, match="make"):
            await store.aio.get_or_create("y", None)

    asyncio.run(main())


def test_a_long_list(store):
    async def main():
        await store.aio.put_many({f"l/{i:04}": 0 for i in range(2500)})
        assert [info.name async for info in store.aio.list("l/")] == [f"l/{i:04}" for i in range(2500)]
        assert len([info async for info in store.aio.list("l/", limit=1001)]) == 1001
        array = np.zeros(4)
        async_registered = await store.aio.register(array)
        async_registered.release()
        await store.aio.close()
        assert store.closed

    asyncio.run(main())
