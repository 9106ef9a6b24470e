"""State dicts that are staged into the store's memory: what ``dcp.async_save`` hands to its background thread or process.

``stage`` copies every tensor once, into the store, bound to this process and under no snapshot's name yet. The state dict that it gives
has torch tensors over that memory (copy-on-write, as ``TensorView.torch`` gives them), so planners can read them; who writes a snapshot
recognises them with ``find`` and only names them. It is pickled without their bytes: the other process maps the same memory.

Threads: any. Ownership: each staged tensor keeps its stage; when the last of them is gone, or this process, what no snapshot has taken is
deleted. Errors: those of ``store.put``, and what ``copy.deepcopy`` raises for entries that cannot be copied; then nothing stays.
"""

from __future__ import annotations

import copy
import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Iterator, Mapping
from weakref import ReferenceType, ref

import torch
from torch.distributed.tensor import DTensor

from penstock._torch_arrays import check_tensor, for_put
from penstock._tree import identity, join

if TYPE_CHECKING:
    from penstock._core import SnapshotStage, TensorView
    from penstock.store import Store

_BATCH = 256 << 20  # bytes that are put at once: so many of a device's lie on the host, too


class Staged:
    """One staged tensor: what a snapshot's writer needs to name it."""

    __slots__ = ("dtype", "name", "number", "owner", "shape", "stage", "taken", "version")

    def __init__(self, stage: str, number: int, name: str, owner: SnapshotStage | None, tensor: torch.Tensor) -> None:
        self.stage, self.number, self.name = stage, number, name
        self.owner = owner  # in the process that has staged it
        self.taken = False  # a snapshot's writer has named it: it cannot belong to a second snapshot
        self.dtype, self.shape, self.version = tensor.dtype, tensor.shape, tensor._version


_known: dict[int, tuple[ReferenceType[torch.Tensor], Staged]] = {}  # by the address of the tensor, which takes it out when it ends


def find(data: Any) -> Staged | None:
    """What `data` is of a stage: all of one tensor, not written to since, nor named by a snapshot's writer. None: something else."""
    if type(data) is not torch.Tensor or data.device.type != "cpu" or data.numel() == 0:
        return None
    _, staged = _known.get(data.data_ptr(), (None, None))
    if staged is None or staged.taken or staged.dtype != data.dtype or staged.shape != data.shape:
        return None
    return staged if data.is_contiguous() and data._version == staged.version else None


def stage(store: Store, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the state dict; its tensors lie in the store, or in this process's memory where the store could not tell that it has died."""
    tensors: dict[int, tuple[Any, str]] = {}
    for tensor, path in _tensors(state_dict, ""):
        check_tensor(_local(tensor), path)
        tensors[id(tensor)] = tensor, path
    distinct: dict[Any, tuple[torch.Tensor, str]] = {_identity(tensor): (_local(tensor), path) for tensor, path in tensors.values()}
    copies = dict(zip(distinct, _copies(store, list(distinct.values()))))
    memo: dict[int, Any] = {at: _like(tensor, copies[_identity(tensor)]) for at, (tensor, _) in tensors.items()}
    return StagedStateDict(store, copy.deepcopy(dict(state_dict), memo))


class StagedStateDict(dict[str, Any]):
    """A dict that is pickled without the bytes of its staged tensors, for processes on this host."""

    def __init__(self, store: Store, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._store = store

    def __reduce__(self) -> tuple[Any, ...]:
        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        pickler.dump(dict(self))
        return _load, (self._store, [(one.stage, one.number, one.name) for one in pickler.staged.values()], buffer.getvalue())


class _Pickler(ForkingPickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.staged: dict[str, Staged] = {}

    def persistent_id(self, obj: Any) -> str | None:
        staged = find(obj)
        if staged is None:
            return None
        self.staged[staged.name] = staged
        return staged.name


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: str) -> torch.Tensor:
        return self._tensors[pid]


def _load(store: Store, staged: list[tuple[str, int, str]], payload: bytes) -> StagedStateDict:
    views = store.get_many([name for _, _, name in staged])
    tensors = {name: _over(views[name], stage, number, None) for stage, number, name in staged}  # type: ignore[arg-type]
    return StagedStateDict(store, _Unpickler(io.BytesIO(payload), tensors).load())


def _tensors(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Those that DCP finds, each with a path for errors; subclasses other than DTensor are left to deepcopy."""
    if isinstance(value, torch.Tensor):
        if type(_local(value)) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
            yield value, path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, join(path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, join(path, i))


def _local(tensor: Any) -> torch.Tensor:
    local: torch.Tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return local


def _identity(tensor: Any) -> Any:
    """Equal for tied tensors, which are copied once."""
    local = _local(tensor)
    return identity(local, "torch") or id(local)


def _copies(store: Store, tensors: list[tuple[torch.Tensor, str]]) -> list[torch.Tensor]:
    owner = store._open_stage()
    with torch.no_grad(), torch.inference_mode(False):
        if owner is None:
            return [tensor.detach().to("cpu", copy=True) for tensor, _ in tensors]
        filled = [(at, one) for at, one in enumerate(tensors) if one[0].numel() > 0]
        made = [torch.empty_like(tensor, device="cpu") if tensor.numel() == 0 else tensor for tensor, _ in tensors]
        _put(owner, [one for _, one in filled])
        names = [owner.name(number) for number in range(len(filled))]
        views = store.get_many(names)
        for number, (at, _) in enumerate(filled):
            made[at] = _over(views[names[number]], owner.id, number, owner)  # type: ignore[arg-type]
        return made


def _put(owner: SnapshotStage, tensors: list[tuple[torch.Tensor, str]]) -> None:
    """Numbered from 0, in this order."""
    batch: list[torch.Tensor] = []
    nbytes = 0
    for tensor, path in tensors:
        batch.append(for_put(tensor, path))
        nbytes += tensor.nbytes
        if nbytes >= _BATCH:
            owner.put_many(batch)
            batch, nbytes = [], 0
    if batch:
        owner.put_many(batch)


def _over(view: TensorView, stage: str, number: int, owner: SnapshotStage | None) -> torch.Tensor:
    with torch.inference_mode(False):
        tensor: torch.Tensor = view.torch()
    _keep(tensor, Staged(stage, number, view.name, owner, tensor))
    return tensor


def _keep(tensor: torch.Tensor, staged: Staged) -> None:
    address = tensor.data_ptr()

    def forget(ended: ReferenceType[torch.Tensor]) -> None:
        if address in _known and _known[address][0] is ended:
            del _known[address]

    _known[address] = ref(tensor, forget), staged


def _like(tensor: Any, local: torch.Tensor) -> Any:
    """The copy in the place of `tensor`: itself, or a DTensor over it."""
    if not isinstance(tensor, DTensor):
        return local
    made = DTensor.from_local(local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
    if (staged := find(local)) is not None:
        _keep(made._local_tensor, staged)  # which is another object over the same memory
    return made
