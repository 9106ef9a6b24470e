"""What one call of tests/run knows: where things are, the filter, and how a command is run, logged and counted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

from runner import processes
from runner.outcome import Outcome, failure
from runner.report import Report
from runner.workspace import Workspace, tail

TESTS_SETTINGS = (
    "-DPENSTOCK_BUILD_TESTS=ON",
    "-DPENSTOCK_BUILD_BENCH=ON",
    "-DPENSTOCK_FAULT_POINTS=ON",
)


@dataclass
class Session:
    workspace: Workspace
    report: Report
    group: str = ""
    name_filter: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    _prepared: dict[tuple[str, ...], str] = field(default_factory=dict)
    _command_start: int = 0  # where the last command's output begins in the group's log

    def run(self, argv: Sequence[str | Path], timeout: float, **more_env: str) -> processes.Ended:
        with self.workspace.open_log(self.group) as log:
            log.write(f"\n$ {' '.join(str(a) for a in argv)}\n".encode())
            self._command_start = log.tell()
            return processes.run(
                argv,
                log=log,
                timeout=timeout,
                cwd=self.workspace.root,
                env={**self.environment, **more_env},
            )

    def prepare(self, argv: Sequence[str | Path], timeout: float) -> str:
        """Runs a step that tests need, once a session. Empty when it went well, else what went wrong."""
        key = tuple(str(a) for a in argv)
        if key not in self._prepared:
            start = time.monotonic()
            ended = self.run(argv, timeout)
            why = "" if ended.ok else f"{ended.why()}\n{self.output()}"
            self._prepared[key] = why
            self.report.step(key, ended.ok, time.monotonic() - start)
        return self._prepared[key]

    def build(self) -> str:
        """The build folder of all groups but fuzz and sanitizers. Empty when it went well."""
        script = self.workspace.root / "deploy" / "build"
        return self.prepare([script, "--dir", "build", *TESTS_SETTINGS], timeout=3000)

    def program(
        self,
        name: str,
        argv: Sequence[str | Path],
        read: Callable[[processes.Ended], Outcome],
        timeout: float,
        good_codes: tuple[int, ...] = (0,),
        **more_env: str,
    ) -> Outcome:
        """Runs one test program and counts what `read` finds, how it ended, and what it left behind."""
        ended = self.run(argv, timeout, **more_env)
        try:
            outcome = read(ended)
        except ValueError as error:
            outcome = failure(name, f"{ended.why()}; {error}\n{self.output()}")
        if (ended.timed_out or ended.code not in good_codes) and not outcome.failures:
            outcome.fail(name, f"{ended.why()}, though no test in it failed\n{self.output()}")
        if ended.left_behind:
            outcome.fail(f"{name} leaves no process", "\n".join(ended.left_behind))
        self.report.program(name, outcome, ended.seconds)
        return outcome

    def output(self, lines: int = 40) -> str:
        """The last lines that the last command printed."""
        return tail(self.workspace.log_path(self.group), self._command_start, lines)
