"""What the runner reads in other programs' reports."""

import pytest

from runner.junit import read_report
from runner.verdicts import read_verdicts

GTEST = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="4" failures="1" disabled="1" errors="0" time="0." name="AllTests">
  <testsuite name="Pins" tests="4">
    <testcase name="Works" status="run" result="completed" classname="Pins" />
    <testcase name="Breaks" status="run" result="completed" classname="Pins">
      <failure message="a.cc:3&#x0A;Expected 1" type=""><![CDATA[a.cc:3
Expected 1]]></failure>
      <failure message="a.cc:4" type=""><![CDATA[a.cc:4
Expected 2]]></failure>
    </testcase>
    <testcase name="NeedsRdma" status="run" result="skipped" classname="Pins">
      <skipped message="a.cc:9&#x0A;no RDMA device&#x0A;"><![CDATA[a.cc:9
no RDMA device
]]></skipped>
    </testcase>
    <testcase name="DISABLED_Later" status="notrun" result="suppressed" classname="Pins" />
  </testsuite>
</testsuites>"""

PYTEST = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4">
  <testcase classname="tests.test_a" name="test_good" time="0.1" />
  <testcase classname="tests.test_a" name="test_bad"><failure message="assert 0">why</failure></testcase>
  <testcase classname="" name="tests.test_b"><error message="collection failure">no module</error></testcase>
  <testcase classname="tests.test_a" name="test_gpu"><skipped message="no GPU">t.py:3: no GPU</skipped></testcase>
</testsuite></testsuites>"""


def write(tmp_path, text):
    path = tmp_path / "report.xml"
    path.write_text(text)
    return path


def test_gtest_report(tmp_path):
    outcome = read_report(write(tmp_path, GTEST), prefix="pins_test/")
    assert outcome.passed == 1
    assert [f.name for f in outcome.failures] == ["pins_test/Pins.Breaks"]
    assert outcome.failures[0].detail == "a.cc:3\nExpected 1\na.cc:4\nExpected 2"
    assert [(s.name, s.reason) for s in outcome.skips] == [
        ("pins_test/Pins.NeedsRdma", "no RDMA device"),
        ("pins_test/Pins.DISABLED_Later", "disabled in the source"),
    ]


def test_pytest_report_counts_errors_as_failures(tmp_path):
    outcome = read_report(write(tmp_path, PYTEST))
    assert outcome.closing_line() == "1 passed, 2 failed, 1 skipped"
    assert outcome.skips[0].reason == "no GPU"
    assert outcome.failures[1].detail == "no module"


@pytest.mark.parametrize("text", ["", "<testsuites>", "<html/>"])
def test_a_report_that_is_none_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match="report"):
        read_report(write(tmp_path, text))


def test_a_missing_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no readable test report"):
        read_report(tmp_path / "none.xml")


def test_verdict_lines():
    outcome = read_verdicts(
        "spin: building\nPASS pin protocol\nFAIL no re-load: 0 errors found\nSKIP huge: no memory\n"
        "1 passed, 1 failed, 1 skipped\n",
        prefix="model/",
    )
    assert outcome.passed == 1
    assert (outcome.failures[0].name, outcome.failures[0].detail) == ("model/no re-load", "0 errors found")
    assert outcome.skips[0].reason == "no memory"


def test_verdicts_without_closing_line_are_an_error():
    with pytest.raises(ValueError, match="closing line"):
        read_verdicts("PASS one\n")


def test_verdicts_that_disagree_with_the_closing_line_are_an_error():
    with pytest.raises(ValueError, match="but its lines are"):
        read_verdicts("PASS one\n2 passed, 0 failed, 0 skipped\n")
