"""import and export of the command line, against the safetensors package and NumPy."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from support.daemon import Cli


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20260125)
    return {
        "wte": rng.standard_normal((64, 48), dtype=np.float32),
        "h.0/attn": rng.standard_normal((16, 16)).astype(np.float16),
        "h.0/big": rng.integers(0, 255, (3_000_000,), dtype=np.uint8),
        "scalar": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float64),
        "flags": np.array([True, False, True]),
        "ünïcode": np.arange(5, dtype=np.int16),
    }


def test_safetensors_round_trip_is_the_same_file(cli: Cli, tmp_path, arrays) -> None:
    source, back = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    safetensors.numpy.save_file(arrays, source, metadata={"format": "np"})
    told = cli.json("import", source, "--prefix", "m")
    assert told["tensors"] == len(arrays)
    assert told["bytes"] == sum(a.nbytes for a in arrays.values())
    assert list(told) == ["files", "prefix", "tensors", "bytes", "seconds", "bytes_per_second"]
    assert cli.text("ls").splitlines() == sorted(f"m/{name}" for name in arrays)
    out = cli.json("export", "m", back)
    assert out["tensors"] == len(arrays) and list(out) == ["file", "tensors", "bytes", "seconds"]
    assert back.read_bytes() == source.read_bytes()
    with safetensors.safe_open(back, "numpy") as file:
        assert file.metadata() == {"format": "np"}
        for name in file.keys():
            np.testing.assert_array_equal(file.get_tensor(name), arrays[name])


def test_imported_bytes_are_the_files_bytes(cli: Cli, tmp_path, arrays) -> None:
    source = tmp_path / "in.safetensors"
    safetensors.numpy.save_file(arrays, source)
    cli.run("import", source, "--jobs", "1")
    for name, array in arrays.items():
        assert cli.run("get", name, "--raw").stdout == array.tobytes(), name


def test_dtypes_that_numpy_lacks_round_trip(cli: Cli, tmp_path) -> None:
    header, data, offset = {}, b"", 0
    for dtype, bits in {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "C64": 64}.items():
        size = 8 * bits // 8
        header[dtype.lower()] = {"dtype": dtype, "shape": [2, 4], "data_offsets": [offset, offset + size]}
        data += os.urandom(size)
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    source, back = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    source.write_bytes(len(text).to_bytes(8, "little") + text + data)
    cli.run("import", source, "-p", "exotic/")
    cli.run("export", "exotic/", "-o", back)
    with open(back, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        again, body = json.loads(file.read(length)), file.read()
    assert again.keys() == header.keys()
    for name, entry in header.items():
        assert again[name]["dtype"] == entry["dtype"] and again[name]["shape"] == entry["shape"]
        begin, end = entry["data_offsets"]
        begin2, end2 = again[name]["data_offsets"]
        assert body[begin2:end2] == data[begin:end], name


def test_huggingface_directory_with_an_index(cli: Cli, tmp_path, arrays) -> None:
    names = sorted(arrays)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, members in shards.items():
        safetensors.numpy.save_file({n: arrays[n] for n in members}, tmp_path / file, {"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    assert cli.json("import", tmp_path, "--prefix", "hf")["tensors"] == len(arrays)
    for name, array in arrays.items():
        assert cli.run("get", f"hf/{name}", "--raw").stdout == array.tobytes()
    weight_map["nowhere"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "nowhere" in cli.error(2, "import", tmp_path, "--prefix", "broken")
    assert cli.text("ls", "broken/") == ""


def test_directory_without_an_index_takes_all_its_files(cli: Cli, tmp_path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "one.safetensors")
    safetensors.numpy.save_file({"b": np.ones(3)}, tmp_path / "two.safetensors")
    assert cli.json("import", tmp_path)["tensors"] == 2
    assert cli.text("ls") == "a\nb\n"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(cli: Cli, tmp_path, arrays, save) -> None:
    save(tmp_path / "in.npz", **arrays)
    assert cli.json("import", tmp_path / "in.npz", "--prefix", "z")["tensors"] == len(arrays)
    cli.run("export", "z", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as back:
        assert sorted(back.files) == sorted(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            np.testing.assert_array_equal(back[name], array)


def test_npy_is_stored_under_its_own_name(cli: Cli, tmp_path) -> None:
    np.save(tmp_path / "frame.npy", np.arange(6).reshape(2, 3))
    cli.run("import", tmp_path / "frame.npy", "--prefix", "obs", "--cache", "-m", "k=v")
    (info,) = cli.json("stat", "obs/frame")
    assert info["keep"] is False and info["metadata"] == {"k": "v"} and info["shape"] == [2, 3]


def test_import_of_several_files_and_again(cli: Cli, tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "b.npz", x=np.ones(3), y=np.ones(3))
    assert cli.json("import", tmp_path / "a.npy", tmp_path / "b.npz")["tensors"] == 3
    before = cli.json("stat", "a")[0]["version"]
    assert cli.json("import", tmp_path / "a.npy")["tensors"] == 1
    assert cli.json("stat", "a")[0]["version"] == before + 1
    cli.error(8, "import", tmp_path / "a.npy", "--if-absent")


def test_import_refuses_what_it_does_not_know(cli: Cli, tmp_path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    np.savez(tmp_path / "names.npz", **{"a//b": np.zeros(1), "ok": np.zeros(1)})
    assert "x.txt" in cli.error(2, "import", tmp_path / "x.txt")
    assert "bad.safetensors" in cli.error(2, "import", tmp_path / "bad.safetensors")
    cli.error(3, "import", tmp_path / "missing.safetensors")
    cli.error(2, "import", tmp_path / "names.npz")
    cli.error(2, "import", tmp_path / "x.txt", "--jobs", "0")
    assert cli.text("ls") == ""


def test_export_errors_leave_no_file(cli: Cli, tmp_path) -> None:
    cli.error(3, "export", "nothing", tmp_path / "x.safetensors")
    cli.error(2, "export", "nothing", tmp_path / "x.pt")
    cli.error(2, "export", "nothing")
    cli.run("put", "a", "-", "--dtype", "bf16", "--shape", "2", stdin=bytes(4))
    assert cli.run("export", "a", tmp_path / "one.safetensors").returncode == 0
    assert safetensors.safe_open(tmp_path / "one.safetensors", "numpy").keys() == ["a"]
    assert sorted(os.listdir(tmp_path)) == ["one.safetensors"]


def test_export_names_and_metadata(cli: Cli, tmp_path) -> None:
    for name in ("m/x", "m/sub/y", "m2/z"):
        cli.run("put", name, "-", "--dtype", "u8", "--shape", "2", stdin=b"ab")
    out = tmp_path / "o.safetensors"
    cli.run("export", "m", out, "--metadata", "who=me")
    with safetensors.safe_open(out, "numpy") as file:
        assert sorted(file.keys()) == ["sub/y", "x"] and file.metadata() == {"who": "me"}
    cli.run("export", "m", out, "--full-names")
    assert sorted(safetensors.safe_open(out, "numpy").keys()) == ["m/sub/y", "m/x"]
    cli.run("export", "", out)
    assert sorted(safetensors.safe_open(out, "numpy").keys()) == ["m/sub/y", "m/x", "m2/z"]


def test_put_takes_one_tensor_of_a_file(cli: Cli, tmp_path, arrays) -> None:
    source = tmp_path / "in.safetensors"
    safetensors.numpy.save_file(arrays, source)
    cli.run("put", "picked", source, "--tensor", "wte")
    back = np.load(io.BytesIO(cli.run("get", "picked").stdout))
    np.testing.assert_array_equal(back, arrays["wte"])
    assert "7 tensors" in cli.error(2, "put", "picked", source)
    cli.error(3, "put", "picked", source, "--tensor", "missing")
