"""Penstock: a tensor store that processes use in place.

    store = penstock.connect()                 # the node of this host
    store.put("model/wte", weights)            # NumPy, torch, anything with DLPack or a buffer
    view = store.get("model/wte")              # no copy, no call: the store's own memory
    view.numpy(), view.torch(), np.asarray(view), memoryview(view)

Views are read-only and never change. ``penstock.start_local()`` runs a private node for tests and
notebooks. ``penstock.interop`` shows arrays of one framework as another's, without a copy. Errors are
in ``penstock.errors``; each is also the builtin one would expect.
"""

from typing import Any

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
    "Region",
    "RegionHold",
    "RegionState",
    "RegisteredMemory",
    "Snapshot",
    "SnapshotInfo",
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


def __getattr__(name: str) -> Any:  # what few programs need is imported when it is used
    if name in ("LocalNode", "start_local"):
        from penstock import local

        return getattr(local, name)
    if name in ("Snapshot", "SnapshotInfo"):
        from penstock import snapshot

        return getattr(snapshot, name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
