"""How failures of all kinds reach the count: the runner must not be the place where they get lost."""

import io
import sys

import pytest

from runner import cpp
from runner.groups import Group, run_group
from runner.junit import read_report
from runner.outcome import Outcome
from runner.report import Report
from runner.session import Session
from runner.workspace import Workspace


@pytest.fixture
def session(tmp_path):
    (tmp_path / "tests").mkdir()
    return Session(Workspace(tmp_path), Report(io.StringIO()), group="unit")


def program(session, script, read=lambda ended: Outcome(passed=1), timeout=30, **options):
    return session.program("job", ["bash", "-c", script], read, timeout, **options)


def test_good_program_passes(session):
    assert program(session, "true").closing_line() == "1 passed, 0 failed, 0 skipped"


def test_bad_exit_after_good_tests_is_a_failure(session):
    outcome = program(session, "echo leak found; exit 66")
    assert outcome.closing_line() == "1 passed, 1 failed, 0 skipped"
    assert "exit code 66" in outcome.failures[0].detail
    assert "leak found" in outcome.failures[0].detail


def test_a_failure_shows_its_own_output_only(session):
    program(session, "echo earlier")
    detail = program(session, "echo mine; exit 1").failures[0].detail
    assert "mine" in detail and "earlier" not in detail


def test_codes_that_are_no_failure(session):
    assert program(session, "exit 5", good_codes=(0, 5)).failed == 0


def test_crash_without_report_is_a_failure(session, tmp_path):
    outcome = program(session, "kill -ABRT $$", lambda ended: read_report(tmp_path / "none.xml"))
    assert outcome.closing_line() == "0 passed, 1 failed, 0 skipped"
    assert "SIGABRT" in outcome.failures[0].detail


def test_time_limit_is_a_failure(session):
    outcome = program(session, "sleep 1000", timeout=0.3)
    assert "time limit" in outcome.failures[-1].detail


def test_process_left_behind_is_a_failure(session, monkeypatch):
    monkeypatch.setattr("runner.processes.run.__kwdefaults__", {
        **sys.modules["runner.processes"].run.__kwdefaults__, "grace": 0.2})
    outcome = program(session, "setsid sleep 1000 &")
    assert outcome.closing_line() == "1 passed, 1 failed, 0 skipped"
    assert "sleep 1000" in outcome.failures[0].detail


def test_broken_step_is_told_each_time_and_run_once(session, tmp_path):
    step = ["bash", "-c", f"echo x >>{tmp_path}/ran; echo no compiler; exit 2"]
    first, second = session.prepare(step, 30), session.prepare(step, 30)
    assert "no compiler" in first and first == second
    assert (tmp_path / "ran").read_text() == "x\n"


def group_of(run):
    return Group("unit", "", run, (), "tests/unit")


def test_group_without_test_files_is_a_told_skip(session):
    outcome = run_group(group_of(lambda s: pytest.fail("must not run")), session)
    assert outcome.closing_line() == "0 passed, 0 failed, 1 skipped"
    assert "holds no tests" in outcome.skips[0].reason


def test_group_that_ran_nothing_is_a_failure(session):
    (session.workspace.root / "tests/unit").mkdir()
    (session.workspace.root / "tests/unit/a_test.cc").touch()
    assert run_group(group_of(lambda s: Outcome()), session).failed == 1
    session.name_filter = "Some"
    assert run_group(group_of(lambda s: Outcome()), session).failed == 0


def test_sanitizer_list(tmp_path):
    path = tmp_path / "sanitizers.txt"
    path.write_text("# all\nthread pins_test Pin*  # only these\naddress files_test\n\n")
    assert cpp.read_sanitizer_list(path) == [
        cpp.Sanitized("thread", "pins_test", "Pin*"), cpp.Sanitized("address", "files_test", "")]


@pytest.mark.parametrize("line", ["memory pins_test", "thread", "thread a b c"])
def test_bad_sanitizer_line_is_an_error(tmp_path, line):
    path = tmp_path / "sanitizers.txt"
    path.write_text(line)
    with pytest.raises(ValueError, match="sanitizers.txt:1"):
        cpp.read_sanitizer_list(path)


def test_stores_of_the_caller_are_out_of_reach(session, monkeypatch, tmp_path):
    monkeypatch.setenv("PENSTOCK_ADDRESS", "/run/penstock")
    assert "PENSTOCK_ADDRESS" not in session.workspace.environment(tmp_path)
