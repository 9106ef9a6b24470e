"""State dicts in and out of the store: every shape they have, tied tensors, by view, in place, onto another dtype."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import penstock

PREFIX = "ckpt/model"


@pytest.fixture(autouse=True)
def no_snapshots_left(store: penstock.Store) -> Any:
    yield
    for number in store.snapshots(PREFIX):
        store.remove_snapshot(PREFIX, number)


def round_trip(store: penstock.Store, state_dict: Any, **options: Any) -> Any:
    store.put_state_dict(PREFIX, state_dict)
    return store.get_state_dict(PREFIX, **options)


def test_nested_dicts_lists_and_scalars_come_back_as_they_were(store: penstock.Store) -> None:
    state = {
        "model": OrderedDict([("b", torch.arange(6).reshape(2, 3)), ("a", torch.ones(3))]),
        "optimizer": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(4)}, 1: {}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0, 1]}]},
        "epoch": 3,
        "name": "näme",
        "best": float("-inf"),
        "nan": float("nan"),
        "none": None,
        "flag": True,
        "bytes": b"\x00\xff",
        "complex": 1 - 2j,
        "set": {1, 2},
        "frozen": frozenset({"x"}),
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "big": 1 << 80,
        "empty": [],
    }
    loaded = round_trip(store, state)
    assert list(loaded) == list(state)
    assert isinstance(loaded["model"], OrderedDict) and list(loaded["model"]) == ["b", "a"]
    assert torch.equal(loaded["model"]["b"], state["model"]["b"])
    assert loaded["optimizer"]["state"][0]["step"].item() == 7.0 and loaded["optimizer"]["state"][1] == {}
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert isinstance(loaded["optimizer"]["param_groups"][0]["betas"], tuple)
    assert np.isnan(loaded.pop("nan"))
    plain = [key for key in loaded if key not in ("model", "optimizer")]
    assert {key: loaded[key] for key in plain} == {key: state[key] for key in plain}
    assert type(loaded["size"]) is torch.Size and type(loaded["flag"]) is bool


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
     "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"],
)  # fmt: skip
def test_every_torch_dtype_comes_back_bit_by_bit(store: penstock.Store, dtype: str) -> None:
    bits = torch.arange(64, dtype=torch.uint8)
    tensor = bits.remainder(2).bool() if dtype == "bool" else bits.view(getattr(torch, dtype)).clone()
    loaded = round_trip(store, {"t": tensor})["t"]
    assert loaded.dtype == tensor.dtype and bytes(loaded.view(torch.uint8).numpy()) == bytes(tensor.view(torch.uint8).numpy())


def test_numpy_arrays_come_back_as_numpy_with_ml_dtypes(store: penstock.Store) -> None:
    array = np.arange(8).astype(ml_dtypes.bfloat16)
    loaded = round_trip(store, {"a": array, "b": np.float32(2.5)})
    assert isinstance(loaded["a"], np.ndarray) and loaded["a"].dtype == array.dtype and (loaded["a"] == array).all()
    assert loaded["b"].shape == () and loaded["b"] == np.float32(2.5)


def test_tied_tensors_are_stored_once_and_tied_again(store: penstock.Store) -> None:
    weight = torch.randn(1000, 1000)
    state = {"embed": weight, "head": weight.detach(), "other": weight.clone(), "half": weight[:500]}
    info = store.put_state_dict(PREFIX, state)
    assert info.tensors == 3 and info.nbytes == 4_000_000 * 2 + 2_000_000
    loaded = store.get_state_dict(PREFIX)
    assert loaded["embed"] is loaded["head"] and loaded["embed"] is not loaded["other"]
    assert torch.equal(loaded["half"], weight[:500])


def test_strided_tensors_are_gathered(store: penstock.Store) -> None:
    base = torch.arange(600_000.0).reshape(600, 1000)
    loaded = round_trip(store, {"t": base.t(), "step": base[::2, ::3], "expanded": torch.ones(1).expand(5)})
    assert torch.equal(loaded["t"], base.t()) and torch.equal(loaded["step"], base[::2, ::3]) and loaded["expanded"].sum() == 5


def test_loading_by_view_copies_nothing(store: penstock.Store) -> None:
    store.put_state_dict(PREFIX, {"w": np.zeros((512, 1024), dtype=np.float32)})
    first, second = store.get_state_dict(PREFIX)["w"], store.get_state_dict(PREFIX)["w"]
    assert first.ctypes.data == second.ctypes.data and not first.flags.writeable
    view = store.get_state_dict(PREFIX, framework="view")["w"]
    assert isinstance(view, penstock.TensorView) and view.path == "map" and view.ptr == first.ctypes.data


def test_into_fills_the_tensors_of_a_model_in_place(store: penstock.Store) -> None:
    source, target = torch.nn.Linear(30, 20), torch.nn.Linear(30, 20)
    store.put_state_dict(PREFIX, source.state_dict())
    pointer = target.weight.data_ptr()
    into = target.state_dict()
    assert store.get_state_dict(PREFIX, into=into) is into
    assert target.weight.data_ptr() == pointer and torch.equal(target.weight, source.weight) and torch.equal(target.bias, source.bias)


def test_into_another_dtype_converts(store: penstock.Store) -> None:
    source = torch.nn.Linear(8, 4)
    target = torch.nn.Linear(8, 4, dtype=torch.bfloat16)
    store.put_state_dict(PREFIX, source.state_dict())
    store.get_state_dict(PREFIX, into=target.state_dict())
    assert torch.equal(target.weight, source.weight.to(torch.bfloat16))
    array = {"weight": np.zeros((4, 8), dtype=np.float64), "bias": np.zeros(4, dtype=np.float32)}
    store.get_state_dict(PREFIX, into=array)
    assert (array["weight"] == source.weight.detach().double().numpy()).all()


def test_into_strided_memory(store: penstock.Store) -> None:
    store.put_state_dict(PREFIX, {"w": torch.arange(12.0, dtype=torch.bfloat16).reshape(3, 4)})
    memory = torch.zeros(4, 6, dtype=torch.bfloat16)
    into = {"w": memory.t()[:3, :]}
    store.get_state_dict(PREFIX, into=into)
    assert torch.equal(into["w"], torch.arange(12.0, dtype=torch.bfloat16).reshape(3, 4)) and memory[:, 3:].sum() == 0


def test_into_gives_back_what_is_no_tensor(store: penstock.Store) -> None:
    store.put_state_dict(PREFIX, {"w": torch.ones(2), "step": 9, "groups": [{"lr": 0.1}, {"lr": 0.2}]})
    into = {"w": torch.zeros(2), "step": 0, "groups": [{"lr": 0.0}, {"lr": 0.0}]}
    store.get_state_dict(PREFIX, into=into)
    assert into["step"] == 9 and into["groups"] == [{"lr": 0.1}, {"lr": 0.2}] and into["w"].sum() == 2


@pytest.mark.parametrize(
    ("into", "text"),
    [
        ({"a": torch.zeros(3), "b": torch.zeros(2)}, "a: stored with shape \\(2,\\), into has \\(3,\\)"),
        ({"a": torch.zeros(2)}, "stored, but not in into: 'b'"),
        ({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, "not stored: 'c'"),
        ({"a": torch.zeros(2), "b": 5}, "b: a tensor is stored, but into has a int"),
        ({"a": torch.zeros(2), "b": {"x": torch.zeros(2)}}, "b: a tensor is stored, but into has a dict"),
        ([torch.zeros(2)], "into has 1 entries, stored are none"),
    ],
)
def test_what_does_not_fit_is_told_and_changes_nothing(store: penstock.Store, into: Any, text: str) -> None:
    store.put_state_dict(PREFIX, {"a": torch.ones(2), "b": torch.ones(2)})
    with pytest.raises(penstock.InvalidArgumentError, match=f"^into: .*{text}"):
        store.get_state_dict(PREFIX, into=into)
    tensors = [value for value in (into.values() if isinstance(into, dict) else into) if isinstance(value, torch.Tensor)]
    assert all(tensor.sum() == 0 for tensor in tensors)


def test_what_is_no_tensor_is_not_changed_either_when_something_does_not_fit(store: penstock.Store) -> None:
    store.put_state_dict(PREFIX, {"step": 9, "groups": [{"lr": 0.1}], "w": torch.ones(2)})
    into = {"step": 0, "groups": [{"lr": 0.0}], "w": torch.zeros(3)}
    with pytest.raises(penstock.InvalidArgumentError):
        store.get_state_dict(PREFIX, into=into)
    assert into["step"] == 0 and into["groups"] == [{"lr": 0.0}]


def test_not_strict_passes_over_what_only_one_side_has(store: penstock.Store) -> None:
    store.put_state_dict(PREFIX, {"a": torch.ones(2), "b": torch.ones(2)})
    into = {"a": torch.zeros(2), "c": torch.zeros(2)}
    store.get_state_dict(PREFIX, into=into, strict=False)
    assert into["a"].sum() == 2 and into["c"].sum() == 0


def test_dtype_converts_floating_point_alone(store: penstock.Store) -> None:
    store.put_state_dict(PREFIX, {"w": torch.ones(3), "ids": torch.arange(3), "n": np.ones(2, dtype=np.float64)})
    loaded = store.get_state_dict(PREFIX, dtype=torch.bfloat16)
    assert loaded["w"].dtype == torch.bfloat16 and loaded["ids"].dtype == torch.int64 and loaded["n"].dtype == ml_dtypes.bfloat16


def test_an_entry_without_a_form_is_refused_and_nothing_is_stored(store: penstock.Store) -> None:
    class Odd:
        pass

    with pytest.raises(TypeError, match=r"^state_dict: entry 'a\.b' is a .*Odd, which has no form without pickle"):
        store.put_state_dict(PREFIX, {"w": torch.ones(3), "a": {"b": Odd()}})
    assert store.snapshots(PREFIX) == []
    with pytest.raises(penstock.InvalidArgumentError, match="meta"):
        store.put_state_dict(PREFIX, {"w": torch.ones(3, device="meta")})
    assert store.snapshots(PREFIX) == []


def test_keys_that_look_alike_stay_apart(store: penstock.Store) -> None:
    state = {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1), "": torch.full((1,), 2.0), "#2": torch.full((1,), 3.0)}
    loaded = round_trip(store, state)
    assert loaded["a"]["b"].item() == 1 and loaded["a.b"].item() == 0 and loaded[""].item() == 2 and loaded["#2"].item() == 3


def test_several_state_dicts_in_one_snapshot(store: penstock.Store) -> None:
    with store.snapshot(PREFIX) as snap:
        snap.put_state_dict({"w": torch.ones(2)}, name="model")
        snap.put_state_dict({"w": torch.zeros(2)}, name="ema")
        with pytest.raises(penstock.InvalidArgumentError, match="^name: "):
            snap.put_state_dict({}, name="ema")
    assert store.get_state_dict(PREFIX, name="model")["w"].sum() == 2
    assert store.get_state_dict(PREFIX)["ema"]["w"].sum() == 0
    with pytest.raises(penstock.NotFoundError, match="^name: .*'opt'"):
        store.get_state_dict(PREFIX, name="opt")


def test_plain_tensors_and_shards_make_a_flat_state_dict(store: penstock.Store) -> None:
    whole = np.arange(40, dtype=np.int64).reshape(8, 5)
    with store.snapshot(PREFIX) as snap:
        snap.put("a", np.ones(3))
        snap.put_shard("w", whole[:3], global_shape=(8, 5), offset=(0, 0))
        snap.put_shard("w", whole[3:, :2], global_shape=(8, 5), offset=(3, 0))
        snap.put_shard("w", whole[3:, 2:], global_shape=(8, 5), offset=(3, 2))
    loaded = store.get_state_dict(PREFIX)
    assert (loaded["w"] == whole).all() and loaded["a"].sum() == 3


@pytest.mark.parametrize(
    ("offset", "shape", "text"),
    [((0, 0), (3, 5), "15 of 40 elements"), ((2, 0), (6, 5), None), ((9, 0), (1, 5), "w.*box|offset|outside"), ((0,), (3, 5), "rank|dimension")],
)
def test_shards_that_do_not_make_a_whole_are_refused(store: penstock.Store, offset: tuple[int, ...], shape: tuple[int, int], text: str | None) -> None:
    with pytest.raises(penstock.InvalidArgumentError, match=text), store.snapshot(PREFIX) as snap:
        snap.put_shard("w", np.zeros(shape), global_shape=(8, 5), offset=offset)
        if text is None:
            snap.put_shard("w", np.zeros((3, 5)), global_shape=(8, 5), offset=(0, 0))  # they overlap
    assert store.snapshots(PREFIX) == []


def test_a_model_of_no_tensors_and_tensors_of_no_elements(store: penstock.Store) -> None:
    assert round_trip(store, {}) == {}
    loaded = round_trip(store, {"none": torch.zeros(0, 3), "scalar": torch.tensor(4)})
    assert loaded["none"].shape == (0, 3) and loaded["scalar"].item() == 4
