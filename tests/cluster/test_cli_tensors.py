"""put, get, stat, ls, rm, cp of the command line, against NumPy."""

from __future__ import annotations

import io
import os
import pty
import subprocess
from pathlib import Path

import numpy as np
import pytest

from support.daemon import BUILD, DEADLINE_S, Cli

TENSOR_FIELDS = [
    "name", "version", "term", "dtype", "shape", "nbytes", "created", "keep", "soft_pin", "spilled", "expires", "replicas", "nodes",
    "metadata", "immutable", "crc32c",
]


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def put(cli: Cli, name: str, array: np.ndarray, *flags: object) -> dict:
    return cli.json("put", name, "-", *flags, stdin=npy(array))


def get(cli: Cli, name: str, *flags: object) -> np.ndarray:
    return np.load(io.BytesIO(cli.run("get", name, *flags).stdout))


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_every_numpy_dtype_comes_back_equal(cli: Cli, dtype: str) -> None:
    array = (np.arange(24) % (2 if dtype == "?" else 24)).astype(dtype).reshape(2, 3, 4)
    put(cli, "a/b", array)
    back = get(cli, "a/b")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (300_000,)])
def test_every_kind_of_shape_comes_back_equal(cli: Cli, shape: tuple) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)
    put(cli, "x", array)
    back = get(cli, "x")
    assert back.shape == shape
    np.testing.assert_array_equal(back, array)


def test_put_takes_files_and_fortran_order(cli: Cli, tmp_path) -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.save(tmp_path / "f.npy", array)
    info = cli.json("put", "f", tmp_path / "f.npy")
    assert info["shape"] == [3, 4] and info["dtype"] == "f64"
    np.testing.assert_array_equal(get(cli, "f"), array)


def test_put_reads_raw_elements_of_a_pipe(cli: Cli) -> None:
    array = np.arange(2_000_000, dtype=np.uint8)  # above the staging limit
    info = cli.json("put", "raw", "-", "--dtype", "u8", "--shape", "1000,2000", stdin=array.tobytes())
    assert info["nbytes"] == 2_000_000
    np.testing.assert_array_equal(get(cli, "raw"), array.reshape(1000, 2000))
    assert cli.run("get", "raw", "--raw").stdout == array.tobytes()


def test_raw_input_of_another_size_is_refused_and_stores_nothing(cli: Cli) -> None:
    assert "8 bytes" in cli.error(2, "put", "r", "-", "--dtype", "f32", "--shape", "3", stdin=bytes(8))
    assert "more than the 12 bytes" in cli.error(
        2, "put", "r", "-", "--dtype", "f32", "--shape", "3", stdin=bytes(16))
    assert "--dtype and --shape" in cli.error(2, "put", "r", "-", "--dtype", "f32", stdin=bytes(16))
    assert "no .npy" in cli.error(2, "put", "r", "-", stdin=b"hello")
    assert cli.text("ls") == ""
    assert cli.json("df")["drafts"] == 0


def test_get_writes_a_file_that_numpy_reads(cli: Cli, tmp_path) -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    put(cli, "x", array)
    assert str(tmp_path / "x.npy") in cli.text("get", "x", "-o", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)
    assert cli.json("get", "x", "-o", tmp_path / "y.npy")["file"] == str(tmp_path / "y.npy")
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]  # no partial file is left


@pytest.mark.parametrize(
    "box, index",
    [
        ("0:2", np.s_[0:2]), (":,1", np.s_[:, 1]), ("-1", np.s_[-1]), ("1:3,...,0", np.s_[1:3, ..., 0]),
        ("0,0,0", np.s_[0, 0, 0]), ("2:2", np.s_[2:2]), (":,-3:,1:2", np.s_[:, -3:, 1:2]), ("0:100", np.s_[0:100]),
    ],
)
def test_box_means_what_numpy_means(cli: Cli, box: str, index) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    put(cli, "x", array)
    want = np.asarray(array[index])
    back = get(cli, "x", "--box", box)
    assert back.shape == want.shape
    np.testing.assert_array_equal(back, want)
    assert cli.json("get", "x", "--box", box, "--values", "200")["values"] == want.ravel().tolist()


def test_box_out_of_range_names_the_dimension(cli: Cli) -> None:
    put(cli, "x", np.zeros((2, 3)))
    assert "dimension" in cli.error(2, "get", "x", "--box", "5")
    cli.error(2, "get", "x", "--box", "::2")
    cli.error(2, "get", "x", "--box", "0,0,0")


def test_get_shows_values_to_people_and_programs(cli: Cli) -> None:
    put(cli, "x", np.array([[1.5, -2.0], [np.nan, np.inf]], dtype=np.float32))
    text = cli.text("get", "x", "--output", "table")
    assert "[[1.5, -2],\n [nan, inf]]" in text and "f32 (2, 2)" in text
    shown = cli.json("get", "x")
    assert shown["values"] == [1.5, -2.0, "nan", "inf"] and shown["truncated"] is False
    put(cli, "long", np.arange(1000))
    assert "[0, 1, 2, ..., 997, 998, 999]" in cli.text("get", "long", "--output", "table")
    assert cli.json("get", "long", "--values", "3")["values"] == [0, 1, 2]
    assert cli.json("get", "long", "--values", "3")["truncated"] is True


def test_small_floats_are_decoded(cli: Cli) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name, dtype in {
        "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "f8_e5m2": ml_dtypes.float8_e5m2, "f8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "f8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "f8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    }.items():
        bits = np.arange(256, dtype=np.uint8) if name.startswith("f8") else np.arange(0, 65536, 7, dtype=np.uint16)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            want = bits.view(dtype).astype(np.float32)
        cli.run("put", name, "-", "--dtype", name, "--shape", len(bits), stdin=bits.tobytes())
        shown = [float(v) for v in cli.json("get", name, "--values", len(bits))["values"]]
        # Shortest decimals of float32: equal once they are rounded to it again.
        np.testing.assert_array_equal(np.float32(shown), want, err_msg=name)


def test_versions_conditions_metadata_and_lifetime(cli: Cli) -> None:
    one = np.zeros(1)
    first = put(cli, "x", one)["version"]
    assert put(cli, "x", one)["version"] == first + 1
    later = first + 8
    info = put(cli, "x", one, "-m", "step=7", "-m", "who=me", "--cache", "--ttl", "10m", "--version", later)
    assert info["version"] == later and info["metadata"] == {"step": "7", "who": "me"}
    assert info["keep"] is False and info["expires"] is not None
    cli.error(8, "put", "x", "-", "--if-absent", stdin=npy(one))
    cli.error(8, "put", "x", "-", "--if-version", first, stdin=npy(one))
    assert put(cli, "x", one, "--if-version", later)["version"] == later + 1
    cli.error(3, "get", "x", "--version", first)
    assert put(cli, "new", one, "--if-version", "0", "--if-absent")["version"] >= 1
    cli.error(2, "put", "x", "-", "--keep", "--cache", stdin=npy(one))
    cli.error(2, "put", "x", "-", "-m", "novalue", stdin=npy(one))


def test_stat_tells_all_and_goes_on_after_a_missing_name(cli: Cli) -> None:
    put(cli, "a", np.zeros((2, 3), np.float32), "-m", "k=v")
    (info,) = cli.json("stat", "a")
    assert list(info) == TENSOR_FIELDS
    assert (info["name"], info["dtype"], info["shape"], info["nbytes"]) == ("a", "f32", [2, 3], 24)
    assert info["metadata"] == {"k": "v"} and info["immutable"] in ("kernel", "writer")
    result = cli.run("stat", "missing", "a", code=3)
    assert b"missing" in result.stderr and b"(2, 3)" in result.stdout
    assert b"k = v" in result.stdout


def test_ls_lists_by_prefix(cli: Cli) -> None:
    for name in ("b/2", "a", "b/1", "bb"):
        put(cli, name, np.zeros(2))
    assert cli.text("ls") == "a\nb/1\nb/2\nbb\n"
    assert cli.text("ls", "b/") == "b/1\nb/2\n"
    assert cli.text("ls", "--after", "b/1", "--limit", "1") == "b/2\n"
    assert cli.text("ls", "nothing") == ""
    assert cli.json("ls", "nothing") == []
    rows = cli.json("ls", "b")
    assert [row["name"] for row in rows] == ["b/1", "b/2", "bb"] and list(rows[0]) == TENSOR_FIELDS
    long = cli.text("ls", "-l", "b/").splitlines()
    assert long[0].split() == ["NAME", "VERSION", "DTYPE", "SHAPE", "SIZE", "AGE", "CLASS"]
    assert long[1].split()[0] == "b/1" and long[1].split()[2:5] == ["f64", "(2,)", "16B"] and long[1].split()[-1] == "keep"


def test_ls_pages_through_20000_names(cli: Cli, tmp_path) -> None:
    names = [f"n/{i:05}" for i in range(20_000)]
    np.savez(tmp_path / "many.npz", **{name: np.uint8(1) for name in names})
    assert cli.json("import", tmp_path / "many.npz")["tensors"] == 20_000
    assert cli.text("ls", "n/").splitlines() == names
    assert len(cli.json("ls")) == 20_000
    assert len(cli.text("ls", "-l", "--limit", "2500").splitlines()) == 2501
    # The reader of a pipe goes away early: no noise, no hanging process.
    with cli.popen("ls", "-l") as process:
        assert process.stdout.readline().startswith(b"NAME")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=DEADLINE_S) != 0


def test_rm(cli: Cli) -> None:
    for name in ("m", "m/1", "m/2/3", "m2", "other"):
        put(cli, name, np.zeros(1))
    cli.run("rm", "other")
    cli.error(3, "rm", "other")
    cli.run("rm", "-f", "other")
    assert cli.json("rm", "-r", "m") == {"deleted": 3}
    assert cli.text("ls") == "m2\n"
    cli.error(3, "rm", "-r", "m")
    cli.error(2, "rm", "-r", "")
    cli.error(2, "rm")
    cli.error(2, "rm", "--all", "m2")
    assert cli.json("rm", "--all") == {"deleted": 1}


def test_cp_keeps_what_belongs_to_the_tensor(cli: Cli) -> None:
    put(cli, "a/x", np.arange(3), "-m", "k=v", "--cache")
    put(cli, "a/y", np.arange(4))
    (copy,) = cli.json("cp", "a/x", "b")
    assert copy["metadata"] == {"k": "v"} and copy["keep"] is False
    np.testing.assert_array_equal(get(cli, "b"), np.arange(3))
    assert [c["name"] for c in cli.json("cp", "-r", "a", "c")] == ["c/x", "c/y"]
    cli.error(3, "cp", "missing", "z")
    cli.error(3, "cp", "-r", "missing", "z")
    cli.error(8, "cp", "--if-absent", "a/x", "b")
    cli.error(2, "cp", "-r", "a", "a/b")


def test_bad_names_are_usage_errors(cli: Cli) -> None:
    for name in ("", "a//b", "/a", "a/", "..", ".penstock/x", "x" * 600, "a\x01"):
        cli.error(2, "put", name, "-", stdin=npy(np.zeros(1)))
    for name in ("a//b", "x" * 600):
        cli.error(2, "get", name)
        cli.error(2, "stat", name)
    assert cli.text("ls") == ""


def test_a_full_store_says_so_and_stays_usable(cli: Cli) -> None:
    put(cli, "small", np.arange(4))
    message = cli.error(5, "put", "big", "-", "--dtype", "u8", "--shape", 1 << 30, stdin=b"")
    assert "full" in message and "1GiB" in message and "256MiB" in message
    np.testing.assert_array_equal(get(cli, "small"), np.arange(4))
    assert cli.json("df")["drafts"] == 0


def on_a_terminal(cli: Cli, *words: object, env: dict[str, str] | None = None) -> str:
    """What the call writes when standard output is a terminal."""
    main, side = pty.openpty()
    try:
        process_env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
        process_env |= {"PENSTOCK_ADDRESS": str(cli.address), "TERM": "xterm"} | (env or {})
        process = subprocess.Popen(
            [str(BUILD / "bin" / "penstock"), *map(str, words)], stdout=side, stderr=side,
            stdin=subprocess.DEVNULL, env=process_env,
        )
        os.close(side)
        side = -1
        text = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # the other side was closed
                break
            if not piece:
                break
            text += piece
        assert process.wait(timeout=DEADLINE_S) == 0
        return text.decode()
    finally:
        os.close(main)
        if side != -1:
            os.close(side)


def test_colours_only_on_terminals_and_without_no_color(cli: Cli) -> None:
    put(cli, "x", np.arange(3))
    assert "\x1b[" in on_a_terminal(cli, "ls", "-l")
    assert "\x1b[" not in on_a_terminal(cli, "ls", "-l", env={"NO_COLOR": "1"})
    assert "\x1b[" not in on_a_terminal(cli, "ls", "-l", env={"TERM": "dumb"})
    assert "\x1b[" not in cli.text("ls", "-l")
    # On a terminal get shows text instead of spilling binary.
    assert "[0, 1, 2]" in on_a_terminal(cli, "get", "x")


def test_long_work_shows_a_bar_on_terminals(cli: Cli, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(1 << 20))
    shown = on_a_terminal(cli, "import", tmp_path / "x.npy")
    assert "importing  [########################] 8MiB of 8MiB" in shown and "1 tensor, 8MiB" in shown
    assert cli.run("import", tmp_path / "x.npy").stderr == b""


def test_large_tensors_show_how_far_they_are(cli: Cli, tmp_path: Path) -> None:
    shape = ("--dtype", "u8", "--shape", str(80 << 20))
    assert "putting  [" in on_a_terminal(cli, "put", "large", "/dev/zero", *shape)
    assert "writing  [" in on_a_terminal(cli, "get", "large", "-o", tmp_path / "large.npy")
    array = np.load(tmp_path / "large.npy")
    assert array.shape == (80 << 20,) and not array.any()
    assert "putting  [" in on_a_terminal(cli, "put", "again", tmp_path / "large.npy")
    assert cli.json("stat", "again")[0]["nbytes"] == 80 << 20
    assert "[" not in on_a_terminal(cli, "put", "small", "/dev/zero", "--dtype", "u8", "--shape", "100").replace("\x1b[", "").replace("[100]", "")
    for name in ("large", "again", "small"):
        cli.run("rm", name)
