"""What stores, views and infos show of themselves: short, escaped, without secrets, never an exception."""

import numpy as np
import pytest

import penstock
from penstock._notebook import size_text

BAD = "<b>&'\""
ESCAPED = "&lt;b&gt;&amp;&#x27;&quot;"


def test_a_view(store):
    store.put("a/" + BAD, np.arange(12, dtype="f4").reshape(3, 4))
    view = store.get("a/" + BAD)
    assert repr(view) == f"TensorView(name={view.name!r}, version={view.version}, dtype='f32', shape=(3, 4))"
    text = view._repr_html_()
    assert f"a/{ESCAPED}" in text and BAD not in text
    for shown in ("f32", "(3, 4)", "48 B", "map, no copy", "0.0, 1.0, 2.0, 3.0, 4.0, 5.0, …"):
        assert shown in text
    assert "0.0, 4.0, 8.0</td>" in view[:, 0]._repr_html_()
    view.release()
    assert repr(view) == "TensorView(released)" and view._repr_html_() is None


@pytest.mark.parametrize("dtype", ["bool", "c128", "bf16", "f8_e4m3fn", "f4_e2m1x2", "f6_e2m3"])
@pytest.mark.parametrize("shape", [(), (0,), (4,)])
def test_views_of_every_sort_show_themselves(store, dtype, shape):
    if dtype.startswith("f6") and shape == ():
        shape = (8,)  # six bytes
    with store.create("x", shape, dtype):
        pass
    with store.get("x") as view:
        assert dtype in view._repr_html_() and len(view._repr_html_()) < 2000


def test_large_tensors_are_not_read(store):
    with store.create("x", 1 << 24, "f32"):
        pass
    with store.get("x") as view:
        assert "64.0 MiB" in view._repr_html_() and len(view._repr_html_()) < 2000


def test_an_info(store):
    metadata = {"key" + BAD: "v" * 500, "source": BAD}
    info = store.put("x", [1, 2], keep=False, ttl=1000, metadata=metadata)
    assert repr(info) == f"TensorInfo(name='x', version={info.version}, dtype='i64', shape=(2,), nbytes=16)"
    text = info._repr_html_()
    assert ESCAPED in text and BAD not in text and "v" * 100 not in text
    assert "cache" in text and "expires in" in text


def test_a_store(store, node):
    store.put("x", np.zeros(1 << 18))
    assert repr(store) == f"Store(address={node.address!r})"
    text = store._repr_html_()
    assert node.address in text and "2.0 MiB of " in text and len(text) < 1000
    store.close()
    assert repr(store) == "Store(closed)" and "closed" in store._repr_html_()


def test_a_store_whose_node_is_gone():
    with penstock.start_local("64MiB") as node:
        store = node.connect(timeout=0.2)
        assert repr(node) == f"LocalNode(address={node.address!r}, pid={node.pid})"
    assert repr(node) == "LocalNode(closed)"
    with store:
        assert "does not answer" in store._repr_html_()


def test_a_store_tells_nothing_of_its_keys(store):
    store._arguments["tls"] = {"key": "/secret/key.pem"}  # what a store opened with TLS keeps
    assert "secret" not in repr(store) + store._repr_html_()


def test_sizes_for_people():
    told = [size_text(n) for n in (0, 1023, 1024, 1536, 1 << 20, (1 << 60) - 1, 1 << 60, 1 << 70)]
    assert told == ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1024.0 PiB", "1024.0 PiB", "1048576.0 PiB"]


def test_drafts_and_boxes(store):
    draft = store.create("x", 3, "u8")
    assert repr(draft).startswith("Draft(name='x'")
    draft.abort()
    assert repr(penstock.Box((0,), (3,))) == "Box(offset=(0,), extent=(3,))"
