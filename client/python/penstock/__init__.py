"""Penstock: a tensor store that processes use in place.

    import penstock
    store = penstock.connect()              # the node of this host; penstock.start_local() runs a private one
    store.put("model/wte", weights)         # NumPy, torch, anything with DLPack or a buffer: one copy
    view = store.get("model/wte")           # in any process of the host: no copy, no call, the store's own memory
    view.numpy(), view.torch(), np.asarray(view), memoryview(view)

Views are read-only and never change, whatever is put, deleted or evicted. Shapes are elements per dimension,
sizes bytes, times seconds. Errors are classes of ``penstock.errors``; each is also the builtin one would expect
(NotFoundError is a KeyError). ``help(penstock.Store)`` lists the calls; ``store.aio`` has them awaitable.

Modules beside this one:
    penstock.torch           state dicts, and storage for torch.distributed.checkpoint
    penstock.safetensors     load_file, save_file, safe_open: files that are read once a host
    penstock.interop         NumPy, torch, Arrow and DLPack over one memory, or why not
    penstock.tensor_ipc      arrays by name between processes, read-only or under a lock
    penstock.lmcache, penstock.sglang, penstock.vllm   KV caches and weights of inference engines (penstock.kv_cache)
    penstock.compat          programs for TorchStore and Mooncake run by changing one import
    penstock.profile_copies  which operations of a program copied: python -m penstock.profile_copies SCRIPT
    penstock.aio             the classes behind store.aio
    penstock.errors          every exception
"""

from typing import TYPE_CHECKING, Any

from penstock._core import (
    ChannelReader,
    ChannelSlot,
    ChannelStep,
    ChannelWriter,
    Draft,
    Region,
    RegionHold,
    RegionState,
    RegisteredMemory,
    TensorInfo,
    TensorView,
)
from penstock._version import __version__
from penstock.box import Box
from penstock.errors import (
    AlreadyExistsError,
    ConflictError,
    DataLossError,
    DeadlineError,
    Error,
    InvalidArgumentError,
    NotFoundError,
    PartialError,
    PermissionDeniedError,
    StoreFullError,
    TransportError,
    UnavailableError,
)
from penstock.events import Event, Watch
from penstock.faults import enable_fault_messages
from penstock.store import Store, connect

if TYPE_CHECKING:
    from penstock.local import LocalNode, start_local
    from penstock.pipeline import Pipeline, Stage
    from penstock.snapshot import Snapshot, SnapshotInfo

__all__ = [
    "AlreadyExistsError",
    "Box",
    "ChannelReader",
    "ChannelSlot",
    "ChannelStep",
    "ChannelWriter",
    "ConflictError",
    "DataLossError",
    "DeadlineError",
    "Draft",
    "Error",
    "Event",
    "InvalidArgumentError",
    "LocalNode",
    "NotFoundError",
    "PartialError",
    "PermissionDeniedError",
    "Pipeline",
    "Region",
    "RegionHold",
    "RegionState",
    "RegisteredMemory",
    "Snapshot",
    "SnapshotInfo",
    "Stage",
    "Store",
    "StoreFullError",
    "TensorInfo",
    "TensorView",
    "TransportError",
    "UnavailableError",
    "Watch",
    "__version__",
    "connect",
    "enable_fault_messages",
    "start_local",
]


_LATE = {  # what few programs need is imported when it is used
    "LocalNode": "local",
    "Pipeline": "pipeline",
    "Snapshot": "snapshot",
    "SnapshotInfo": "snapshot",
    "Stage": "pipeline",
    "start_local": "local",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"penstock.{_LATE[name]}"), name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
