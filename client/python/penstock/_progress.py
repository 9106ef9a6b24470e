"""Progress bars for long work: tqdm's, when it is installed."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from penstock.errors import InvalidArgumentError

__all__ = ["Progress"]

_SHOWN_AFTER = 1.0  # seconds: shorter work shows no bar


class Progress:
    """A bar over bytes; a context manager.

    wanted: None = a bar if standard error is a terminal, tqdm is there, and the work takes longer than
    a second; True = always (InvalidArgumentError without tqdm); False = never.
    """

    def __init__(self, what: str, total_bytes: int, wanted: bool | None) -> None:
        if wanted is not None and not isinstance(wanted, bool):
            raise TypeError(f"progress: must be True, False or None, not {type(wanted).__name__}")
        self._bar: Any = None
        if wanted is False or (wanted is None and not sys.stderr.isatty()):
            return
        try:
            from tqdm.auto import tqdm
        except ImportError:
            if wanted is None:
                return
            raise InvalidArgumentError(
                "progress: is True, but tqdm is not installed; allowed without it are None and False",
                code="INVALID_ARGUMENT",
                hint="pip install tqdm",
            ) from None
        self._bar = tqdm(
            desc=what,
            total=total_bytes,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            delay=_SHOWN_AFTER if wanted is None else 0,
        )

    def advance(self, nbytes: int) -> None:
        """So many bytes more are done. One thread at a time."""
        if self._bar is not None:
            self._bar.update(nbytes)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
