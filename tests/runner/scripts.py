"""Groups that are one command: pytest over a folder, or a script that prints verdicts."""

from __future__ import annotations

from pathlib import Path

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
    return _built_pytest(session, "tests/python", timeout=1200)


def run_cluster(session: Session) -> Outcome:
    return _built_pytest(session, "tests/cluster", timeout=1200)


def run_fault(session: Session) -> Outcome:
    return _built_pytest(session, "tests/fault", timeout=1200)


def run_model(session: Session) -> Outcome:
    return _script(session, ["tests/model/run"], timeout=900)


def run_rdma(session: Session) -> Outcome:
    if why := session.build():
        return failure("build", why)
    return _script(session, ["tests/rdma/run", "--build", str(session.workspace.build)], timeout=1500)


def run_fuzz(session: Session) -> Outcome:
    return _script(session, ["tests/fuzz/run", "--seconds", "5"], timeout=1800)


def _built_pytest(session: Session, folder: str, timeout: float) -> Outcome:
    if why := session.build():
        return failure("build", why)
    return _pytest(session, folder, timeout)


def _pytest(session: Session, folder: str, timeout: float) -> Outcome:
    xml = session.workspace.logs / f"{session.group}-{folder.replace('/', '-')}.xml"
    xml.unlink(missing_ok=True)
    argv: list[str | Path] = [
        session.workspace.python, "-m", "pytest", folder, "-q", "--durations=10",
        f"--junitxml={xml}", f"--timeout={_SECONDS_PER_PYTHON_TEST}", "-p", "no:cacheprovider",
    ]
    if session.name_filter:
        argv += ["-k", session.name_filter]

    def count(ended: Ended) -> Outcome:
        return read_report(xml)

    return session.program(folder, argv, count, timeout, good_codes=(0, _PYTEST_FOUND_NONE))


def _script(session: Session, argv: list[str], timeout: float) -> Outcome:
    def count(ended: Ended) -> Outcome:
        return read_verdicts(session.output(lines=10_000), prefix=f"{session.group}/")

    return session.program(argv[0], argv, count, timeout)
