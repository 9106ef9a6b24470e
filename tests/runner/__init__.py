"""Runs every kind of test that Penstock has and counts them in one way; started by tests/run.

Reading order: outcome (what a run leaves), processes (one command, nothing left behind),
side_by_side (pytest, several processes over one folder), junit and verdicts (what
a command said), workspace (paths and environment), builds, groups (what each group does), lint, report, __main__.
Standard library only: it runs on Debian's Python before anything is installed.
"""
