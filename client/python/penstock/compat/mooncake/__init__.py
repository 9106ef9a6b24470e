"""Mooncake's store client (kvcache-ai/Mooncake, mooncake.store) on Penstock.

    from penstock.compat.mooncake import MooncakeDistributedStore, ReplicateConfig

    store = MooncakeDistributedStore()
    store.setup("localhost", "P2PHANDSHAKE", 512 << 20, 128 << 20, "tcp", "", "localhost:50051")   # 0
    store.put("key", b"value"), store.get("key")

`setup` connects to $PENSTOCK_ADDRESS, else to `master_server_addr`, else to the store of this host; where the
variable is set, programs run unchanged. Keys are the tensors ``mooncake/<tenant_id>/<key>`` of that store:
bytes as u8, tensors as tensors. Calls return the original's codes, and the log of this package says why.

What differs from the original:
- Objects belong to the nodes of the store, so they outlive `close` and the client. There are no leases: an
  object that is removed, or evicted, stays readable for who has its buffer.
- Tensors have no header: `get` and `get_size` of one mean its elements. Calls that lay headers into buffers
  (`get_tensor_into`, `put_tensor_from`), segments, tasks and replica descriptors do not exist.
- `get_buffer` shows the store's own memory, read-only. Buffers are host memory.
"""

from penstock.compat.mooncake.codes import ErrorCode
from penstock.compat.mooncake.config import ReplicateConfig, SoftPinAction
from penstock.compat.mooncake.memory import BufferHandle
from penstock.compat.mooncake.store import MooncakeDistributedStore

__all__ = [
    "BufferHandle",
    "ErrorCode",
    "MooncakeDistributedStore",
    "ReplicateConfig",
    "SoftPinAction",
]
