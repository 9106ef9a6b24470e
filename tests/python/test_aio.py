"""store.aio: the same calls, awaitable."""

import asyncio

import numpy as np
import pytest

import penstock


def test_every_call(store):
    async def main():
        aio = store.aio
        info = await aio.put("a/x", np.arange(3), metadata={"k": "v"})
        assert info.name == "a/x" and store.aio is aio
        assert (await aio.get("a/x")).numpy().tolist() == [0, 1, 2]
        assert (await aio.get("a/x", slice(1, 3))).numpy().tolist() == [1, 2]
        assert [i.name for i in await aio.put_many({"a/y": 1, "a/z": 2})] == ["a/y", "a/z"]
        assert list(await aio.get_many(["a/x", "a/y"])) == ["a/x", "a/y"]
        assert await aio.longest_prefix(["a/x", "b"]) == 1
        assert await aio.exists("a/x") and not await aio.exists("b")
        assert (await aio.stat("a/x")).metadata == {"k": "v"}
        assert [i.name async for i in aio.list("a/")] == ["a/x", "a/y", "a/z"]
        assert (await aio.wait("a/x", timeout=5)).name == "a/x"
        assert (await aio.get_or_create("a/made", lambda: np.arange(2))).shape == (2,)
        assert (await aio.stats())["tensors"] >= 4
        assert (await aio.transports())[0]["path"] == "map"
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
