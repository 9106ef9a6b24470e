"""Reads the XML reports that pytest (JUnit) and GoogleTest (its close relative) write."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from runner.outcome import Outcome


def read_report(path: Path, prefix: str = "") -> Outcome:
    """Counts the test cases in the file. Raises ValueError when it is missing or not such a report."""
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"no readable test report {path.name}: {error}") from None
    if tree.getroot().tag not in ("testsuites", "testsuite"):
        raise ValueError(f"{path.name} is not a test report: root element {tree.getroot().tag}")
    outcome = Outcome()
    for case in tree.iter("testcase"):
        _count(case, prefix, outcome)
    return outcome


def _count(case: ElementTree.Element, prefix: str, outcome: Outcome) -> None:
    name = prefix + ".".join(filter(None, (case.get("classname"), case.get("name"))))
    bad = [child for child in case if child.tag in ("failure", "error")]
    skipped = case.find("skipped")
    if bad:
        outcome.fail(name, "\n".join(_text(child) for child in bad))
    elif case.get("status") == "notrun":  # GoogleTest's DISABLED_ tests
        outcome.skip(name, "disabled in the source")
    elif skipped is not None:
        outcome.skip(name, _reason(skipped))
    else:
        outcome.passed += 1


def _text(element: ElementTree.Element) -> str:
    return (element.text or element.get("message") or "").strip()


def _reason(skipped: ElementTree.Element) -> str:
    # GoogleTest: "file:line\nreason"; pytest: the reason itself.
    lines = (skipped.get("message") or skipped.text or "").strip().splitlines()
    return " ".join(line.strip() for line in lines[1:] or lines) or "no reason given"
