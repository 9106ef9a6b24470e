"""GoogleTest binaries: all of them natively (unit), the concurrent ones under sanitizers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runner.junit import read_report
from runner.outcome import Outcome, failure
from runner.processes import Ended
from runner.session import Session

_SECONDS_PER_PROGRAM = 180
_SECONDS_PER_SANITIZED_PROGRAM = 600

# Every finding ends the program: a report in a log that nobody reads is no test.
_SANITIZER_OPTIONS = {
    # transport/ is linked into both libpenstock.so and libpenstock_node.so, and one test loads both: no violation.
    "address": ("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=66:detect_odr_violation=0"),
    "thread": ("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1:exitcode=66"),
    "undefined": ("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1:exitcode=66"),
}


def run_unit(session: Session) -> Outcome:
    if why := session.build():
        return failure("build", why)
    outcome = Outcome()
    for name, command in registered_tests(session.workspace.build):
        outcome.add(_run_registered(session, name, command))
    return outcome


def registered_tests(build: Path) -> list[tuple[str, list[str]]]:
    """What CMake's add_test registered, so a binary of an earlier build is not run and a missing one is seen."""
    listing = subprocess.run(
        ["ctest", "--test-dir", str(build), "--show-only=json-v1"],
        check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    ).stdout
    tests = json.loads(listing)["tests"]
    return sorted((test["name"], test.get("command") or [test["name"]]) for test in tests)


def _run_registered(session: Session, name: str, command: list[str]) -> Outcome:
    if Path(command[0]).parent == session.workspace.build / "tests" / "bin":
        return _run_gtest(session, name, Path(command[0]), _SECONDS_PER_PROGRAM)

    def verdict(ended: Ended) -> Outcome:
        return Outcome(passed=1) if ended.ok else failure(name, ended.why())

    return session.program(name, command, verdict, _SECONDS_PER_PROGRAM)


def _run_gtest(
    session: Session, name: str, binary: Path, timeout: float, only: str = "", **env: str
) -> Outcome:
    if not binary.exists():
        return failure(name, f"{binary} was not built")
    xml = session.workspace.logs / session.group / f"{name.replace('/', '-')}.xml"
    xml.parent.mkdir(exist_ok=True)
    xml.unlink(missing_ok=True)
    argv = [binary, f"--gtest_output=xml:{xml}"]
    if session.name_filter:
        argv.append(f"--gtest_filter=*{session.name_filter}*")
    elif only:
        argv.append(f"--gtest_filter={only}")

    def count(ended: Ended) -> Outcome:
        outcome = read_report(xml, prefix=f"{name}/")
        if outcome.total == 0 and not session.name_filter:
            outcome.fail(name, "it holds no test")
        return outcome

    return session.program(name, argv, count, timeout, **env)


@dataclass(frozen=True)
class Sanitized:
    sanitizer: str
    target: str
    only: str  # --gtest_filter; empty = all


def read_sanitizer_list(path: Path) -> list[Sanitized]:
    """Lines `SANITIZER TARGET [GTEST_FILTER]`; # begins a comment."""
    jobs = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) not in (2, 3) or words[0] not in _SANITIZER_OPTIONS:
            raise ValueError(f"{path.name}:{number}: want '{'|'.join(_SANITIZER_OPTIONS)} TARGET [FILTER]'")
        jobs.append(Sanitized(words[0], words[1], words[2] if len(words) == 3 else ""))
    return jobs


def run_sanitizers(session: Session) -> Outcome:
    jobs = read_sanitizer_list(session.workspace.root / "tests" / "sanitizers.txt")
    outcome = Outcome()
    for sanitizer in _SANITIZER_OPTIONS:
        mine = [job for job in jobs if job.sanitizer == sanitizer]
        if mine:
            outcome.add(_run_sanitizer(session, sanitizer, mine))
    return outcome


def _run_sanitizer(session: Session, sanitizer: str, jobs: list[Sanitized]) -> Outcome:
    root = session.workspace.root
    folder = f"build-{sanitizer}"
    targets = sorted({job.target for job in jobs})
    why = session.prepare(
        [root / "deploy" / "build", "--dir", folder, "-DPENSTOCK_BUILD_TESTS=ON",
         "-DPENSTOCK_BUILD_PYTHON=OFF", "-DPENSTOCK_FAULT_POINTS=ON",
         f"-DPENSTOCK_SANITIZE={sanitizer}", *targets],
        timeout=2400,
    )
    if why:
        return failure(f"{sanitizer}: build", why)
    variable, options = _SANITIZER_OPTIONS[sanitizer]
    suppressions = root / "tests" / f"{sanitizer}.supp"
    if suppressions.exists():
        options += f":suppressions={suppressions}"
    outcome = Outcome()
    for job in jobs:
        binary = root / folder / "tests" / "bin" / job.target
        outcome.add(
            _run_gtest(session, f"{sanitizer}/{job.target}", binary,
                       _SECONDS_PER_SANITIZED_PROGRAM, job.only, **{variable: options})
        )
    return outcome
