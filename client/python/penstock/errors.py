"""What can go wrong: one class a cause, each also the builtin exception that a Python user expects.

Every error has ``.code`` (the status code, as ``"NOT_FOUND"``), ``.name`` (the tensor it is about,
or None) and ``.hint`` (what to do next, or an empty string).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AlreadyExistsError",
    "ConflictError",
    "DataLossError",
    "DeadlineError",
    "Error",
    "InvalidArgumentError",
    "NotFoundError",
    "PartialError",
    "PermissionDeniedError",
    "StoreFullError",
    "TransportError",
    "UnavailableError",
]


class Error(Exception):
    """Base of every error that the store reports."""

    code: str = "UNKNOWN"
    name: str | None = None
    hint: str = ""

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        name: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self._message = message
        if code is not None:
            self.code = code
        if name is not None:
            self.name = name
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:  # KeyError would show the repr
        return f"{self._message} ({self.hint})" if self.hint else self._message

    def __reduce__(self) -> tuple[Any, ...]:  # keyword arguments survive a trip between processes
        state = {"code": self.code, "name": self.name, "hint": self.hint}
        return (_restore, (type(self), self._message, state))


def _restore(kind: type[Error], message: str, state: dict[str, Any]) -> Error:
    return kind(message, **state)


class NotFoundError(Error, KeyError):
    """There is no such tensor, or no such version of it."""

    hint = "store.wait(name) or get(name, wait=seconds) waits for it; store.list() shows what there is"


class InvalidArgumentError(Error, ValueError):
    """An argument is not allowed; the message names the field, the value and what is allowed."""


class AlreadyExistsError(Error, FileExistsError):
    """The name is taken, and if_absent was asked for."""


class StoreFullError(Error, MemoryError):
    """The store's memory, or a quota, is used up."""

    hint = "delete tensors, release views of deleted ones, or give the node more --memory"


class UnavailableError(Error, ConnectionError):
    """The node cannot be reached; it may come back."""

    hint = "is penstockd running? `penstock doctor` tells more"


class DeadlineError(Error, TimeoutError):
    """The time was over before the answer came; the outcome is not known."""


class PermissionDeniedError(Error, PermissionError):
    """The store, or the operating system, refused."""


class DataLossError(Error, OSError):
    """Bytes were lost or found damaged."""


class ConflictError(Error, RuntimeError):
    """A condition (if_version, if_absent of a draft) did not hold."""

    hint = "look at store.stat(name).version, then try again"


class TransportError(Error, OSError):
    """Moving bytes between hosts failed."""


class PartialError(Error):
    """Some items of a call for many failed.

    ``.results`` has one entry an item: what was done, or the Error; a list for put_many, a dict by
    name for get_many.
    """

    def __init__(self, message: str, results: Any) -> None:
        super().__init__(message)
        self.results = results

    @property
    def errors(self) -> list[Error]:
        """The errors among the results."""
        values = self.results.values() if isinstance(self.results, dict) else self.results
        return [value for value in values if isinstance(value, Error)]

    def __reduce__(self) -> tuple[Any, ...]:
        errors = self.errors
        return (PartialError, (self._message, errors))
