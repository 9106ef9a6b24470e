"""Several pytest processes over one folder: each takes the next test file that none has taken.

    python -m runner.side_by_side REPORT.xml COUNT FOLDER [PYTEST_OPTION...]

writes REPORT-0.xml, REPORT-1.xml, ... and prints what each process printed, one after the other. Tests marked `alone`
(they change what the whole machine shares) run when all others have ended, in a process of their own. A test file is
never divided: fixtures of a module's scope stay what they are. Our own, as pytest-xdist divides by test, not by file,
unless told, and needs a library that Debian's Python does not have; this is loaded into pytest with -p.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Iterator

_CLAIMS = "RUNNER_CLAIMS"  # the folder in which a taken file has an entry
_FOUND_NONE = 5


def report_of(report: Path, number: int) -> Path:
    return report.with_name(f"{report.stem}-{number}{report.suffix}")


def reports(report: Path) -> list[Path]:
    """Those that an earlier run left."""
    return list(report.parent.glob(f"{report.stem}-*{report.suffix}"))


def main(argv: list[str]) -> int:
    report, count, options = Path(argv[0]), int(argv[1]), argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        claims = Path(folder, "claims")
        claims.mkdir()
        together = [_start(report, number, [*options, "-p", "runner.side_by_side", "-m", "not alone"], folder, **{_CLAIMS: str(claims)})
                    for number in range(count)]
        codes = [_finish(*started) for started in together]
        codes.append(_finish(*_start(report, count, [*options, "-m", "alone"], folder)))
    bad = [code for code in codes if code not in (0, _FOUND_NONE)]
    return max(bad, key=lambda code: code == 1) if bad else min(codes)


def _start(report: Path, number: int, options: list[str], folder: str, **environment: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    output = open(Path(folder, f"output-{number}"), "w+b")
    argv = [sys.executable, "-m", "pytest", *options, f"--junitxml={report_of(report, number)}"]
    return subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}), output


def _finish(process: subprocess.Popen[bytes], output: IO[bytes]) -> int:
    code = process.wait()
    with output:
        output.seek(0)
        sys.stdout.buffer.write(output.read())
    sys.stdout.buffer.flush()
    return code if code >= 0 else 128 - code  # as a shell says it


def _take(claims: Path, name: str) -> bool:
    try:
        Path(claims, name.replace("/", ":")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _mine(claims: Path, items: list) -> Iterator:
    """The tests of the files that this process gets, which is decided when the first one of a file is asked for."""
    mine: dict[str, bool] = {}
    for item in items:
        name = item.nodeid.partition("::")[0]
        if name not in mine:
            mine[name] = _take(claims, name)
        if mine[name]:
            yield item


def pytest_runtestloop(session) -> bool:
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    if session.config.option.collectonly:
        return True
    mine = _mine(Path(os.environ[_CLAIMS]), session.items)
    item = next(mine, None)
    while item is not None:
        following = next(mine, None)  # fixtures that it needs too are kept
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
