"""wait and watch, across threads, with Ctrl-C."""

import threading
import time

import numpy as np
import pytest

import penstock


class Later:
    """Runs a call in another thread and hands its result, or its error, back."""

    def __init__(self, call):
        self.value = self.error = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call):
        try:
            self.value = call()
        except Exception as error:
            self.error = error

    def result(self):
        self._thread.join(30)
        assert not self._thread.is_alive(), "it did not end"
        if self.error is not None:
            raise self.error
        return self.value


def test_wait_until_it_appears(store):
    later = Later(lambda: store.wait("x", timeout=20))
    store.put("x", np.arange(3))
    assert later.result().name == "x"
    assert store.wait("x").shape == (3,)


def test_wait_for_a_version(store):
    version = store.put("x", 1).version
    later = Later(lambda: store.wait("x", version=version + 1, timeout=20))
    store.put("x", 2)
    assert later.result().version > version


def test_wait_for_what_comes_with_much_metadata(store):
    """Its answer is larger than the room that a waiting request keeps."""
    metadata = {f"key {i}": "v" * 1000 for i in range(15)}
    later = Later(lambda: store.wait("x", timeout=20))
    time.sleep(0.3)  # it waits in the node
    store.put("x", 1, metadata=metadata)
    assert later.result().metadata == metadata


def test_wait_gives_up(store):
    begin = time.monotonic()
    with pytest.raises(penstock.DeadlineError) as caught:
        store.wait("never", timeout=0.2)
    assert isinstance(caught.value, TimeoutError) and time.monotonic() - begin >= 0.2
    with pytest.raises(penstock.DeadlineError):
        store.wait("never", timeout=0)


def test_get_waits(store):
    later = Later(lambda: store.get("x", wait=20).numpy().tolist())
    store.put("x", np.arange(3))
    assert later.result() == [0, 1, 2]
    with pytest.raises((penstock.NotFoundError, penstock.DeadlineError)):
        store.get("never", wait=0.05)


def test_watch_sees_puts_and_deletes_in_order(store):
    with store.watch("w/") as watch:
        first = store.put("w/a", np.zeros((2, 3))).version
        store.put("other", 1)
        store.put("w/b", 1)
        store.delete("w/a")
        events = [next(watch) for _ in range(3)]
    assert [(e.kind, e.info.name) for e in events] == [("put", "w/a"), ("put", "w/b"), ("delete", "w/a")]
    assert events[0].info.version == first and events[0].info.shape == (2, 3)
    assert events[0].sequence < events[1].sequence < events[2].sequence
    assert abs(events[0].time - time.time()) < 60


def test_watch_waits_for_what_comes(store):
    watch = store.watch("w/")
    later = Later(lambda: next(watch).info.name)
    store.put("w/x", 1)
    assert later.result() == "w/x"
    watch.close()


def test_watch_can_be_polled(store):
    with store.watch("w/") as watch:
        assert watch.next(timeout=0) is None
        assert watch.next(timeout=0.05) is None
        store.put("w/x", 1)
        assert watch.next(timeout=20).kind == "put"


def test_close_ends_a_waiting_watch(store):
    watch = store.watch("w/")
    later = Later(lambda: list(watch))
    store.put("w/x", 1)
    watch.close()
    watch.close()
    assert [event.info.name for event in later.result()] in ([], ["w/x"])
    with pytest.raises(StopIteration):
        next(watch)


def test_watch_goes_on_where_another_ended(store):
    with store.watch("w/") as watch:
        store.put("w/a", 1)
        seen = next(watch)
    store.put("w/b", 1)
    with store.watch("w/", from_version=seen.sequence) as watch:
        assert next(watch).info.name == "w/b"


@pytest.mark.parametrize("what", ["store.wait('never')", "next(store.watch('never/'))",
                                  "store.get('never', wait=1000)"])
def test_ctrl_c_ends_a_wait(run_python, what):
    code = f"""
import os, signal, threading, time
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.1, interrupt).start()
begin = time.monotonic()
try:
    {what}
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 20)
"""
    assert run_python(code).stdout.split() == ["interrupted", "True"]


def test_wrong_arguments(store):
    with pytest.raises(TypeError, match="prefix"):
        store.watch(5)
    with pytest.raises((TypeError, penstock.InvalidArgumentError), match="from_version"):
        store.watch("", from_version=-1)
    with pytest.raises(penstock.InvalidArgumentError, match="timeout"):
        store.wait("x", timeout=-1)
    with pytest.raises(ValueError, match="limit"):
        store.list(limit=-1)
