"""Which folder may include which: layers, one way (server and client meet in proto only; transport knows nobody)."""

from __future__ import annotations

import re
from typing import Iterator

_MAY_INCLUDE = {
    "proto": {"proto"},
    "transport": {"transport"},
    "server": {"server", "transport", "proto"},
    "client": {"client", "transport", "proto"},
}
_PUBLIC_FOLDERS = ("proto/include/", "client/include/", "client/c/include/", "transport/include/")
_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
_GENERATED = re.compile(r"\.(?:grpc\.)?pb\.h$")


def violations(name: str, text: str, files: set[str]) -> Iterator[str]:
    """What in source file `name` breaks the rules. `files`: all of the project's files."""
    mine = name.split("/")[0]
    allowed = _MAY_INCLUDE.get(mine)
    for match in _INCLUDE.finditer(text):
        quote, target = match.groups()
        line = text.count("\n", 0, match.start(2)) + 1
        resolved = _resolve(quote, target, files)
        if resolved is None:
            if quote == '"' and _looks_like_ours(target):
                yield f'{name}:{line}: "{target}" is not there; write paths from the root'
        elif allowed is not None and resolved.split("/")[0] not in allowed:
            theirs = resolved.split("/")[0]
            yield f"{name}:{line}: {mine}/ may not include {theirs}/ ({target})"


def _looks_like_ours(target: str) -> bool:
    # Generated headers are not in the tree, and other people's ("absl/...") begin with their own folder.
    if _GENERATED.search(target):
        return False
    folder = target.split("/")[0]
    return "/" not in target or folder in _MAY_INCLUDE or folder in ("tests", "bench", ".", "..")


def _resolve(quote: str, target: str, files: set[str]) -> str | None:
    if quote == '"' and target in files:
        return target
    for folder in _PUBLIC_FOLDERS:
        if folder + target in files:
            return folder + target
    return None
