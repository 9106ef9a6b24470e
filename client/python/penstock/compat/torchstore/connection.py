"""The one Penstock store of a process, for all stores of TorchStore that it uses.

Threading: any thread. A forked child opens a session of its own.
"""

from __future__ import annotations

import logging
import os
import threading

from penstock.errors import UnavailableError
from penstock.local import LocalNode, start_local
from penstock.store import Store, connect

__all__ = ["close", "store", "store_or_node"]

logger = logging.getLogger(__name__)

_ADDRESS = "PENSTOCK_ADDRESS"
_MEMORY = "50%"

_lock = threading.Lock()
_store: Store | None = None
_node: LocalNode | None = None
_node_owner = 0  # the process that started it


def store() -> Store:
    """The store of $PENSTOCK_ADDRESS, or of this host. Raises UnavailableError."""
    global _store
    found = _store
    if found is not None and not found.closed:
        return found
    with _lock:
        if _store is None or _store.closed:
            _store = connect(label="torchstore")
        return _store


def store_or_node() -> Store:
    """The same; if nothing serves here and no address was given, of a node that ends with this process.

    Its address is put into $PENSTOCK_ADDRESS, so that processes started from now on find it.
    """
    global _node, _node_owner
    try:
        return store()
    except UnavailableError:
        if os.environ.get(_ADDRESS):
            raise
    with _lock:
        if _node is None:
            _node = start_local(_MEMORY)
            _node_owner = os.getpid()
            os.environ[_ADDRESS] = _node.address
            logger.warning(
                "no penstockd serves this host: started one for this program, at %s, with %s of the memory",
                _node.address,
                _MEMORY,
            )
    return store()


def close() -> None:
    """Ends the session, and the node that was started here. Idempotent."""
    global _store, _node
    with _lock:
        if _store is not None:
            _store.close()
        _store = None
        if _node is not None and _node_owner == os.getpid():
            _node.close()
            os.environ.pop(_ADDRESS, None)
            _node = None


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # nobody holds it in the child


os.register_at_fork(after_in_child=_new_lock)
