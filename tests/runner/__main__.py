"""tests/run [GROUP...] [-k FILTER] [--list]: installs, builds, runs, counts.

The last line is `N passed, N failed, N skipped`; the exit status is 1 when anything failed, or nothing ran.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path

from runner.groups import GROUPS, Group, run_group
from runner.outcome import Outcome, failure
from runner.report import Report
from runner.session import Session
from runner.workspace import Workspace


def main(argv: list[str]) -> int:
    options = _parse(argv)
    if options.list:
        for group in GROUPS:
            print(f"{group.name:12} {group.about} ({group.folder})")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `tests/run &`: what ignores it cannot be interrupted by the tests
        signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = [group for group in GROUPS if not options.group or group.name in options.group]
    session = Session(Workspace(Path(__file__).resolve().parents[2]), Report())
    session.name_filter = options.k
    total = Outcome()
    for group in chosen:
        total.add(_run_one(group, session))
    if total.passed + total.failed == 0:
        total.fail("tests/run", "no test ran")
    session.report.closing(total)
    return 1 if total.failed else 0


def _parse(argv: list[str]) -> argparse.Namespace:
    names = [group.name for group in GROUPS]
    parser = argparse.ArgumentParser(prog="tests/run", description="Builds Penstock and runs its tests.")
    parser.add_argument("group", nargs="*", help=f"any of: {' '.join(names)} (default: all)")
    parser.add_argument("-k", metavar="FILTER", default="", help="only tests with FILTER in the name")
    parser.add_argument("--list", action="store_true", help="print the groups")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.group) - set(names)):
        parser.error(f"no such group: {' '.join(unknown)} (there are: {' '.join(names)})")
    return options


def _run_one(group: Group, session: Session) -> Outcome:
    session.group = group.name
    log = session.workspace.log_path(group.name)
    log.unlink(missing_ok=True)
    shutil.rmtree(session.workspace.logs / group.name, ignore_errors=True)
    session.report.heading(group.name, group.about)
    start = time.monotonic()
    with session.workspace.scratch() as scratch:
        session.environment = session.workspace.environment(scratch)
        install = [session.workspace.root / "deploy" / "install_deps", *group.dependencies]
        if why := session.prepare(install, timeout=1800):
            outcome = failure(f"{group.name}: deploy/install_deps", why)
        else:
            outcome = run_group(group, session)
    session.report.group_end(group.name, outcome, time.monotonic() - start, log)
    return outcome


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
