"""Groups that are one command: pytest over a folder, or a script that prints verdicts."""

from __future__ import annotations

import os
from pathlib import Path

from runner import side_by_side
from runner.junit import read_report
from runner.outcome import Outcome, failure
from runner.processes import Ended
from runner.session import Session
from runner.verdicts import read_verdicts

_SECONDS_PER_PYTHON_TEST = 120
_PYTEST_FOUND_NONE = 5  # no failure when a filter was given; without one, run_group sees the zero


def run_runner(session: Session) -> Outcome:
    # Two packages of one name: one process each.
    outcome = _pytest(session, "tests/runner", timeout=300)
    outcome.add(_pytest(session, "bench/runner", timeout=300))
    return outcome


def run_python(session: Session) -> Outcome:
    return _built_pytest(session, "tests/python", _cores(), timeout=1200)


def run_cluster(session: Session) -> Outcome:
    return _built_pytest(session, "tests/cluster", 1 + _cores(), timeout=1500)


def run_fault(session: Session) -> Outcome:
    return _built_pytest(session, "tests/fault", 1 + _cores(), timeout=1500)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def run_model(session: Session) -> Outcome:
    return _script(session, ["tests/model/run"], timeout=900)


def run_rdma(session: Session) -> Outcome:
    if why := session.build():
        return failure("build", why)
    return _script(session, ["tests/rdma/run", "--build", str(session.workspace.build)], timeout=1500)


def run_fuzz(session: Session) -> Outcome:
    return _script(session, ["tests/fuzz/run", "--seconds", "5"], timeout=1800)


def _built_pytest(session: Session, folder: str, processes: int, timeout: float) -> Outcome:
    """`processes`: how many take the folder's files side by side; where tests mostly wait, more than there are cores."""
    if why := session.build():
        return failure("build", why)
    report = _report(session, folder)
    for old in side_by_side.reports(report):
        old.unlink()

    def count(ended: Ended) -> Outcome:
        outcome = Outcome()
        for number in range(processes + 1):
            outcome.add(read_report(side_by_side.report_of(report, number)))
        return outcome

    argv = [session.workspace.python, "-m", "runner.side_by_side", report, str(processes), folder, *_pytest_options(session)]
    return session.program(folder, argv, count, timeout, good_codes=(0, _PYTEST_FOUND_NONE))


def _pytest(session: Session, folder: str, timeout: float) -> Outcome:
    report = _report(session, folder)
    report.unlink(missing_ok=True)

    def count(ended: Ended) -> Outcome:
        return read_report(report)

    argv = [session.workspace.python, "-m", "pytest", folder, f"--junitxml={report}", *_pytest_options(session)]
    return session.program(folder, argv, count, timeout, good_codes=(0, _PYTEST_FOUND_NONE))


def _report(session: Session, folder: str) -> Path:
    return session.workspace.logs / f"{session.group}-{folder.replace('/', '-')}.xml"


def _pytest_options(session: Session) -> list[str]:
    options = ["-q", "--durations=10", f"--timeout={_SECONDS_PER_PYTHON_TEST}", "-p", "no:cacheprovider"]
    if session.name_filter:
        options += ["-k", session.name_filter]
    return options


def _script(session: Session, argv: list[str], timeout: float) -> Outcome:
    def count(ended: Ended) -> Outcome:
        return read_verdicts(session.output(lines=10_000), prefix=f"{session.group}/")

    return session.program(argv[0], argv, count, timeout)
