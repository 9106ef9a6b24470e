"""The checker of histories: by hand, against a checker that tries everything, and on long histories of a real order."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.history import ABSENT, AMBIGUOUS, CONFLICT, DELETE, DONE, GET, NOT_FOUND, NOTHING, PUT, Operation
from support.linearizable import check, check_name, is_linearizable, main


def put(value: str, call: float, end: float, version: int | None = None, outcome: str = DONE, condition=None) -> Operation:
    return Operation("x", PUT, call, end, outcome, value, version, condition)


def get(value: str | None, call: float, end: float, version: int | None = None) -> Operation:
    return Operation("x", GET, call, end, DONE if value else NOT_FOUND, value, version)


def stat(version: int, call: float, end: float) -> Operation:
    return Operation("x", GET, call, end, DONE, None, version)


def delete(call: float, end: float, outcome: str = DONE) -> Operation:
    return Operation("x", DELETE, call, end, outcome)


A, B = put("a", 0, 1, 1), put("b", 2, 3, 2)

GOOD = {
    "nothing": [],
    "absent from the beginning": [get(None, 0, 1), delete(2, 3, NOT_FOUND)],
    "read after write": [A, get("a", 2, 3, 1)],
    "a read beside the write may see either": [A, put("b", 2, 5, 2), get("b", 3, 4, 2)],
    "a read beside the write may see the older": [A, put("b", 2, 5, 2), get("a", 3, 4, 1)],
    "overlapping writes have the order of their versions": [put("a", 0, 9, 2), put("b", 0, 9, 1), get("a", 10, 11, 2)],
    "an ambiguous put happened later": [A, put("b", 2, 3, outcome=AMBIGUOUS), get("a", 4, 5, 1), get("b", 6, 7, 2)],
    "an ambiguous put never happened": [A, put("b", 2, 3, outcome=AMBIGUOUS), get("a", 4, 5, 1), get("a", 6, 7, 1)],
    "a put that was refused leaves nothing": [A, put("b", 2, 3, outcome=NOTHING), get("a", 4, 5)],
    "an ambiguous put has taken a version": [A, put("b", 2, 3, outcome=AMBIGUOUS), put("c", 4, 5, 3)],
    "a delete": [A, delete(2, 3), get(None, 4, 5), put("b", 6, 7, 2), get("b", 8, 9, 2)],
    "an ambiguous delete": [A, delete(2, 3, AMBIGUOUS), get("a", 4, 5), get(None, 6, 7)],
    "if_absent of an absent name": [put("a", 0, 1, 1, condition=ABSENT), put("b", 2, 3, outcome=CONFLICT, condition=ABSENT), get("a", 4, 5)],
    "if_version": [A, put("b", 2, 3, 2, condition=1), put("c", 4, 5, outcome=CONFLICT, condition=1), get("b", 6, 7, 2)],
    "two compare and swap, one wins": [A, put("b", 2, 9, 2, condition=1), put("c", 2, 9, outcome=CONFLICT, condition=1), get("b", 10, 11)],
    "an ambiguous put whose version a condition met": [A, put("b", 2, 3, outcome=AMBIGUOUS), put("c", 4, 5, 6, condition=5)],
    "a stat": [A, stat(1, 2, 3)],
    "a failed read tells nothing": [A, Operation("x", GET, 2, 3, NOTHING, "zzz")],
    "ends and begins at the same instant": [A, put("b", 1, 2, 2), get("a", 2, 3, 1)],
}

BAD = {
    "a value that nobody wrote": [A, get("z", 2, 3)],
    "an older value after a newer one": [A, B, get("a", 4, 5, 1)],
    "not found after a put": [A, get(None, 2, 3)],
    "two readers see two orders": [A, put("b", 2, 9, 2), get("b", 3, 4), get("a", 5, 6)],
    "a value before it was written": [get("a", 0, 1), put("a", 2, 3, 1)],
    "versions go back": [put("a", 0, 1, 2), put("b", 2, 3, 1)],
    "one version twice": [A, put("b", 2, 3, 1)],
    "a deleted value comes back": [A, delete(2, 3), get("a", 4, 5)],
    "a deleted name is deleted again": [A, delete(2, 3), delete(4, 5)],
    "an ambiguous put comes and goes": [A, put("b", 2, 3, outcome=AMBIGUOUS), get("b", 4, 5), get("a", 6, 7)],
    "a put that was refused has happened": [A, put("b", 2, 3, outcome=NOTHING), get("b", 4, 5)],
    "if_absent of a name that is there": [A, put("b", 2, 3, 2, condition=ABSENT)],
    "if_absent fails on an absent name": [put("b", 2, 3, outcome=CONFLICT, condition=ABSENT)],
    "two compare and swap, both win": [A, put("b", 2, 9, 2, condition=1), put("c", 2, 9, 3, condition=1)],
    "if_version with the wrong one": [A, B, put("c", 4, 5, 3, condition=1)],
    "a stat of an older version": [A, B, stat(1, 4, 5)],
    "a get with another put's version": [A, B, get("b", 4, 5, 1)],
    "an ambiguous put happens twice": [put("b", 0, 1, outcome=AMBIGUOUS), get("b", 2, 3, 1), put("a", 4, 5, 2), get("b", 6, 7, 3)],
    "a version after a delete is not above": [put("a", 0, 1, 5), delete(2, 3), put("b", 4, 5, 5)],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_good_history_passes(history):
    assert is_linearizable(history) is True and try_everything(history)
    assert check(history) == []


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_a_bad_history_is_found(history):
    assert is_linearizable(history) is False and not try_everything(history)
    (wrong,) = check(history)
    assert wrong.name == "x" and set(wrong.part) <= set(history)
    assert not try_everything(list(wrong.part)), f"the part that is told is not wrong by itself:\n{wrong}"


# ---- against everything that is possible, at small sizes ----


def try_everything(history: list[Operation]) -> bool:
    """Every subset of what may not have happened, in every order, with every version that an unseen put may have had."""
    history = [operation for operation in history if operation.outcome != NOTHING]
    firm = [operation for operation in history if operation.outcome != AMBIGUOUS]
    loose = [operation for operation in history if operation.outcome == AMBIGUOUS]
    subsets = itertools.chain.from_iterable(itertools.combinations(loose, n) for n in range(len(loose) + 1))
    return any(_explains(order) for happened in subsets for order in itertools.permutations((*firm, *happened)) if _in_time(order))


def _in_time(order: tuple[Operation, ...]) -> bool:
    return not any(
        later.outcome != AMBIGUOUS and later.end < earlier.call
        for i, earlier in enumerate(order) for later in order[i + 1 :]
    )


def _explains(order: tuple[Operation, ...]) -> bool:
    told = {o.value: o.version for o in sorted(order, key=lambda o: o.kind == PUT) if o.value is not None and o.version is not None}
    unseen = [o for o in order if o.kind == PUT and o.outcome != CONFLICT and o.value not in told]
    mentioned = {0} | {o.version for o in order if o.version is not None} | {o.condition for o in order if isinstance(o.condition, int)}
    candidates = sorted({m + n / 8 for m in mentioned for n in range(len(unseen) + 1)})
    guesses = itertools.product(candidates, repeat=len(unseen))
    return any(_plays(order, told | {o.value: guess for o, guess in zip(unseen, guess_of)}) for guess_of in guesses)


def _plays(order: tuple[Operation, ...], version_of: dict) -> bool:
    value, version = None, 0
    for o in order:
        if o.kind == PUT:
            holds = {None: True, ABSENT: value is None}.get(o.condition, o.condition == (version if value is not None else 0))
            if holds != (o.outcome != CONFLICT):
                return False
            if holds:
                if version_of[o.value] <= version:
                    return False
                value, version = o.value, version_of[o.value]
        elif o.kind == DELETE:
            if o.outcome != AMBIGUOUS and (o.outcome == DONE) != (value is not None):
                return False
            value = None
        elif (o.outcome == DONE) != (value is not None) or (o.value is not None and o.value != value):
            return False
        elif o.version is not None and o.version != version:
            return False
    return True


@st.composite
def small_histories(draw) -> list[Operation]:
    """Of any answers, most of them wrong."""
    operations = []
    for i in range(draw(st.integers(1, 5))):
        call = draw(st.integers(0, 8))
        end = call + draw(st.integers(1, 4))
        kind = draw(st.sampled_from((PUT, PUT, DELETE, GET, GET)))
        version = draw(st.one_of(st.none(), st.integers(1, 4)))
        if kind == PUT:
            outcome = draw(st.sampled_from((DONE, DONE, DONE, AMBIGUOUS, CONFLICT)))
            condition = draw(st.one_of(st.just(None), st.just(ABSENT), st.integers(0, 3)))
            if outcome == CONFLICT and condition is None:
                condition = ABSENT
            operations.append(put("abcde"[i], call, end, version if outcome == DONE else None, outcome, condition))
        elif kind == DELETE:
            operations.append(delete(call, end, draw(st.sampled_from((DONE, NOT_FOUND, AMBIGUOUS)))))
        else:
            value = draw(st.sampled_from((None, *"abcde"[: i + 1])))
            operations.append(get(value, call, end, version if value else None))
    # One value has one version: two answers that differ are another test's.
    seen: dict = {}
    return [o for o in operations if o.value is None or o.version is None or seen.setdefault(o.value, o.version) == o.version]


@settings(max_examples=400, deadline=None)
@given(small_histories())
def test_it_agrees_with_one_that_tries_everything(history):
    assert is_linearizable(history) is try_everything(history)


@settings(max_examples=200, deadline=None)
@given(small_histories())
def test_the_part_that_is_told_is_wrong_by_itself(history):
    if (wrong := check_name("x", history)) is not None:
        assert not try_everything(list(wrong.part))


# ---- long histories of a real order ----


def real_history(seed: int, count: int, names: int, overlap: float = 3.0, unsure: float = 0.03) -> list[Operation]:
    """Each operation happens at one instant within its call; the answers are those of that order."""
    rng = random.Random(seed)
    shown: dict[str, tuple[str | None, int]] = {}
    history = []
    for i in range(count):
        name = f"n{rng.randrange(names)}"
        value, version = shown.get(name, (None, 0))
        call, end = i - rng.random() * overlap * names, i + rng.random() * overlap * names
        common = dict(name=name, call=call, end=end, client=f"c{i % 7}")
        ambiguous = rng.random() < unsure
        kind = rng.choice((PUT, PUT, GET, GET, GET, DELETE))
        if kind == GET:
            bytes_too = rng.random() < 0.8
            history.append(Operation(kind=GET, outcome=DONE if value else NOT_FOUND, value=value if bytes_too else None,
                                     version=version if value else None, **common))
        elif kind == DELETE:
            outcome = AMBIGUOUS if ambiguous else DONE if value else NOT_FOUND
            history.append(Operation(kind=DELETE, outcome=outcome, **common))
            if not ambiguous or rng.random() < 0.5:
                shown[name] = (None, version)
        else:
            condition = rng.choice((None, None, ABSENT, version if value else 0, max(1, version - 1)))
            holds = {None: True, ABSENT: value is None}.get(condition, condition == (version if value else 0))
            new = f"v{i}"
            if not holds and not ambiguous:
                history.append(Operation(kind=PUT, value=new, outcome=CONFLICT, condition=condition, **common))
                continue
            happens = holds and (not ambiguous or rng.random() < 0.5)
            history.append(Operation(kind=PUT, value=new, outcome=AMBIGUOUS if ambiguous else DONE, condition=condition,
                                     version=None if ambiguous else version + 1, **common))
            if happens:
                shown[name] = (new, version + 1)
    return history


@pytest.mark.parametrize("seed", range(20))
def test_a_real_order_passes(seed):
    assert check(real_history(seed, 400, 1 + seed % 5)) == []


def _after_everything(history: list[Operation], name: str) -> float:
    return 1 + max(o.end for o in history if o.name == name)


@pytest.mark.parametrize("seed", range(20))
def test_one_answer_that_is_changed_is_found(seed):
    history = real_history(seed, 300, 2)
    rng = random.Random(seed)
    name = f"n{rng.randrange(2)}"
    puts = sorted((o for o in history if o.name == name and o.kind == PUT and o.outcome == DONE), key=lambda o: o.call)
    first = puts[0]
    assert any(o.call > first.end for o in puts), "nothing overwrites it"
    late = _after_everything(history, name)
    stale = Operation(name, GET, late, late + 1, DONE, first.value, first.version)
    (wrong,) = check([*history, stale])
    assert wrong.name == name and stale in wrong.part
    assert len(wrong.part) <= 12, f"not a small part:\n{wrong}"
    assert is_linearizable(list(wrong.part)) is False


@pytest.mark.parametrize("seed", range(10))
def test_a_lost_put_is_found(seed):
    """Acknowledged, and then not found by anybody, though nobody deleted it."""
    history = real_history(seed, 200, 1, unsure=0.0)
    late = _after_everything(history, "n0")
    lost = [Operation("n0", PUT, late, late + 1, DONE, "lost", 10_000), Operation("n0", GET, late + 2, late + 3, NOT_FOUND)]
    (wrong,) = check([*history, *lost])
    assert lost[1] in wrong.part and any(o.kind == PUT for o in wrong.part)


@pytest.mark.parametrize("seed", range(10))
def test_a_version_given_twice_is_found(seed):
    history = real_history(seed, 200, 1)
    done = [o for o in history if o.kind == PUT and o.outcome == DONE]
    again = dataclasses.replace(done[-1], version=done[0].version)
    assert len(check([again if o is done[-1] else o for o in history])) == 1


def test_a_hundred_thousand_operations_on_a_thousand_names():
    history = real_history(1, 100_000, 1000)
    start = time.monotonic()
    assert check(history) == []
    seconds = time.monotonic() - start
    print(f"100,000 operations in {seconds:.1f} s")
    assert seconds < 60


def test_one_name_with_many_operations():
    assert check(real_history(2, 5000, 1)) == []


def test_what_cannot_be_decided_is_said():
    history = [put(f"p{i}", 0, 1, outcome=AMBIGUOUS) for i in range(14)] + [delete(2, 3), get("z", 4, 5)]
    (wrong,) = check(history, steps=5)
    assert wrong.undecided and "not decided" in str(wrong)


def test_the_command(tmp_path):
    said: list[str] = []
    path = tmp_path / "history"
    path.write_text("\n".join(o.to_json() for o in BAD["an older value after a newer one"]) + "\n")
    assert main([str(path)], said.append) == 1
    assert said[-1] == "3 operations, 1 names, 1 wrong" and "x: no order explains these" in said[0]
    path.write_text("\n".join(o.to_json() for o in GOOD["an ambiguous put happened later"]) + "\n")
    assert main([str(path)], said.append) == 0
    assert main([], said.append) == 2


@pytest.mark.parametrize("change, field", [
    ({"kind": "look"}, "kind"), ({"outcome": "maybe"}, "outcome"), ({"end": -1.0}, "end"), ({"value": None}, "value"),
])
def test_what_is_no_operation_is_refused(change, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(A, **change)
