"""The groups of tests, in the order in which they run: the cheap and the basic first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from runner import cpp, lint, scripts
from runner.outcome import Outcome, skip
from runner.session import Session


@dataclass(frozen=True)
class Group:
    name: str
    about: str
    run: Callable[[Session], Outcome]
    dependencies: tuple[str, ...]  # groups of deploy/dependencies.txt
    folder: str  # a group whose folder holds no tests is a skip, told and counted


def holds_tests(root: Path, folder: str) -> bool:
    path = root / folder
    return path.is_file() or any(
        entry.is_file() and (entry.name == "run" or "test" in entry.stem) and entry.suffix != ".pyc"
        for entry in path.rglob("*")
    )


def run_group(group: Group, session: Session) -> Outcome:
    if not holds_tests(session.workspace.root, group.folder):
        return skip(group.name, f"{group.folder} holds no tests")
    outcome = group.run(session)
    if outcome.total == 0 and not session.name_filter:
        outcome.fail(group.name, "it ran no test")
    return outcome


_PYTHON = ("build", "test", "core", "pytest", "torch")

GROUPS = (
    Group("runner", "the test runner's and the benchmarks' own tests", scripts.run_runner, ("pytest",), "tests/runner"),
    Group("lint", "rules that the sources keep", lint.run_lint, ("test",), "tests/runner/lint.py"),
    Group("unit", "GoogleTest binaries", cpp.run_unit, ("build", "core"), "tests/unit"),
    Group("model", "the protocols, exhaustively", scripts.run_model, ("test",), "tests/model"),
    Group("python", "the Python client", scripts.run_python, _PYTHON, "tests/python"),
    Group("cluster", "real processes together", scripts.run_cluster, _PYTHON, "tests/cluster"),
    Group("fault", "death at every step", scripts.run_fault, _PYTHON, "tests/fault"),
    Group("rdma", "the lane over RDMA, on real verbs in a guest", scripts.run_rdma, ("build", "core", "rdma"), "tests/rdma/run"),
    Group("fuzz", "short runs over the corpus", scripts.run_fuzz, ("build", "test"), "tests/fuzz/run"),
    Group("sanitizers", "concurrent parts, instrumented", cpp.run_sanitizers, ("build",),
          "tests/sanitizers.txt"),
)
