"""Directories of safetensors files, as Hugging Face's are: written, loaded, replaced; and progress bars."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy

import penstock
import penstock.safetensors as ours
import penstock.safetensors.numpy as ours_numpy

WEIGHTS = {f"w{i}": np.full(250, i, "f4") for i in range(5)} | {
    "large": np.zeros(3000, "f4"),
    "last": np.arange(3),
}
INDEX = "model.safetensors.index.json"


def files(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_shards_and_their_index(store, tmp_path):
    ours.save_sharded(WEIGHTS, tmp_path / "m", max_shard_size="2KB", metadata={"format": "pt"})
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(a.nbytes for a in WEIGHTS.values())}
    names = [f"model-{i}-of-00004.safetensors" for i in ("00001", "00002", "00003", "00004")]
    assert files(tmp_path / "m") == [*names, INDEX]
    in_files = {}
    for name in names:
        arrays = safetensors.numpy.load_file(tmp_path / "m" / name)
        assert sum(a.nbytes for a in arrays.values()) <= 2000 or list(arrays) == ["large"]
        in_files |= dict.fromkeys(arrays, name)
    assert index["weight_map"] == in_files and sorted(in_files) == sorted(WEIGHTS)
    got = ours_numpy.load_file(tmp_path / "m", store=store)
    assert sorted(got) == sorted(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(got[name], array)
    assert (tmp_path / "m" / INDEX).stat().st_mode & 0o777 == (
        tmp_path / "m" / names[0]
    ).stat().st_mode & 0o777


def test_one_file_when_it_suffices(store, tmp_path):
    ours.save_sharded(WEIGHTS, tmp_path)
    assert files(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == safetensors.numpy.save(WEIGHTS)
    ours.save_sharded({}, tmp_path)
    assert ours_numpy.load_file(tmp_path, store=store) == {}


def test_a_later_save_replaces_the_earlier_one(store, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ours.save_sharded(WEIGHTS, tmp_path, max_shard_size=1000)
    assert ours_numpy.load_file(tmp_path, store=store)["w1"][0] == 1
    ours.save_sharded({"w1": np.full(250, 9, "f4"), "w2": WEIGHTS["w2"]}, tmp_path, max_shard_size=1000)
    assert files(tmp_path) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    got = ours_numpy.load_file(tmp_path, store=store)
    assert sorted(got) == ["w1", "w2"] and got["w1"][0] == 9
    ours.save_sharded({"w1": WEIGHTS["w1"]}, tmp_path)
    assert files(tmp_path) == ["config.json", "model.safetensors"]


def test_one_tensor_of_a_directory(store, tmp_path):
    ours.save_sharded(WEIGHTS, tmp_path, max_shard_size=1000, metadata={"k": "v"})
    with ours.safe_open(tmp_path, "np", store=store) as f:
        assert f.metadata() == {"k": "v"} and f.keys() == sorted(WEIGHTS)
        assert f.get_slice("w3")[:2].tolist() == [3, 3]
    assert sum(1 for _ in store.list()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda d: (d / INDEX).write_text("{"),
        lambda d: (d / INDEX).write_text('{"weight_map": {"w0": "../x.safetensors"}}'),
        lambda d: (d / INDEX).write_text('{"weight_map": {"none": "model-00001-of-00007.safetensors"}}'),
        lambda d: (d / "model-00002-of-00007.safetensors").write_bytes(b"\0" * 20),
    ],
)
def test_unsound_directories_are_refused(store, tmp_path, change):
    ours.save_sharded(WEIGHTS, tmp_path, max_shard_size=1000)
    change(tmp_path)
    with pytest.raises(ours.SafetensorError):
        ours_numpy.load_file(tmp_path, store=store)
    assert list(store.list()) == []


def test_a_missing_shard(store, tmp_path):
    ours.save_sharded(WEIGHTS, tmp_path, max_shard_size=1000)
    (tmp_path / "model-00002-of-00007.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="00002"):
        ours_numpy.load_file(tmp_path, store=store)


@pytest.mark.parametrize(
    ("size", "count"), [("1023", 2), ("1KB", 2), ("1 kb", 2), ("1KiB", 1), ("1mib", 1), (1024, 1)]
)
def test_sizes(tmp_path, size, count):
    ours.save_sharded({"a": np.zeros(250, "f4"), "b": np.zeros(6, "f4")}, tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) == count


def test_bad_sizes(tmp_path):
    for size in (0, -1, "", "1XB", "GB", "1.5GB"):
        with pytest.raises(penstock.InvalidArgumentError, match="max_shard_size"):
            ours.save_sharded(WEIGHTS, tmp_path / "m", max_shard_size=size)
    with pytest.raises(TypeError, match="max_shard_size"):
        ours.save_sharded(WEIGHTS, tmp_path / "m", max_shard_size=1.5)
    assert not (tmp_path / "m").exists()


def test_bars_when_they_are_asked_for(store, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    ours.save_file(WEIGHTS, path, progress=True)
    assert "model.safetensors: 100%" in capsys.readouterr().err
    ours_numpy.load_file(path, store=store, progress=True)
    assert "model.safetensors: 100%" in capsys.readouterr().err
    for quiet in (None, False):  # standard error is no terminal here
        ours.save_file(WEIGHTS, path, progress=quiet)
        ours_numpy.load_file(path, store=store, progress=quiet)
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError, match="progress"):
        ours.save_file(WEIGHTS, path, progress=1)


def test_a_terminal_shows_long_work(tmp_path, capsys, monkeypatch):
    from penstock import _progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ours.save_file(WEIGHTS, tmp_path / "x")
    assert capsys.readouterr().err == ""  # over in less than a second
    monkeypatch.setattr(_progress, "_SHOWN_AFTER", 0)
    ours.save_file(WEIGHTS, tmp_path / "x")
    assert "x: 100%" in capsys.readouterr().err


def test_bars_without_tqdm(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    path = tmp_path / "model.safetensors"
    with pytest.raises(penstock.InvalidArgumentError, match="progress.*tqdm"):
        ours.save_file(WEIGHTS, path, progress=True)
    assert not path.exists()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ours.save_file(WEIGHTS, path)
    assert path.exists()
