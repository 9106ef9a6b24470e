"""What a person reads while the tests run; the last line is for machines too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Sequence, TextIO

from runner.outcome import Outcome

_DETAIL_LINES = 40
_DETAILED_FAILURES = 20


class Report:
    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out

    def heading(self, group: str, about: str) -> None:
        self._say(f"== {group}: {about}")

    def step(self, argv: Sequence[str], ok: bool, seconds: float) -> None:
        """A preparation; one that had nothing to do is not worth a line."""
        if ok and seconds < 1.0:
            return
        words = [Path(argv[0]).name, *argv[1:]]
        short = " ".join(word for word in words if not word.startswith("-D"))
        self._say(f"  {'ready' if ok else 'BROKEN':6} {short} ({seconds:.1f} s)")

    def program(self, name: str, outcome: Outcome, seconds: float) -> None:
        if outcome.total == 0:  # the filter left nothing of it
            return
        verdict = "FAILED" if outcome.failed else "ok" if outcome.passed else "skip"
        self._say(f"  {verdict:6} {name:40} {_counts(outcome)} ({seconds:.1f} s)")

    def group_end(self, group: str, outcome: Outcome, seconds: float, log: Path) -> None:
        for skip in outcome.skips:
            self._say(f"  skipped {skip.name}: {skip.reason}")
        for number, failure in enumerate(outcome.failures):
            self._say(f"  FAILED {failure.name}")
            if number < _DETAILED_FAILURES:
                for line in failure.detail.splitlines()[-_DETAIL_LINES:]:
                    self._say(f"      {line}")
        if outcome.failed:
            self._say(f"  the whole log: {log}")
        self._say(f"-- {group}: {_counts(outcome)} in {seconds:.1f} s")

    def closing(self, outcome: Outcome) -> None:
        self._say("")
        self._say(outcome.closing_line())

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


def _counts(outcome: Outcome) -> str:
    # Not in the form of the closing line, which may stand once only.
    return f"passed {outcome.passed}, failed {outcome.failed}, skipped {outcome.skipped}"
