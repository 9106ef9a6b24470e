"""Is a history of operations on names linearizable? A register with versions for each name, in the way of Wing and Gong.

    wrong = check(operations)             # [] when there is an order of all operations that explains every answer
    print(wrong[0])                       # else the smallest part found that has none

    python -m support.linearizable FILE   # one JSON object a line, as Operation.to_json writes them

The search is Lowe's and Porcupine's: operations that overlap are tried in every order, depth first without recursion, and what
was reached with the same operations done and the same value is not tried again (nor what has used up more of those that may never
have happened). Each name by itself.

What a part that is told leaves out is left out soundly: readers of it are taken away, writers may then have happened at any later
time or never, and still there is no order. So the part that is told is wrong, whatever the rest did.

Source: J. Wing, C. Gong, "Testing and verifying concurrent objects" (1993); G. Lowe, "Testing for linearizability" (2017).
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator

from support.history import ABSENT, AMBIGUOUS, CONFLICT, DELETE, DONE, GET, NOT_FOUND, NOTHING, PUT, Operation, read_history

_NEVER = math.inf


@dataclass(frozen=True)
class Wrong:
    """A part of one name's history that has no order. `undecided`: the search was given up; it proves nothing."""

    name: str
    part: tuple[Operation, ...]
    operations: int
    undecided: bool = False

    def __str__(self) -> str:
        if self.undecided:
            return f"{self.name}: not decided, too many orders of {self.operations} operations"
        lines = [f"{self.name}: no order explains these (of {self.operations} operations):"]
        lines += [f"  {operation}" for operation in self.part]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Register:
    """What a name shows. `exact`: `version` is its version, else it is only above it (a put whose answer nobody saw)."""

    value: object = None
    version: int = 0
    exact: bool = True


_UNSEEN = "\0unseen"  # what was put and nobody read
_ANY = object()  # a value that is not known: of a part that is looked at without what was before


def check(operations: Iterable[Operation], steps: int = 1_000_000) -> list[Wrong]:
    """The names with a history that is not linearizable, each with a part that is not. Each name begins absent.

    steps: of the search, for a name; a history that needs more is told as undecided.
    """
    names: dict[str, list[Operation]] = {}
    for operation in operations:
        names.setdefault(operation.name, []).append(operation)
    return [wrong for name, history in names.items() if (wrong := check_name(name, history, steps)) is not None]


def check_name(name: str, history: list[Operation], steps: int = 1_000_000) -> Wrong | None:
    told = [operation for operation in history if operation.outcome != NOTHING]
    verdict = is_linearizable(told, steps)
    if verdict:
        return None
    if verdict is None:
        return Wrong(name, (), len(history), undecided=True)
    return Wrong(name, tuple(_smallest(told)), len(history))


def is_linearizable(history: list[Operation], steps: int = 1_000_000) -> bool | None:
    """None: not decided within so many steps."""
    history = [operation for operation in history if operation.outcome != NOTHING]
    return _Search(history, _versions_seen(history)).run(steps)


# ---- the register ----


def _versions_seen(history: list[Operation]) -> dict[str, int]:
    """The version of each value: what its writer was told, or else a reader."""
    told = [operation for operation in history if operation.value is not None and operation.version is not None]
    return {o.value: o.version for o in sorted(told, key=lambda operation: operation.kind == PUT)}


def _apply(state: _Register, operation: Operation, versions: dict[str, int]) -> _Register | None:
    """The state after it, None if its answer is not the one that it gets in this state."""
    if operation.kind == GET:
        return _read(state, operation)
    if operation.kind == DELETE:
        if operation.outcome == AMBIGUOUS or state.value is _ANY:
            return _Register(None, state.version, state.exact)
        if (operation.outcome == DONE) != (state.value is not None):
            return None
        return _Register(None, state.version, state.exact)
    return _put(state, operation, versions)


def _read(state: _Register, operation: Operation) -> _Register | None:
    if state.value is _ANY:
        if operation.outcome == NOT_FOUND:
            return _Register(None, state.version, state.exact)
        return _with_version(_Register(operation.value or _ANY, state.version, state.exact), operation.version)
    if operation.outcome == NOT_FOUND:
        return state if state.value is None else None
    if state.value is None or operation.value not in (None, state.value):
        return None
    return _with_version(state, operation.version)


def _with_version(state: _Register, version: int | None) -> _Register | None:
    """`state`, when somebody was told that this is its version."""
    if version is None or (state.exact and state.version == version):
        return state
    if state.exact or version <= state.version:
        return None
    return _Register(state.value, version)


def _put(state: _Register, operation: Operation, versions: dict[str, int]) -> _Register | None:
    holds = _holds(state, operation.condition)
    if operation.outcome == CONFLICT:
        return state if holds is not True else None
    if holds is False:
        return None
    if isinstance(operation.condition, int) and not state.exact and state.value not in (None, _ANY):
        state = _Register(state.value, operation.condition)
    version = versions.get(operation.value)
    if version is None:
        return _Register(operation.value, state.version, exact=False)
    return _Register(operation.value, version) if version > state.version else None


def _holds(state: _Register, condition: str | int | None) -> bool | None:
    """None: it may, as the version is not known."""
    if condition is None:
        return True
    if state.value is _ANY:
        return None
    if condition == ABSENT:
        return state.value is None
    if state.value is None:
        return condition == 0
    if state.exact:
        return state.version == condition
    return None if condition > state.version else False


# ---- the search ----


class _Event:
    """A call, or (`match` is None) the end of one, in a list that is linked both ways."""

    __slots__ = ("bit", "match", "next", "operation", "previous")

    def __init__(self, operation: Operation, bit: int, match: _Event | None) -> None:
        self.operation, self.bit, self.match = operation, bit, match
        self.previous: _Event | None = None
        self.next: _Event | None = None


def _optional(operation: Operation) -> bool:
    return operation.outcome == AMBIGUOUS


def _useful(history: list[Operation], versions: dict[str, int]) -> list[Operation]:
    """Without writes that may never have happened and whose happening could explain no answer of the others."""
    useful = [operation for operation in history if not _optional(operation)]
    left = [operation for operation in history if _optional(operation)]
    while left:
        helps = _Needs(useful, versions).met_by
        more = [operation for operation in left if helps(operation)]
        if not more:
            break
        useful += more
        left = [operation for operation in left if not helps(operation)]
    return useful


class _Needs:
    """What must have happened beside `operations` to explain them."""

    def __init__(self, operations: list[Operation], versions: dict[str, int]) -> None:
        reads = [o for o in operations if o.kind == GET and o.outcome == DONE]
        conditions = {o.condition for o in operations} - {None}
        self._versions = versions
        self._values = {o.value for o in reads}
        self._numbers = {o.version for o in reads if o.value is None} | {c for c in conditions if isinstance(c, int)}
        # None: a stat without a version, which any value explains.
        self._presence = None in self._numbers or any(o.outcome == CONFLICT or (o.kind, o.outcome) == (DELETE, DONE) for o in operations)
        self._absence = bool(conditions) or any(o.outcome == NOT_FOUND for o in operations)

    def met_by(self, operation: Operation) -> bool:
        if operation.kind == DELETE:
            return self._absence
        version = self._versions.get(operation.value)
        is_named = bool(self._numbers) if version is None else version in self._numbers
        return self._presence or operation.value in self._values or is_named


def _lift(event: _Event) -> None:
    event.previous.next = event.next
    if event.next is not None:
        event.next.previous = event.previous


def _unlift(event: _Event) -> None:
    event.previous.next = event
    if event.next is not None:
        event.next.previous = event


class _Tried:
    """What was reached and led nowhere. Optional operations have the high bits: who has used fewer of them can do all that
    who has used more can, so the latter need not be tried again."""

    def __init__(self, required: int) -> None:
        self._required = (1 << required) - 1
        self._used: dict[tuple[int, _Register], list[int]] = {}

    def add(self, done: int, state: _Register) -> bool:
        """False: no need to try it."""
        used = self._used.setdefault((done & self._required, state), [])
        mine = done & ~self._required
        if any(theirs & ~mine == 0 for theirs in used):
            return False
        used.append(mine)
        return True


class _Search:
    def __init__(self, history: list[Operation], versions: dict[str, int], first: _Register = _Register()) -> None:
        history = _useful(history, versions)
        self._first = first
        self._versions = versions
        self._required = sum(not _optional(operation) for operation in history)
        # Those alike are taken in the order of their calls: any other order leads nowhere else.
        self._before: dict[int, int] = {}  # by bit: that of the one alike that is taken first
        last_alike: dict[tuple[str, object], int] = {}
        read = {operation.value for operation in history if operation.kind == GET}
        events: list[tuple[float, int, int, _Event]] = []
        for i, operation in enumerate(sorted(history, key=lambda operation: (_optional(operation), operation.call))):
            end = None if _optional(operation) else _Event(operation, 0, None)
            if end is not None:
                events.append((operation.end, 1, i, end))
            if _optional(operation) and (operation.kind == DELETE or (operation.value not in versions and operation.value not in read)):
                operation = dataclasses.replace(operation, value=None if operation.kind == DELETE else _UNSEEN)
                alike = (operation.kind, operation.condition)
                self._before[1 << i] = last_alike.get(alike, 0)
                last_alike[alike] = 1 << i
            # What may never have happened is tried last.
            events.append((operation.call, 0, i, _Event(operation, 1 << i, end)))
        events.sort(key=lambda event: event[:3])
        self._head = last = _Event(history[0], 0, None) if history else None
        for _, _, _, event in events:
            last.next, event.previous = event, last
            last = event

    def run(self, steps: int) -> bool | None:
        if self._required == 0:
            return True
        state, done, left = self._first, 0, self._required
        tried = _Tried(self._required)
        path: list[tuple[_Event, _Register]] = []
        event = self._head.next
        while left > 0:
            steps -= 1
            if steps < 0:
                return None
            is_call = event is not None and event.bit != 0
            if is_call:
                first = self._before.get(event.bit, 0)
                after = _apply(state, event.operation, self._versions) if done & first == first else None
                if after is None or not tried.add(done | event.bit, after):
                    event = event.next
                    continue
                path.append((event, state))
                state, done = after, done | event.bit
                left -= self._take(event)
                event = self._head.next
            elif not path:
                return False
            else:
                event, state = path.pop()
                done &= ~event.bit
                left += self._give_back(event)
                event = event.next
        return True

    @staticmethod
    def _take(event: _Event) -> int:
        _lift(event)
        if event.match is None:
            return 0
        _lift(event.match)
        return 1

    @staticmethod
    def _give_back(event: _Event) -> int:
        if event.match is not None:
            _unlift(event.match)
        _unlift(event)
        return 0 if event.match is None else 1


# ---- the smallest part ----

_STEPS_OF_A_TRY = 20_000


@dataclass(frozen=True)
class _Part:
    operations: tuple[Operation, ...]
    from_the_beginning: bool = True

    def is_wrong(self, versions: dict[str, int]) -> bool:
        first = _Register() if self.from_the_beginning else _Register(_ANY, 0, exact=False)
        return _Search(list(self.operations), versions, first).run(_STEPS_OF_A_TRY) is False


def _weakened(operation: Operation) -> Operation | None:
    """Without its answer: a write that may have happened, or nothing."""
    if operation.kind == GET or operation.outcome in (CONFLICT, NOT_FOUND):
        return None
    return dataclasses.replace(operation, outcome=AMBIGUOUS, end=_NEVER)


def _with_weakened(operations: Iterable[Operation], chosen: Callable[[Operation], bool]) -> tuple[Operation, ...]:
    return tuple(one for o in operations if (one := _weakened(o) if chosen(o) and not _optional(o) else o) is not None)


def _until(history: Iterable[Operation], when: float) -> _Part:
    """What had begun by then; of what had not ended nobody has an answer."""
    return _Part(_with_weakened((o for o in history if o.call <= when), lambda o: o.end > when))


def _since(part: _Part, when: float) -> _Part:
    """From then on, whatever was before; what had begun already may have happened before."""
    left = (o for o in part.operations if o.end >= when or _optional(o))
    return _Part(_with_weakened(left, lambda o: o.call < when), from_the_beginning=False)


def _shortest(parts: list[Callable[[], _Part]], part: _Part, versions: dict[str, int]) -> _Part:
    """The first of `parts`, each with more in it than the one before, that is wrong; else `part`."""
    low, high = 0, 1
    while high < len(parts) and not parts[high - 1]().is_wrong(versions):
        low, high = high, 2 * high
    high = min(high, len(parts))
    while low < high:
        middle = (low + high) // 2
        candidate = parts[middle]()
        if candidate.is_wrong(versions):
            part, high = candidate, middle
        else:
            low = middle + 1
    return part


def _smallest(history: list[Operation]) -> list[Operation]:
    """A part without an order: the shortest beginning, the shortest end of that, less what is not needed for it."""
    versions = _versions_seen(history)  # of the whole: what a put that has not ended was told later stays true
    firm = [operation for operation in history if not _optional(operation)]
    ends = sorted({operation.end for operation in firm})
    part = _shortest([lambda end=end: _until(history, end) for end in ends], _Part(tuple(history)), versions)
    beginning = part
    calls = sorted({operation.call for operation in firm}, reverse=True)
    part = _shortest([lambda call=call: _since(beginning, call) for call in calls], part, versions)
    before = None
    while part != before:
        before = part
        firm = [operation for operation in part.operations if not _optional(operation)]
        for chunk in (*_kinds(firm), *_in_shrinking_chunks(firm)):
            rest = dataclasses.replace(part, operations=_with_weakened(part.operations, chunk.__contains__))
            if rest != part and rest.is_wrong(versions):
                part = rest
    return _told(part.operations, history, versions)


def _kinds(part: list[Operation]) -> Iterator[set[Operation]]:
    """Those first that make the search for the rest long."""
    yield {o for o in part if o.outcome == CONFLICT or o.condition is not None}
    yield {o for o in part if o.kind == DELETE}
    yield {o for o in part if o.kind == GET and o.value is None}


def _in_shrinking_chunks(part: list[Operation]) -> Iterator[set[Operation]]:
    """Halves, quarters, ... and at last one by one."""
    size = len(part)
    while size > 1:
        size = (size + 1) // 2
        for start in range(0, len(part), size):
            yield set(part[start : start + size])


def _told(part: Iterable[Operation], history: list[Operation], versions: dict[str, int]) -> list[Operation]:
    """What has to be explained, the writes that it speaks of, and who was told their versions."""
    firm = [operation for operation in part if not _optional(operation)]
    values = {operation.value for operation in firm}
    end = max(operation.end for operation in firm)
    writers = [o for o in history if o.kind == PUT and o.outcome != CONFLICT and o.value in values and o.call <= end]
    witnesses = {o.value: o for o in history if o.kind == GET and o.value in values and o.version == versions.get(o.value)}
    known = {o.value for o in (*firm, *writers) if o.version is not None and o.version == versions.get(o.value)}
    told = {*firm, *writers, *(o for value, o in witnesses.items() if value not in known)}
    return sorted(told, key=lambda operation: (operation.call, operation.end))


def main(words: list[str], say: Callable[[str], None] = print) -> int:
    if len(words) != 1:
        say("usage: python -m support.linearizable FILE")
        return 2
    operations = list(read_history(Path(words[0])))
    wrong = check(operations)
    for one in wrong:
        say(str(one))
    say(f"{len(operations)} operations, {len({o.name for o in operations})} names, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
