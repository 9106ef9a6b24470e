"""Histories: what clients asked for, when, and what they were answered. support/linearizable.py judges them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

PUT, DELETE, GET = "put", "delete", "get"
DONE, CONFLICT, NOT_FOUND, AMBIGUOUS, NOTHING = "done", "conflict", "not found", "ambiguous", "nothing"
_OUTCOMES = {PUT: (DONE, CONFLICT, AMBIGUOUS, NOTHING), DELETE: (DONE, NOT_FOUND, AMBIGUOUS, NOTHING), GET: (DONE, NOT_FOUND, NOTHING)}
ABSENT = "absent"


@dataclass(frozen=True)
class Operation:
    """One call and its answer. Times are of one clock for all clients, in any unit.

    outcome: `done`; `conflict` of a condition that did not hold; `not found`; `ambiguous`: it happened at any time after `call`, or
    never; `nothing`: a write that was refused or a read that failed. `value` names what was put or read; each put has its own. A get
    without a value is a stat. `condition`: None, ABSENT (if_absent), or the version that it asked for (if_version).
    """

    name: str
    kind: str
    call: float
    end: float
    outcome: str = DONE
    value: str | None = None
    version: int | None = None
    condition: str | int | None = None
    client: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _OUTCOMES:
            raise ValueError(f"kind: {self.kind!r} is none of {', '.join(_OUTCOMES)}")
        if self.outcome not in _OUTCOMES[self.kind]:
            raise ValueError(f"outcome: {self.outcome!r} of a {self.kind} is none of {', '.join(_OUTCOMES[self.kind])}")
        if self.end < self.call:
            raise ValueError(f"end: {self.end} is before the call at {self.call}")
        if self.kind == PUT and self.value is None:
            raise ValueError("value: a put has one")

    def to_json(self) -> str:
        return json.dumps({k: v for k, v in dataclasses.asdict(self).items() if v is not None and v != ""})

    @staticmethod
    def from_json(line: str) -> Operation:
        return Operation(**json.loads(line))

    def __str__(self) -> str:
        end = "..." if self.outcome == AMBIGUOUS else f"{self.end:.6f}"
        what = f"{self.kind} {self.value}" if self.kind == PUT else "stat" if self.kind == GET and self.value is None else self.kind
        condition = {None: "", ABSENT: " if absent"}.get(self.condition, f" if version {self.condition}")
        answer = self.value if self.kind == GET and self.outcome == DONE and self.value else self.outcome
        version = "" if self.version is None else f", version {self.version}"
        return f"{self.call:.6f} .. {end}  {self.client or '-'}: {what}{condition} -> {answer}{version}"


def read_history(path: Path) -> Iterator[Operation]:
    with path.open() as lines:
        yield from (Operation.from_json(line) for line in lines if line.strip())
