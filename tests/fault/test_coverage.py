"""Every fault point in the code is armed by some test here."""

import re

from support.daemon import ROOT

POINT = re.compile(r'PENSTOCK_FAULT_POINT\("((?:client|node)\.[a-z_.]+)"\)')


def test_every_fault_point_is_armed_by_a_test():
    points = {name
              for folder in ("client", "server", "transport")
              for path in (ROOT / folder).rglob("*.cc")
              for name in POINT.findall(path.read_text())}
    assert len(points) > 40, f"only {len(points)} points found: is the macro spelled otherwise?"
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "fault").glob("test_*.py"))
    assert sorted(name for name in points if f'"{name}"' not in tests) == []
