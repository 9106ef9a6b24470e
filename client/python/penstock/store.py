"""The store as one process sees it: ``penstock.connect()`` gives a Store."""

from __future__ import annotations

import re
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Literal, Mapping, TypeAlias, Sequence

from penstock import _core
from penstock._core import TensorInfo, TensorView
from penstock.errors import Error, NotFoundError, PartialError, UnavailableError
from penstock.events import Watch
from penstock.tls import tls_files

if TYPE_CHECKING:
    from penstock.aio import AsyncStore
    from penstock.local import LocalNode
    from penstock._state_dicts import SnapshotReader
    from penstock.snapshot import Snapshot, SnapshotInfo

__all__ = ["Store", "connect"]

_LIST_PAGE = 1000
# What connecting says of addresses that answer and are not of this host (client/session/connect.cc).
_FAR_NODES = re.compile(r"node (\S+) is on another host")

# In the class, `list` is its method.
_Page: TypeAlias = tuple[list[TensorInfo], bool]
_Results: TypeAlias = list[TensorInfo | Error]
_Transports: TypeAlias = list[dict[str, Any]]
_Numbers: TypeAlias = list[int]
_MISSING = object()


def connect(
    address: str | None = None,
    *,
    tenant: str | None = None,
    timeout: float = 5.0,
    label: str | None = None,
    require_transport: str | None = None,
    tls: Mapping[str, Any] | None = None,
    gateway_memory: str | int = "25%",
) -> Store:
    """Opens a session with the store node of this host, or with a store that has none here.

    address: a socket directory (``/run/penstock``), ``host:port``, or a comma list of them; else
    $PENSTOCK_ADDRESS, else the default socket directory. If ``host:port`` is a node of another host,
    this process starts a node of its own that keeps copies only (``start_local(peers=...)``, with
    ``gateway_memory``) and ends with the Store: gets are copied once and then mapped, puts go through.
    tenant: whose store, where the address is a socket directory with those of several tenants
    (``penstockd --tenants``); else, without an address, $PENSTOCK_TENANT.
    timeout: seconds for connecting and for each call without a timeout of its own. label: shown by
    ``penstock sessions``.
    require_transport: ``"rdma"`` = bytes of other nodes come by RDMA, or the call raises
    TransportError; None = by the best there is (``store.transports()`` tells).
    tls: for ``host:port`` of a node with TLS: ``{"ca": path, "cert": path, "key": path}``, PEM files;
    what is not given comes from $PENSTOCK_TLS_CA, $PENSTOCK_TLS_CERT and $PENSTOCK_TLS_KEY.
    Raises UnavailableError when no node answers, and when there is no such tenant.
    """
    return Store(
        address,
        tenant=tenant,
        timeout=timeout,
        label=label,
        require_transport=require_transport,
        tls=tls,
        gateway_memory=gateway_memory,
    )


class Store(_core.Store):
    """A session with a store. Thread-safe; a context manager; usable in forked children.

    A forked child has a session of its own; views made before the fork stay valid in both. Pickling a
    Store pickles its address: the other process connects by itself.
    """

    _arguments: dict[str, Any]
    _aio: AsyncStore | None = None
    _reader: SnapshotReader | None = None
    _gateway: LocalNode | None

    def __init__(
        self,
        address: str | None = None,
        *,
        tenant: str | None = None,
        timeout: float = 5.0,
        label: str | None = None,
        require_transport: str | None = None,
        tls: Mapping[str, Any] | None = None,
        gateway_memory: str | int = "25%",
    ) -> None:
        files = tls_files(tls)
        options: dict[str, Any] = {
            "timeout": timeout,
            "label": label,
            "require_transport": require_transport,
        }
        self._gateway = None
        try:
            super().__init__(
                address,
                **options,
                tenant=tenant,
                tls_ca=files.get("ca"),
                tls_cert=files.get("cert"),
                tls_key=files.get("key"),
            )
        except UnavailableError as error:
            far = _FAR_NODES.search(str(error))
            if far is None:
                raise
            from penstock.local import start_local

            self._gateway = start_local(gateway_memory, peers=far[1].split(","), tls=tls)
            super().__init__(self._gateway.address, **options)
        self._arguments = options | {
            "address": address,
            "tls": files or None,
            "gateway_memory": gateway_memory,
        }

    def close(self) -> None:
        """Ends this object's use of the store. Views and drafts stay valid. Idempotent."""
        super().close()
        if self._gateway is not None:
            self._gateway.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = dict(self._arguments)
        if self._gateway is None:
            arguments["address"] = self.address
        return (_reconnect, (arguments,))

    def __repr__(self) -> str:
        return "Store(closed)" if self.closed else f"Store(address={self.address!r})"

    def _repr_html_(self) -> str:
        from penstock._notebook import store_html

        return store_html(self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.exists(name)

    def get_many(
        self, names: Iterable[str], errors: Literal["raise", "return"] = "raise"
    ) -> dict[str, TensorView | Error]:
        """Several tensors at once: a dict from name to TensorView.

        errors="raise": PartialError with ``.results`` if any fails; "return": the dict has an Error in
        the place of each tensor that could not be had.
        """
        _check_errors(errors)
        results, failed = self._get_many(names)
        if failed and errors == "raise":
            raise PartialError(_count("get_many", failed, results.values()), results)
        return results

    def put_many(
        self,
        tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
        *,
        errors: Literal["raise", "return"] = "raise",
        **options: Any,
    ) -> _Results:
        """Several tensors in one call; options as put(), the same for all.

        Each tensor becomes visible on its own. Returns one TensorInfo a tensor, in order.
        errors="raise": PartialError with ``.results`` if any fails; "return": Errors in the list.
        """
        _check_errors(errors)
        items = list(tensors.items() if isinstance(tensors, Mapping) else tensors)
        results, failed = self._put_many(items, **options)
        if failed and errors == "raise":
            raise PartialError(_count("put_many", failed, results), results)
        return results

    def longest_prefix(self, names: Iterable[str]) -> int:
        """How many of the names, from the first on, exist without a gap."""
        return self._longest_prefix(names)

    def get_or_create(
        self, name: str, make: Callable[[], Any], timeout: float | timedelta | None = None
    ) -> TensorView:
        """The tensor `name`; if it is missing, ``make()`` makes it, in one process at a time.

        make: returns an array, which is put under `name`, or puts it itself and returns None. The
        others wait until it is there, at most `timeout` seconds (None = for ever).
        """
        if not callable(make):
            raise TypeError(f"make: must be callable, not {type(make).__name__}")

        def make_and_put() -> None:
            tensor = make()
            if tensor is not None:
                self.put(name, tensor)

        return self._get_or_create(name, make_and_put, timeout)

    def list(
        self, prefix: str = "", limit: int | None = None, after: str | None = None
    ) -> Iterator[TensorInfo]:
        """TensorInfo of every tensor whose name begins with `prefix`, in the order of their names.

        limit: at most so many. after: only names greater than this. Asks the node for a page at a
        time: names that come or go meanwhile may be missed.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit: is {limit}; allowed are None, 0 and more")
        size = _LIST_PAGE if limit is None else min(limit, _LIST_PAGE)
        if size == 0:
            return iter(())
        first = self._list_page(prefix, after or "", size)  # errors come from here, not later
        return self._pages(prefix, limit, first)

    def _pages(
        self, prefix: str, limit: int | None, page: _Page
    ) -> Iterator[TensorInfo]:
        left = limit
        while True:
            items, more = page
            for info in items if left is None else items[:left]:
                yield info
            if left is not None:
                left -= len(items)
            if not more or not items or (left is not None and left <= 0):
                return
            size = _LIST_PAGE if left is None else min(left, _LIST_PAGE)
            page = self._list_page(prefix, items[-1].name, size)

    def watch(self, prefix: str = "", from_version: int | None = None) -> Watch:
        """Iterator over the events of tensors under `prefix`.

        from_version: None = from now on; ``event.sequence`` = after that event; 0 = whatever the node
        still remembers.
        """
        return Watch(self._watch(prefix, from_version))

    def snapshot(
        self,
        prefix: str,
        *,
        number: int | None = None,
        keep_last: int | None = None,
        metadata: dict[str, str] | None = None,
        process_group: Any = None,
        rank: int = 0,
        ranks: int | None = None,
        timeout: float = 600.0,
    ) -> Snapshot:
        """A set of tensors that is published at once: ``with store.snapshot("ckpt/llama") as snap: snap.put_state_dict(sd)``.

        number: above 0 and not taken; None = the latest + 1. keep_last: so many stay, the oldest others are removed (pinned ones
        stay, too). metadata: dict of str to str. process_group: of torch.distributed; all its ranks write the snapshot together, each its
        shards; not needed if the first ``put_state_dict`` has DTensors. rank, ranks: the same without torch; then number is needed.
        timeout: seconds that a rank waits for the others.
        Raises ConflictError (the number is taken, another rank died), DeadlineError (another rank has not put in time).
        """
        from penstock.snapshot import Snapshot

        options = {"number": number, "keep_last": keep_last, "metadata": metadata, "rank": rank, "ranks": ranks, "timeout": timeout}
        return Snapshot(self, prefix, options, process_group)

    def put_state_dict(self, prefix: str, state_dict: Any, **options: Any) -> SnapshotInfo:
        """A state dict as the next snapshot of `prefix`; options as snapshot(). Returns its SnapshotInfo."""
        with self.snapshot(prefix, **options) as snap:
            snap.put_state_dict(state_dict)
        assert snap.info is not None
        return snap.info

    def get_state_dict(
        self,
        prefix: str,
        number: int | Literal["latest"] = "latest",
        *,
        into: Any = None,
        strict: bool = True,
        dtype: Any = None,
        framework: Literal["numpy", "torch", "view"] | None = None,
        name: str | None = None,
    ) -> Any:
        """A state dict of a snapshot: as it was put, tied tensors tied.

        On the host that has it the tensors are views, without a copy; those of several shards are put together. into: an existing state
        dict whose tensors are filled in place (another dtype: converted; DTensors: each rank reads the bytes of its shard alone, whatever the
        layout that was put); it is checked first, and returned. strict: names that only one side has are an error; False: passed over.
        dtype: what floating-point tensors are converted to (``torch.bfloat16``, ``"f16"``). framework: None = torch tensors as torch, the
        rest as NumPy; "view" = TensorView, where one tensor is the whole. name: one of several state dicts of a snapshot.
        Raises NotFoundError (no such snapshot or name), InvalidArgumentError (`into` does not fit; then nothing was changed).
        """
        from penstock._state_dicts import StateDictLoader, get_state_dict, number_argument

        def load(contents: Any) -> Any:
            loader = StateDictLoader(self, contents, framework, dtype)
            return loader.load(name) if into is None else loader.load_into(name, into, strict)

        return get_state_dict(self, self._snapshot_reader, prefix, number_argument(number), load)

    def snapshots(self, prefix: str) -> _Numbers:
        """The numbers of the snapshots of `prefix`, growing; an empty list when there are none."""
        return [info[0] for info in self._list_snapshots(prefix)]

    def snapshot_infos(self, prefix: str) -> Sequence[SnapshotInfo]:
        """The same, with sizes, times, pins and metadata."""
        from penstock.snapshot import SnapshotInfo

        return [SnapshotInfo(*info) for info in self._list_snapshots(prefix)]

    def latest(self, prefix: str, default: Any = _MISSING) -> Any:
        """The number of the latest snapshot; `default` if there is none, or NotFoundError. No call on the host that has it."""
        try:
            return self._find_snapshot(prefix, None)[0]
        except NotFoundError:
            if default is _MISSING:
                raise
            return default

    def remove_snapshot(self, prefix: str, number: int) -> None:
        """Removes a snapshot; views of its tensors stay valid. NotFoundError if there is none."""
        self._remove_snapshot(prefix, number)

    def pin_snapshot(self, prefix: str, number: int, pinned: bool = True) -> None:
        """``keep_last`` passes over it from now on; pinned=False: no more."""
        self._pin_snapshot(prefix, number, pinned)

    def wait_snapshot(self, prefix: str, after: int = 0, timeout: float | None = None) -> int:
        """The latest number, as soon as it is above `after`. DeadlineError after `timeout` seconds (None = for ever)."""
        number: int = self._wait_snapshot(prefix, after, timeout)[0]
        return number

    @property
    def _snapshot_reader(self) -> SnapshotReader:
        if self._reader is None:
            from penstock._state_dicts import SnapshotReader

            self._reader = SnapshotReader()
        return self._reader

    def stats(self) -> dict[str, Any]:
        """The node's accounting, as `penstock df` shows it: bytes and counts."""
        return self._ask("Df")

    def transports(self) -> _Transports:
        """Which path each node got, and why: a dict each, of the node of this host first, then of its --peers.

        node: its uuid (of a peer: empty before it was asked); address; path: "map", "rdma", "ucx-tcp" or "stream" (of the last
        read; before the first one, that of the next); why it is no other one (of "rdma": empty).
        Of peers also: reads, read_bytes.
        """
        node = self._ask("NodeInfo")
        here = {
            "node": node["node_uuid"],
            "address": self.address,
            "path": "map",
            "why": "on this host: its memory is mapped, reads copy nothing",
        }
        peers = [
            {
                "node": peer["node_uuid"],
                "address": peer["address"],
                "path": peer["lane"],
                "why": peer["why"],
                "reads": peer["reads"],
                "read_bytes": peer["read_bytes"],
            }
            for peer in node["peers"]
        ]
        return [here, *peers]

    @property
    def aio(self) -> AsyncStore:
        """The same calls, awaitable: ``await store.aio.get(name)``."""
        if self._aio is None:
            from penstock.aio import AsyncStore

            self._aio = AsyncStore(self)
        return self._aio


def _reconnect(arguments: dict[str, Any]) -> Store:
    return Store(**arguments)


def _check_errors(errors: str) -> None:
    if errors not in ("raise", "return"):
        raise ValueError(f"errors: is {errors!r}; allowed are 'raise' and 'return'")


def _count(call: str, failed: int, results: Iterable[Any]) -> str:
    values = list(results)
    first = next(value for value in values if isinstance(value, Error))
    return f"{call}: {failed} of {len(values)} failed; the first: {first}"
