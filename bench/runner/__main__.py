"""bench/run [SUITE...] [--quick] [--json FILE]: measures, prints a table, writes the records."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from runner import machine
from runner.build import build
from runner.setting import Needs, Setting
from runner.suites import SUITES
from runner.table import table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures Penstock beside its ceilings.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", choices=[*SUITES, []],
                        help=f"{', '.join(SUITES)} (default: all but peers, which installs other stores, and scale, which takes an hour)")
    parser.add_argument("--quick", action="store_true", help="at most 60 s a suite: fewer rounds, smaller sets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    chosen = parser.parse_args()
    chosen.suites = chosen.suites or [name for name in SUITES if name not in ("peers", "scale")]
    return chosen


def needs_of(suites: list[str]) -> Needs:
    needs = [SUITES[name].NEEDS for name in suites]
    programs = dict.fromkeys(program for need in needs for program in need.programs)
    groups = dict.fromkeys(group for need in needs for group in need.groups)
    return Needs(tuple(programs), any(need.python for need in needs), tuple(groups))


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # nodes, peers and files go on the way out
    needs = needs_of(chosen.suites)
    folder = build(needs.programs, needs.python, needs.groups)
    print(machine.describe(), flush=True)
    records: list[dict] = []
    failed = []
    for name in chosen.suites:
        start = time.monotonic()
        print(f"\n{name}", flush=True)
        try:
            of_suite = SUITES[name].run(Setting(folder, chosen.quick))
        except Exception as error:
            print(f"bench: {name}: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(name)
            continue
        print(f"{table(of_suite)}\n{time.monotonic() - start:.0f} s", flush=True)
        records += of_suite
        if chosen.json:
            chosen.json.write_text(json.dumps(records, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
