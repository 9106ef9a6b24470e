"""penstock.safetensors and the store: one import a file, shared by processes, redone when the file changed."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import penstock
import penstock.safetensors as ours
import penstock.safetensors.numpy as ours_numpy

WEIGHTS = {f"layer.{i}.weight": np.full((32, 1024), i, "f4") for i in range(12)} | {"bias": np.arange(5)}

READER = """
import numpy as np, sys
import penstock.safetensors.numpy as st
before = store.stats()["puts"]
arrays = st.load_file(sys.argv[1], store=store)
mapped = [line for line in open("/proc/self/maps") if "penstock" in line and "memfd:" in line]
def lies_in_the_store(array):
    at = array.ctypes.data
    return any(int(a, 16) <= at < int(b, 16) for a, b in (line.split()[0].split("-") for line in mapped))
assert all(lies_in_the_store(a) for a in arrays.values()), "".join(mapped)
assert all((arrays[f"layer.{i}.weight"] == i).all() for i in range(12))
print(store.stats()["puts"] - before)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    ours.save_file(WEIGHTS, path, {"format": "np"})
    return path


def puts(store) -> int:
    return store.stats()["puts"]


def names(store) -> list[str]:
    return sorted(
        info.name.rpartition("/")[2] for info in store.list() if not info.name.endswith(".safetensors")
    )


def assert_loads(path, store, want=WEIGHTS, **options) -> None:
    got = ours_numpy.load_file(path, store=store, **options)
    assert sorted(got) == sorted(want)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


def test_a_second_process_maps_what_the_first_imported(store, file, run_python):
    first, second = (run_python(READER, str(file)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert int(first.stdout) == len(WEIGHTS) + 1 and int(second.stdout) == 0
    assert names(store) == sorted(WEIGHTS)


def test_processes_that_come_at_once_import_it_once(store, node, file):
    code = f"import penstock\nstore = penstock.connect({node.address!r})\n" + READER
    before = puts(store)
    readers = [
        subprocess.Popen([sys.executable, "-c", code, file], stdout=subprocess.DEVNULL) for _ in range(4)
    ]
    assert [reader.wait(60) for reader in readers] == [0, 0, 0, 0]
    assert puts(store) - before == len(WEIGHTS) + 1


def test_who_comes_while_a_file_is_imported_waits_for_its_end(store, node, file, monkeypatch, eventually):
    """The first put of the importer ends only when the other one waits."""
    from penstock.safetensors import _source

    other_waits = threading.Event()
    put, put_by = _source.FileSource._put_marked, []

    def put_slowly(self, entries, metadata):
        put_by.append(self._store)
        put(self, entries, metadata)
        assert other_waits.wait(20)

    class Waiting(penstock.Store):
        def get_or_create(self, name, make, timeout=None):
            other_waits.set()
            return super().get_or_create(name, make, timeout)

    monkeypatch.setattr(_source.FileSource, "_put_marked", put_slowly)
    with ThreadPoolExecutor() as threads, Waiting(node.address) as other:
        importing = threads.submit(assert_loads, file, store)
        eventually(lambda: put_by, "the importer began")
        threads.submit(assert_loads, file, other).result(30)
        importing.result(30)
    assert set(put_by) == {store}


def test_without_a_store_it_is_the_one_of_the_environment(node, store, file):
    code = "import sys, penstock.safetensors as st; st.load_file(sys.argv[1], framework='np')"
    env = os.environ | {"PENSTOCK_ADDRESS": node.address}
    subprocess.run([sys.executable, "-c", code, file], env=env, check=True, timeout=60)
    assert names(store) == sorted(WEIGHTS)
    env["PENSTOCK_ADDRESS"] = "/nonexistent"
    done = subprocess.run(
        [sys.executable, "-c", code, file], env=env, capture_output=True, text=True, timeout=60
    )
    assert "UnavailableError" in done.stderr


@pytest.mark.parametrize("prefix", [None, "model/7b"])
def test_a_file_that_changed_is_imported_anew(store, file, prefix):
    old = ours_numpy.load_file(file, store=store, prefix=prefix)
    changed = {"bias": np.arange(5) * 2, "layer.0.weight": np.ones((32, 1024), "f4")}
    ours.save_file(changed, file)
    assert_loads(file, store, changed, prefix=prefix)
    assert ours.safe_open(file, "np", store=store, prefix=prefix).get_tensor("bias")[-1] == 8
    assert old["bias"].tolist() == [0, 1, 2, 3, 4]  # what was loaded stays what it was


def test_a_reader_replaces_what_another_file_left_under_its_prefix(store, file):
    store.put("p/bias", np.zeros(5))
    with ours.safe_open(file, "np", store=store, prefix="p/") as f:
        assert f.get_tensor("bias").tolist() == [0, 1, 2, 3, 4]
    assert store.stat("p/bias").dtype == "i64"


def test_what_the_store_dropped_is_imported_again_alone(store, file):
    assert_loads(file, store)
    store.delete(next(info.name for info in store.list() if info.name.endswith("bias")))
    before = puts(store)
    assert_loads(file, store)
    assert puts(store) - before == 2  # it, and the mark of a whole import


def test_the_store_may_evict_it_unless_keep_is_asked_for(store, file):
    assert_loads(file, store)
    assert_loads(file, store, keep=True, prefix="kept", ttl=1000)
    kept = {info.name.startswith("kept"): (info.keep, info.ttl is None) for info in store.list()}
    assert kept == {False: (False, True), True: (True, False)}


def test_a_model_that_needs_the_room_of_another_gets_it(tmp_path):
    with penstock.start_local("64MiB") as node, node.connect() as store:
        for turn in range(4):
            arrays = {f"w{i}": np.full(1 << 20, turn + i, "f4") for i in range(7)}  # 28 MiB
            ours.save_file(arrays, tmp_path / f"{turn}.safetensors")
            assert_loads(tmp_path / f"{turn}.safetensors", store, arrays)
        assert store.stats()["evictions"] > 0
        ours.save_file({"w": np.zeros(32 << 20, "f4")}, tmp_path / "large.safetensors")
        with pytest.raises(penstock.StoreFullError):
            ours_numpy.load_file(tmp_path / "large.safetensors", store=store)


def test_another_process_goes_on_when_the_importer_is_killed(store, node, file):
    code = f"""
import sys, signal, penstock
from penstock.safetensors import _source, load_file
put = _source.FileSource._put_marked
def put_and_stop(self, entries, metadata):
    put(self, entries, metadata)
    print("began", flush=True)
    signal.pause()
_source.FileSource._put_marked = put_and_stop
_source._THREADS = 1
load_file(sys.argv[1], framework="np", store=penstock.connect({node.address!r}))
"""
    with subprocess.Popen([sys.executable, "-c", code, file], stdout=subprocess.PIPE) as importer:
        assert importer.stdout.readline() == b"began\n"
        waiting = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import penstock\nstore = penstock.connect({node.address!r})\n" + READER,
                file,
            ],
            stdout=subprocess.DEVNULL,
        )
        importer.send_signal(signal.SIGKILL)
    assert waiting.wait(60) == 0
    assert_loads(file, store)


def test_a_file_that_changes_under_the_import_is_refused(store, file, monkeypatch):
    from penstock.safetensors import _source

    put = _source.FileSource._put_marked

    def put_and_touch(self, entries, metadata):
        os.utime(file, ns=(1, 1))
        put(self, entries, metadata)

    monkeypatch.setattr(_source.FileSource, "_put_marked", put_and_touch)
    with pytest.raises(ours.SafetensorError, match="changed while it was read"):
        ours_numpy.load_file(file, store=store)
    assert list(store.list()) == []


def test_a_reader_refuses_a_file_that_changed_since_it_was_opened(store, file):
    with ours.safe_open(file, "np", store=store) as f:
        assert f.get_tensor("bias")[-1] == 4
        os.utime(file, ns=(1, 1))
        with pytest.raises(ours.SafetensorError, match="changed while it was read"):
            f.get_tensor("layer.1.weight")
        file.unlink()
        with pytest.raises(ours.SafetensorError, match="changed while it was read"):
            f.get_tensor("layer.1.weight")
        assert f.get_tensor("bias")[-1] == 4  # that is in the store
    assert names(store) == ["bias"]


@pytest.mark.parametrize(
    "name", ["ü ' \".safetensors", b"\xff\xfe.safetensors", "a.b", "x" * 200 + ".safetensors"]
)
def test_file_names_of_every_sort(store, tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name) if isinstance(name, bytes) else tmp_path / name
    ours.save_file({"w": np.arange(3)}, path)
    assert_loads(path, store, {"w": np.arange(3)})
    assert_loads(os.fsdecode(path), store, {"w": np.arange(3)})


def test_names_that_the_store_refuses(store, tmp_path):
    long = {"n" * 500: np.arange(3)}
    ours.save_file(long, tmp_path / "x.safetensors")
    with pytest.raises(penstock.InvalidArgumentError, match="name"):
        ours_numpy.load_file(tmp_path / "x.safetensors", store=store)
    assert_loads(tmp_path / "x.safetensors", store, long, prefix="p")
    assert_loads(tmp_path / "x.safetensors", store, long, prefix="")
    assert store.exists("n" * 500)


def test_an_export_gives_the_file_back(store, node, file, tmp_path):
    assert_loads(file, store, prefix="model")
    penstock_cli(node, "export", "model", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == file.read_bytes()


def penstock_cli(node, *words) -> None:
    from penstock.local import find_penstockd

    command = [os.path.join(os.path.dirname(find_penstockd()), "penstock"), *words]
    subprocess.run(
        command, env=os.environ | {"PENSTOCK_ADDRESS": node.address}, check=True, capture_output=True
    )


def test_what_the_command_line_imported_is_mapped(store, node, file, tmp_path):
    penstock_cli(node, "import", file, "--prefix", "model")
    before = puts(store)
    assert_loads(file, store, prefix="model")
    assert puts(store) == before and sorted(i.name for i in store.list("model/")) == sorted(
        f"model/{n}" for n in WEIGHTS
    )
    ours.save_file(WEIGHTS, file)
    assert_loads(file, store, prefix="model")
    assert puts(store) > before


def test_a_directory_is_imported_anew_shard_by_shard(store, node, tmp_path):
    ours.save_sharded(WEIGHTS, tmp_path, max_shard_size="256KiB")
    penstock_cli(node, "import", tmp_path, "--prefix", "model")
    before = puts(store)
    assert_loads(tmp_path, store, prefix="model")
    assert puts(store) == before
    os.utime(tmp_path / "model-00001-of-00007.safetensors", ns=(1, 1))
    assert_loads(tmp_path, store, prefix="model")
    assert puts(store) - before == 3  # two tensors, and the mark of a whole import


def test_large_metadata_of_a_file_is_told_by_the_reader(store, tmp_path):
    metadata = {"ss_tags": "x" * 50_000}
    ours.save_file({"w": np.arange(3)}, tmp_path / "x.safetensors", metadata)
    with ours.safe_open(tmp_path / "x.safetensors", "np", store=store) as f:
        assert f.get_tensor("w").tolist() == [0, 1, 2] and f.metadata() == metadata


def test_loading_holds_no_pins_once_the_arrays_are_gone(store, file, held):
    arrays = ours_numpy.load_file(file, store=store)
    assert held()["pins"] == len(WEIGHTS)
    del arrays
    assert held()["pins"] == 0
