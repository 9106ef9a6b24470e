"""The ``tls`` argument: which certificate this process shows, and whom it trusts."""

from __future__ import annotations

import os
from typing import Any, Mapping

from penstock.errors import InvalidArgumentError

__all__ = ["tls_files"]


def tls_files(tls: Mapping[str, Any] | None) -> dict[str, str]:
    """``{"ca": path, "cert": path, "key": path}`` as texts; what is not given is not in it."""
    if tls is None:
        return {}
    if not isinstance(tls, Mapping) or not set(tls) <= {"ca", "cert", "key"}:
        raise InvalidArgumentError(
            f"tls: must be a dict with the keys ca, cert and key, paths of PEM files, not {tls!r}"
        )
    return {key: os.fspath(path) for key, path in tls.items()}
