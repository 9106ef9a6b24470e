"""A Mooncake client's connection to a Penstock store, and what all its calls are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock._core import TensorView
from penstock.compat.batches import put_all
from penstock.compat.mooncake.codes import ErrorCode, code_of, logger, mismatch, report, returns_code
from penstock.compat.mooncake.config import address_of, put_options
from penstock.compat.mooncake.memory import RegisteredBuffers
from penstock.compat.names import Namespace
from penstock.errors import AlreadyExistsError, ConflictError, Error, InvalidArgumentError, NotFoundError
from penstock.store import Store, connect

__all__ = ["BYTES", "KIND", "Session"]

KIND = "compat.kind"  # metadata: BYTES of what put() stored; tensors have none
BYTES = "bytes"


class Session:
    """From `setup` to `close`."""

    def __init__(self) -> None:
        self._open: Store | None = None
        self._names = Namespace("mooncake", "default")
        self._buffers = RegisteredBuffers()
        self._hostname = ""

    @returns_code
    def setup(
        self,
        local_hostname: str | dict[str, Any],
        metadata_server: str = "",
        global_segment_size: int = 16 << 20,
        local_buffer_size: int = 16 << 20,
        protocol: str = "tcp",
        rdma_devices: str = "",
        master_server_addr: str = "",
        engine: Any = None,
        enable_ssd_offload: bool = False,
        ssd_offload_path: str = "",
        tenant_id: str = "default",
        **options: Any,
    ) -> int:
        """Connects to the store of $PENSTOCK_ADDRESS, else of `master_server_addr`: 0, or a negative code.

        master_server_addr: a socket directory or ``host:port`` of a penstockd; empty = of this host.
        tenant_id: its keys are apart from those of others. local_hostname: what get_hostname() says. The
        first argument may be a dict of all. The rest changes nothing: the node has the memory, and finds the
        way of the bytes by itself.
        """
        if isinstance(local_hostname, dict):
            return self.setup(**{"local_hostname": "", **local_hostname})
        for name, text in (
            ("local_hostname", local_hostname),
            ("master_server_addr", master_server_addr),
            ("tenant_id", tenant_id),
        ):
            if not isinstance(text, str):
                raise TypeError(f"{name}: must be a str, not {type(text).__name__}")
        names = Namespace("mooncake", tenant_id)
        self.close()
        self._open = connect(address_of(master_server_addr), label="mooncake")
        self._names = names
        self._hostname = local_hostname
        return int(ErrorCode.OK)

    def setup_dummy(self, mem_pool_size: int, local_buffer_size: int, server_address: str) -> int:
        """As setup: every client maps the store's memory, so there is no lesser kind of client."""
        return self.setup("localhost", master_server_addr=server_address)

    def close(self) -> int:
        """Ends the session. Objects stay in the store; handles and tensors stay valid."""
        self._buffers.clear()
        if self._open is not None:
            self._open.close()
        self._open = None
        return int(ErrorCode.OK)

    def get_hostname(self) -> str:
        """What setup was told."""
        return self._hostname

    @returns_code
    def health_check(self) -> int:
        """0 if the node answers."""
        self._store.stats()
        return int(ErrorCode.OK)

    @property
    def _store(self) -> Store:
        if self._open is None:
            raise InvalidArgumentError(
                "store: is not set up; call setup() first, and again after close()", code="INVALID_ARGUMENT"
            )
        return self._open

    def _put_all(
        self, call: str, items: Sequence[tuple[str, Any, dict[str, str]]], config: Any, replace: bool
    ) -> list[int]:
        """Stores (key, array, metadata) each: a code each.

        replace: what is there goes, else it stays and that is a success. No bytes are not stored, as in the
        original, which is a success, too.
        """
        options = put_options(config)
        codes = [int(ErrorCode.OK)] * len(items)
        try:
            wanted = [
                (i, (self._names.name(key), array, metadata | self._names.metadata(key)))
                for i, (key, array, metadata) in enumerate(items)
                if array.nbytes or metadata.get(KIND) != BYTES
            ]
            results = put_all(self._store, [item for _, item in wanted], if_absent=not replace, **options)
            if any(_lacks_nodes(result, options) for result in results):
                options["replicas"] = 1
                results = put_all(self._store, [item for _, item in wanted], if_absent=not replace, **options)
        except Error as error:
            return [report(call, error)] * len(items)
        for (i, _), result in zip(wanted, results):
            if isinstance(result, Error) and not isinstance(result, AlreadyExistsError):
                codes[i] = report(call, result)
        return codes

    def _put_parts(self, key: str, parts: Sequence[Any], config: Any, replace: bool) -> int:
        """Stores the bytes of several arrays as one object, straight into the store's memory."""
        options = put_options(config)
        size = sum(part.nbytes for part in parts)
        if not size:
            return int(ErrorCode.OK)
        metadata = {KIND: BYTES} | self._names.metadata(key)
        name = self._names.name(key)
        try:
            draft = self._draft(name, size, metadata, replace, options)
            with draft:
                target, at = draft.numpy(), 0
                for part in parts:
                    target[at : at + part.nbytes] = part
                    at += part.nbytes
        except (AlreadyExistsError, ConflictError):  # of the draft, or when it was to be published
            if replace:
                raise
        return int(ErrorCode.OK)

    def _draft(
        self, name: str, size: int, metadata: dict[str, str], replace: bool, options: dict[str, Any]
    ) -> Any:
        try:
            return self._store.create(name, size, "u8", metadata=metadata, if_absent=not replace, **options)
        except InvalidArgumentError as error:
            if not _lacks_nodes(error, options):
                raise
        options["replicas"] = 1
        return self._store.create(name, size, "u8", metadata=metadata, if_absent=not replace, **options)

    def _views(self, call: str, keys: Sequence[str]) -> list[TensorView | int]:
        """For each key its view, or the code of why there is none."""
        mismatch(call, keys)
        try:
            names = [self._names.name(key) for key in keys]
            found = self._store.get_many(dict.fromkeys(names), errors="return")
        except Error as error:
            return [report(call, error)] * len(keys)
        views: list[TensorView | int] = []
        for name in names:
            view = found[name]
            if isinstance(view, Error):
                views.append(code_of(view) if isinstance(view, NotFoundError) else report(call, view))
            else:
                views.append(view)
        return views


def _lacks_nodes(result: Any, options: dict[str, Any]) -> bool:
    """Whether the store cannot have as many copies: then there are fewer, as in the original."""
    if not isinstance(result, InvalidArgumentError) or not str(result).startswith("replicas:"):
        return False
    if options["replicas"] <= 1:
        return False
    logger.warning("one copy instead of %d: the store has too few nodes", options["replicas"])
    return True
