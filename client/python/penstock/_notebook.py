"""How stores, views and infos show themselves in notebooks: short tables, all text escaped."""

from __future__ import annotations

import html
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from penstock.errors import Error

if TYPE_CHECKING:
    from penstock._core import TensorInfo, TensorView
    from penstock.snapshot import Snapshot, SnapshotInfo
    from penstock.store import Store

__all__ = ["info_html", "size_text", "snapshot_html", "snapshot_info_html", "store_html", "view_html"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SHOWN_ELEMENTS = 6
_SHOWN_TEXT = 80  # characters of a metadata value


def size_text(nbytes: int) -> str:
    """Bytes for people: "1.5 MiB"."""
    if nbytes < 1024:
        return f"{nbytes} B"
    power = min((nbytes.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{nbytes / 1024**power:.1f} {_UNITS[power]}"


def view_html(view: TensorView) -> str:
    """A live view: what it is, how it came here, its first elements."""
    rows = _tensor_rows(view)
    rows.append(("path", f"{view.path}, {'no copy' if view.is_zero_copy else 'copied'}"))
    elements = _elements(view)
    if elements:
        rows.append(("elements", elements))
    return _table("TensorView", view.name, rows)


def info_html(info: TensorInfo) -> str:
    """What the store knows about one tensor; metadata values cut to 80 characters."""
    rows = _tensor_rows(info)
    rows.append(("class", "keep" if info.keep else "cache (may be evicted)"))
    if info.ttl is not None:
        rows.append(("expires in", f"{info.ttl:.0f} s"))
    for key, value in sorted(info.metadata.items()):
        rows.append((f"metadata {key}", _cut(value)))
    return _table("TensorInfo", info.name, rows)


def snapshot_info_html(info: SnapshotInfo, title: str = "SnapshotInfo", name: str | None = None) -> str:
    """A snapshot that is published."""
    created = datetime.fromtimestamp(info.created).astimezone().isoformat(sep=" ", timespec="seconds")
    rows = [("created", created), ("tensors", str(info.tensors)), ("size", size_text(info.nbytes)), ("pinned", "yes" if info.pinned else "no")]
    rows += [(f"metadata {key}", _cut(value)) for key, value in sorted(info.metadata.items())]
    return _table(title, name or f"number {info.number}", rows)


def snapshot_html(snapshot: Snapshot, prefix: str, state: str) -> str:
    """A snapshot that is written, or was: where it lies, and how far it is."""
    if snapshot.info is not None:
        return snapshot_info_html(snapshot.info, "Snapshot", f"{prefix}, number {snapshot.info.number}")
    return _table("Snapshot", prefix, [("state", state)])


def store_html(store: Store) -> str:
    """A store: its address and how full it is. Nothing of its tokens and keys."""
    if store.closed:
        return _table("Store", "closed", [])
    try:
        stats = store.stats()
    except Error as error:
        return _table("Store", store.address, [("node", f"does not answer: {error.code}")])
    rows = [
        ("tensors", str(stats["tensors"])),
        ("used", f"{size_text(stats['tensor_bytes'])} of {size_text(stats['memory_bytes'])}"),
        ("session", str(store.session_id)),
    ]
    return _table("Store", store.address, rows)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else text[: _SHOWN_TEXT - 1] + "…"


def _tensor_rows(tensor: TensorView | TensorInfo) -> list[tuple[str, str]]:
    return [
        ("version", str(tensor.version)),
        ("dtype", tensor.dtype),
        ("shape", str(tuple(tensor.shape))),
        ("size", size_text(tensor.nbytes)),
    ]


def _elements(view: TensorView) -> str:
    """The first elements in C order; empty for what NumPy cannot show."""
    try:
        array = view.numpy()
    except TypeError:
        return ""
    first = [str(array[np.unravel_index(i, array.shape)]) for i in range(min(array.size, _SHOWN_ELEMENTS))]
    return ", ".join(first) + (", …" if array.size > _SHOWN_ELEMENTS else "")


def _table(kind: str, name: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th style='text-align:left'>{_escaped(key)}</th><td style='text-align:left'>{_escaped(value)}</td></tr>"
        for key, value in rows
    )
    return f"<div><b>{_escaped(kind)}</b> <code>{_escaped(name)}</code><table>{cells}</table></div>"


def _escaped(text: str) -> str:
    return html.escape(text)
