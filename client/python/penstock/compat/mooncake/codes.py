"""The numbers that Mooncake's calls return, and which of them Penstock's errors become."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from enum import IntEnum
from typing import Any, ParamSpec

from penstock.errors import (
    AlreadyExistsError,
    DataLossError,
    DeadlineError,
    Error,
    InvalidArgumentError,
    NotFoundError,
    StoreFullError,
    TransportError,
    UnavailableError,
)

__all__ = ["ErrorCode", "code_of", "mismatch", "report", "returns_code"]

logger = logging.getLogger("penstock.compat.mooncake")

_P = ParamSpec("_P")


class ErrorCode(IntEnum):
    """Those of mooncake-store/include/types.h that occur here."""

    OK = 0
    INTERNAL_ERROR = -1
    NO_AVAILABLE_HANDLE = -200
    INVALID_PARAMS = -600
    OBJECT_NOT_FOUND = -704
    OBJECT_ALREADY_EXISTS = -705
    TRANSFER_FAIL = -800
    CHECKSUM_MISMATCH = -801
    RPC_FAIL = -900


_CODES: list[tuple[type[Error], ErrorCode]] = [
    (NotFoundError, ErrorCode.OBJECT_NOT_FOUND),
    (InvalidArgumentError, ErrorCode.INVALID_PARAMS),
    (StoreFullError, ErrorCode.NO_AVAILABLE_HANDLE),
    (AlreadyExistsError, ErrorCode.OBJECT_ALREADY_EXISTS),
    (UnavailableError, ErrorCode.RPC_FAIL),
    (DeadlineError, ErrorCode.RPC_FAIL),
    (TransportError, ErrorCode.TRANSFER_FAIL),
    (DataLossError, ErrorCode.CHECKSUM_MISMATCH),
]


def code_of(error: Error) -> int:
    """The number for an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return int(code)
    return int(ErrorCode.INTERNAL_ERROR)


def report(call: str, error: Error) -> int:
    """The number for an error, which the log explains; a missing key is no news."""
    if not isinstance(error, NotFoundError):
        logger.error("%s: %s", call, error)
    return code_of(error)


def mismatch(call: str, *lists: Any) -> int:
    """0 if the lists have one length, else the number for that, which the log explains."""
    for items in lists:
        if not isinstance(items, (list, tuple)):
            raise TypeError(f"{call}: takes lists, not {type(items).__name__}")
    lengths = [len(items) for items in lists]
    if len(set(lengths)) <= 1:
        return int(ErrorCode.OK)
    text = f"lists: have {lengths} items; allowed are lists of one length"
    return report(call, InvalidArgumentError(text, code="INVALID_ARGUMENT"))


def returns_code(call: Callable[_P, int]) -> Callable[_P, int]:
    """Errors of the store as numbers, for a method of a client. Wrong types are still TypeErrors."""

    @functools.wraps(call)
    def with_code(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return call(*args, **kwargs)
        except Error as error:
            return report(call.__name__, error)

    return with_code
