"""The arithmetic: what is measured, and what the medians of its rounds say about its goal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median

# "value <= 60", "ratio >= 500", or several of them: "value <= 60 and ratio >= 500".
_GOAL = re.compile(r"(value|ratio) (<=|>=) ([0-9.]+)")


@dataclass(frozen=True)
class Ask:
    """One measurement of one worker, as the worker calls it; its answer times `scale` is in the case's unit."""

    worker: str
    measurement: str
    scale: float = 1.0


@dataclass(frozen=True)
class Case:
    """A question: how does `value` stand to `ceiling`, and is the goal met?"""

    name: str
    unit: str
    value: Ask
    ceiling: Ask | None = None
    ceiling_name: str = ""
    goal: str = ""
    better: str = "lower"

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better: is {self.better!r}; allowed are 'lower' and 'higher'")
        if self.ceiling and not self.ceiling_name:
            raise ValueError(f"{self.name}: a ceiling needs a name")
        goal_terms(self.goal)


def goal_terms(goal: str) -> list[tuple[str, str, float]]:
    """[("value", "<=", 60.0)]: what a goal says."""
    terms = []
    for term in goal.split(" and ") if goal else ():
        match = _GOAL.fullmatch(term)
        if not match:
            raise ValueError(f"goal: {term!r} is not like 'value <= 60' or 'ratio >= 0.95'")
        terms.append((match[1], match[2], float(match[3])))
    return terms


def ratio(value: float, ceiling: float, better: str) -> float:
    """How good the value is in ceilings: 1 is as good, 2 twice as good, 0.5 half as good."""
    worse, best = (value, ceiling) if better == "lower" else (ceiling, value)
    return best / worse if worse else float("inf")


def is_met(goal: str, value: float, quotient: float | None) -> bool | None:
    """None when there is no goal; a goal about a ratio that there is not is missed."""
    terms = goal_terms(goal)
    if not terms:
        return None
    figures = {"value": value, "ratio": quotient}
    return all(
        (figure := figures[name]) is not None and (figure <= bound if sign == "<=" else figure >= bound)
        for name, sign, bound in terms
    )


def record(suite: str, case: Case, values: list[float], ceilings: list[float]) -> dict:
    """What goes into the JSON file: medians of the rounds, and the median of the rounds' ratios.

    A round's value and ceiling were measured one after the other, so what slowed the machine down slowed
    both: their ratio says more than the ratio of two medians.
    """
    value = median(values)
    quotient = None
    if ceilings:
        quotient = median(ratio(v, c, case.better) for v, c in zip(values, ceilings, strict=True))
    return {
        "suite": suite, "case": case.name, "value": value, "unit": case.unit, "better": case.better,
        "ceiling": median(ceilings) if ceilings else None, "ceiling_name": case.ceiling_name or None,
        "ratio": quotient, "goal": case.goal or None, "met": is_met(case.goal, value, quotient),
    }
