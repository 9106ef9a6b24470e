"""Rules about the sources themselves. Each rule is one test: it passes, or names every place that breaks it."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator

from runner import includes
from runner.outcome import Outcome
from runner.session import Session

Rule = Callable[[Path, list[str]], Iterator[str]]  # (root, tracked files) -> violations

_TOP_LEVEL = {
    ".ci", ".clang-format", ".dockerignore", ".gitattributes", ".gitignore", "API.md", "ARCHITECTURE.md",
    "CHANGELOG.md", "CMakeLists.txt", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "bench",
    "client", "deploy", "docs", "proto", "pyproject.toml", "server", "tests", "transport",
}
_PRODUCT = ("proto/", "transport/", "server/", "client/")
_CODE = (".h", ".cc", ".c", ".cpp", ".py", ".proto", ".cmake", ".sh", ".pml", ".txt", ".toml")
# Written apart, or this file would break its own rule.
_UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b"
                         r"|\bfor" r" now\b")
_NOUN_NOT_FOUND = re.compile(r"(?:^|[/_])(?:utils?|helpers?|manager|common|impl)(?:[/_.]|$)")
_BANNER = ("Threading:", "Ownership:", "Errors:", "Limits:")


def run_lint(session: Session) -> Outcome:
    root = session.workspace.root
    files = tracked_files(root)
    outcome = Outcome()
    for name, rule in RULES.items():
        start = time.monotonic()
        violations = list(rule(root, files))
        one = Outcome(passed=0 if violations else 1)
        if violations:
            one.fail(name, "\n".join(violations))
        session.report.program(name, one, time.monotonic() - start)
        outcome.add(one)
    return outcome


def tracked_files(root: Path) -> list[str]:
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    ).stdout
    names = (name.decode("utf-8") for name in listing.split(b"\0") if name)
    return sorted(name for name in names if (root / name).is_file())


def shell_scripts_are_clean(root: Path, files: list[str]) -> Iterator[str]:
    scripts = [name for name in files if _is_shell(root / name)]
    checked = subprocess.run(
        ["shellcheck", "--format=gcc", *scripts],
        cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )
    yield from checked.stdout.splitlines() + checked.stderr.splitlines()


def _is_shell(path: Path) -> bool:
    with open(path, "rb") as file:
        return re.match(rb"#! ?\S*(?:/| )(?:ba)?sh\b", file.readline(80)) is not None


def folders_include_what_they_may(root: Path, files: list[str]) -> Iterator[str]:
    for name in files:
        if name.endswith((".h", ".cc", ".c")):
            yield from includes.violations(name, (root / name).read_text("utf-8", "replace"), set(files))


def nothing_is_left_unfinished(root: Path, files: list[str]) -> Iterator[str]:
    for name in files:
        if name.endswith(_CODE) or "." not in Path(name).name:
            for number, line in enumerate((root / name).read_text("utf-8", "replace").splitlines(), 1):
                if _UNFINISHED.search(line):
                    yield f"{name}:{number}: {line.strip()}"


def top_level_names_are_known(root: Path, files: list[str]) -> Iterator[str]:
    for name in sorted({name.split("/")[0] for name in files} - _TOP_LEVEL):
        yield f"{name}: not in the list of tests/runner/lint.py; is there a folder where it belongs?"


def file_names_name_their_noun(root: Path, files: list[str]) -> Iterator[str]:
    for name in files:
        if _NOUN_NOT_FOUND.search(name):
            yield f"{name}: utils, helpers, manager, common and impl say nothing; name the thing"


def headers_tell_their_contract(root: Path, files: list[str]) -> Iterator[str]:
    for name in files:
        if name.endswith(".h") and name.startswith(_PRODUCT):
            text = (root / name).read_text("utf-8", "replace")
            if missing := [word for word in _BANNER if word not in text]:
                yield f"{name}: its banner lacks {' '.join(missing)}"


def every_test_source_is_built(root: Path, files: list[str]) -> Iterator[str]:
    lists = "\n".join((root / f).read_text() for f in files if Path(f).name == "CMakeLists.txt")
    for name in files:
        path = Path(name)
        if name.startswith("tests/") and path.name.endswith(("_test.cc", "_test.c")):
            if not re.search(rf"(?<!\w){re.escape(path.name)}(?!\w)", lists):
                yield f"{name}: no CMakeLists.txt names it, so it never runs"


def python_tests_are_collected(root: Path, files: list[str]) -> Iterator[str]:
    for name in files:
        path = Path(name)
        if name.startswith("tests/") and path.suffix == ".py" and not path.name.startswith("test_"):
            if re.search(r"^\s*(?:async )?def test_", (root / name).read_text("utf-8"), re.MULTILINE):
                yield f"{name}: holds tests, but pytest collects test_*.py only"


def pins_agree(root: Path, files: list[str]) -> Iterator[str]:
    table = (root / "deploy" / "dependencies.txt").read_text("utf-8")
    pins = dict(re.findall(r"^pip\s+\S+\s+([\w.-]+)==(\S+)", table, re.MULTILINE))
    project = (root / "pyproject.toml").read_text("utf-8")
    for package, version in re.findall(r'"([\w.-]+)==([^"]+)"', project):
        if pins.get(package) != version:
            yield f"pyproject.toml: {package}=={version}, but deploy/dependencies.txt: {pins.get(package)}"


RULES: dict[str, Rule] = {
    "shell scripts are clean": shell_scripts_are_clean,
    "folders include what they may": folders_include_what_they_may,
    "nothing is left unfinished": nothing_is_left_unfinished,
    "top-level names are known": top_level_names_are_known,
    "file names name their noun": file_names_name_their_noun,
    "headers tell their contract": headers_tell_their_contract,
    "every test source is built": every_test_source_is_built,
    "python tests are collected": python_tests_are_collected,
    "pins agree": pins_agree,
}
