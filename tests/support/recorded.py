"""Calls that a real engine made of a connector (tests/frameworks/run wrote them down), for tests that make them again."""

from __future__ import annotations

import ctypes
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parents[1] / "python" / "recorded"


@dataclass(frozen=True)
class Call:
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    result: Any


def calls(name: str) -> list[Call]:
    """In the order in which they returned."""
    lines = (_FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()
    fields = [json.loads(line) for line in lines]
    return [Call(f["call"], f["args"], f["kwargs"], f["result"]) for f in fields]


def content(key: str, nbytes: int) -> bytes:
    """What is stored under a key: other bytes for each."""
    return random.Random(key).randbytes(nbytes)


def ctypes_buffer(content: bytes) -> memoryview:
    """As LMCache hands them over: writable, of format "<B"."""
    return memoryview((ctypes.c_ubyte * len(content)).from_buffer(bytearray(content)))
