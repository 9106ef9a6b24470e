"""Reads what a test script says: one line `PASS name`, `FAIL name: why` or `SKIP name: why` a test, and last
`N passed, N failed, N skipped`. The two must agree: a script that died half-way would miss the closing line."""

from __future__ import annotations

import re

from runner.outcome import Outcome

_VERDICT = re.compile(r"^(PASS|FAIL|SKIP)[: ]\s*([^:]+?)(?::\s*(.*))?$")
_CLOSING = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")


def read_verdicts(text: str, prefix: str = "") -> Outcome:
    """Raises ValueError when the closing line is missing or disagrees with the lines above it."""
    outcome = Outcome()
    closing = None
    for line in text.splitlines():
        line = line.rstrip()
        if match := _VERDICT.match(line):
            verdict, name, why = match.groups()
            if verdict == "PASS":
                outcome.passed += 1
            elif verdict == "FAIL":
                outcome.fail(prefix + name, why or "")
            else:
                outcome.skip(prefix + name, why or "no reason given")
        elif match := _CLOSING.match(line):
            closing = tuple(int(number or 0) for number in match.groups())
    if closing is None:
        raise ValueError("its closing line 'N passed, N failed, N skipped' is missing")
    counted = (outcome.passed, outcome.failed, outcome.skipped)
    if closing != counted:
        raise ValueError(f"it says {closing} passed, failed, skipped, but its lines are {counted}")
    return outcome
