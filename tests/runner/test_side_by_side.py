"""Test files that several processes share: each runs once, whole, and no failure gets lost."""

import io
import os
import re
import sys
from pathlib import Path

import pytest

from runner import scripts, side_by_side
from runner.outcome import Outcome
from runner.report import Report
from runner.session import Session
from runner.workspace import Workspace

HEAD = """
import os, time
import pytest
def note(text):
    with open(os.environ["NOTES"], "a") as out:
        out.write(f"{os.getpid()} {text}\\n")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "tests"


def run(folder: Path, processes: int = 3, filter: str = "") -> Outcome:
    session = Session(Workspace(folder.parent), Report(io.StringIO()), group="python", name_filter=filter)
    session.workspace.python = Path(sys.executable)
    session.build = lambda: ""
    session.environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return scripts._built_pytest(session, "tests", processes, timeout=60)


def notes(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder.parent / "notes").read_text().splitlines()]


def test_each_test_runs_once_and_a_file_stays_in_one_process(folder):
    for name in "abcdef":
        (folder / f"test_{name}.py").write_text(HEAD + f"""
@pytest.fixture(scope="module")
def made():
    note("{name} begins")
    yield
    note("{name} ends")
@pytest.mark.parametrize("i", range(4))
def test_it(made, i):
    time.sleep(0.05)
    note(f"{name} {{i}}")
""")
    assert run(folder).closing_line() == "24 passed, 0 failed, 0 skipped"
    for name in "abcdef":
        mine = [note for note in notes(folder) if note[1] == name]
        assert [note[2] for note in mine] == ["begins", "0", "1", "2", "3", "ends"] and len({note[0] for note in mine}) == 1
    assert len({note[0] for note in notes(folder)}) > 1, "one process ran all"


def test_what_must_run_alone_runs_when_the_others_have_ended(folder):
    for name in "abc":
        (folder / f"test_{name}.py").write_text(HEAD + """
@pytest.mark.alone
def test_alone():
    note("alone begins"); time.sleep(0.05); note("alone ends")
def test_other():
    time.sleep(0.1); note("other")
""")
    assert run(folder).closing_line() == "6 passed, 0 failed, 0 skipped"
    assert re.fullmatch(r"(other ){3}(alone begins alone ends ?){3}", " ".join(" ".join(note[1:]) for note in notes(folder)))


def test_failures_and_skips_are_counted_wherever_they_are(folder):
    (folder / "test_a.py").write_text(HEAD + "def test_a(): assert 0, 'seen'\n")
    (folder / "test_b.py").write_text(HEAD + "def test_b(): pytest.skip('no card')\n@pytest.mark.alone\ndef test_c(): assert 0\n")
    (folder / "test_d.py").write_text(HEAD + "def test_d(): pass\n")
    outcome = run(folder)
    assert outcome.closing_line() == "1 passed, 2 failed, 1 skipped"
    assert "seen" in outcome.failures[0].detail and outcome.skips[0].reason.endswith("no card")


def test_a_process_that_dies_is_a_failure(folder):
    (folder / "test_a.py").write_text(HEAD + "def test_a(): os.abort()\n")
    (folder / "test_b.py").write_text(HEAD + "def test_b(): pass\n")
    outcome = run(folder)
    assert outcome.failed == 1 and "exit code 134" in outcome.failures[0].detail


def test_a_file_that_cannot_be_loaded_is_a_failure(folder):
    (folder / "test_a.py").write_text("import nothing_of_this_name\n")
    (folder / "test_b.py").write_text("def test_b(): pass\n")
    outcome = run(folder)
    assert outcome.failed > 0 and "nothing_of_this_name" in outcome.failures[0].detail


def test_a_filter_may_leave_nothing(folder):
    (folder / "test_a.py").write_text("def test_a(): pass\ndef test_b(): pass\n")
    assert run(folder, filter="test_b").closing_line() == "1 passed, 0 failed, 0 skipped"
    assert run(folder, filter="none_such").closing_line() == "0 passed, 0 failed, 0 skipped"


def test_reports_of_an_earlier_run_are_not_counted(folder):
    (folder / "test_a.py").write_text("def test_a(): pass\n")
    run(folder, processes=4)
    assert len(side_by_side.reports(folder.parent / "build" / "test-logs" / "python-tests.xml")) == 5
    (folder / "test_a.py").write_text("import os\ndef test_a(): os._exit(0)\n")
    assert run(folder, processes=2).failed == 1
