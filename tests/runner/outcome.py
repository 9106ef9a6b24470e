"""What a run of tests leaves: how many passed, which failed and why, which were skipped and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Failure:
    name: str
    detail: str = ""  # a few lines for a person; may be empty


@dataclass(frozen=True)
class Skip:
    name: str
    reason: str


@dataclass
class Outcome:
    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def skipped(self) -> int:
        return len(self.skips)

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.skipped

    def add(self, other: Outcome) -> None:
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips

    def fail(self, name: str, detail: str = "") -> None:
        self.failures.append(Failure(name, detail))

    def skip(self, name: str, reason: str) -> None:
        self.skips.append(Skip(name, reason))

    def closing_line(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def failure(name: str, detail: str = "") -> Outcome:
    return Outcome(failures=[Failure(name, detail)])


def skip(name: str, reason: str) -> Outcome:
    return Outcome(skips=[Skip(name, reason)])
