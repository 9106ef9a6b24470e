"""TorchStore's API (meta-pytorch/torchstore) on Penstock.

    import penstock.compat.torchstore as ts      # instead of: import torchstore as ts

    await ts.initialize()
    await ts.put("weights", tensor)
    await ts.get("weights", inplace_tensor=parameter)
    await ts.put_state_dict(model.state_dict(), "v0")

The keys of a store are the tensors ``torchstore/<store_name>/<key>`` of the Penstock store at
$PENSTOCK_ADDRESS, or of this host; `initialize` starts one if there is none. Every process that is given the
address shares them.

What differs from the original:
- Objects that are no tensors are stored without pickle, as far as they are of plain types: `allow_pickle`.
- A DTensor is visible, whole, once each process has put its part; until then the next put of the same part
  is a ConflictError, and a process that ends takes its part with it. Of replicas, the first one's is stored.
- What is put stays until it is deleted, or `shutdown`, also when the program has ended.
- Strategies, volumes, meshes and transports are accepted and change nothing. Routing is refused.
"""

from penstock.compat.torchstore import spmd
from penstock.compat.torchstore.api import (
    client,
    delete,
    delete_batch,
    exists,
    get,
    get_batch,
    get_state_dict,
    initialize,
    initialize_spmd,
    keys,
    put,
    put_batch,
    put_state_dict,
    reset_client,
    shutdown,
)
from penstock.compat.torchstore.client import LocalClient
from penstock.compat.torchstore.logging import init_logging
from penstock.compat.torchstore.objects import allow_pickle
from penstock.compat.torchstore.state_dicts import StateDictMismatchError
from penstock.compat.torchstore.strategy import (
    ControllerStorageVolumes,
    HostStrategy,
    LocalRankStrategy,
    SingletonStrategy,
    TorchStoreStrategy,
)
from penstock.compat.torchstore.transport import TensorSlice, TransportType

__all__ = [
    "ControllerStorageVolumes",
    "HostStrategy",
    "LocalClient",
    "LocalRankStrategy",
    "SingletonStrategy",
    "StateDictMismatchError",
    "TensorSlice",
    "TorchStoreStrategy",
    "TransportType",
    "allow_pickle",
    "client",
    "delete",
    "delete_batch",
    "exists",
    "get",
    "get_batch",
    "get_state_dict",
    "init_logging",
    "initialize",
    "initialize_spmd",
    "keys",
    "put",
    "put_batch",
    "put_state_dict",
    "reset_client",
    "shutdown",
    "spmd",
]
