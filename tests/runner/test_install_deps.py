"""deploy/install_deps on machines that lack something, played with stand-ins for apt-get and its friends."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = "apt build g++\napt build cmake\napt test  spin\n"


class Machine:
    """A copy of the script with a small table; each stand-in writes its arguments to `calls`."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.calls = folder / "project", folder / "bin", folder / "calls"
        (self.root / "deploy").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "deploy" / "install_deps", self.root / "deploy")
        (self.root / "deploy" / "dependencies.txt").write_text(TABLE)
        self.command("id", "echo 0")
        self.command("sleep", "true")
        self.command("apt-get", "true")
        self.installed()

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.calls}\n{script}\n')
        path.chmod(0o755)

    def installed(self, *packages: str) -> None:
        lines = "; ".join(f"echo installed {package}" for package in packages) or "true"
        self.command("dpkg-query", f"{lines}; exit 1")

    def run(self, *groups: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.root / "deploy" / "install_deps", *groups], capture_output=True, text=True,
            env={**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin"}, timeout=60,
        )

    def apt_calls(self) -> list[str]:
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [call.split("Use-Pty=0 ")[1] for call in calls if call.startswith("apt-get")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_nothing_missing_calls_no_network(machine):
    machine.installed("g++", "cmake", "spin")
    assert machine.run().returncode == 0
    assert machine.apt_calls() == []


def test_only_what_is_missing_in_the_group_is_installed(machine):
    machine.installed("cmake")
    assert machine.run("build").returncode == 0
    assert machine.apt_calls() == ["update", "install -y --no-install-recommends g++"]


def test_a_mirror_that_fails_is_tried_three_times(machine):
    machine.command("apt-get", "exit 100")
    ended = machine.run("build")
    assert ended.returncode == 1
    assert machine.apt_calls() == ["update"] * 3
    assert "apt-get update failed" in ended.stderr


def test_neither_root_nor_sudo_is_told(machine):
    machine.command("id", "echo 1000")
    for name in ("dirname", "awk", "comm", "sort", "grep", "flock", "bash", "env"):
        (machine.bin / name).symlink_to(shutil.which(name))
    ended = subprocess.run(
        [machine.root / "deploy" / "install_deps", "build"], capture_output=True, text=True,
        env={"PATH": str(machine.bin)}, timeout=60,
    )
    assert ended.returncode == 1
    assert "run as root, or install sudo; missing Debian packages: cmake g++" in ended.stderr


def test_sudo_is_used_by_others_than_root(machine):
    machine.command("id", "echo 1000")
    machine.command("sudo", '"$@"')
    assert machine.run("test").returncode == 0
    assert "sudo env DEBIAN_FRONTEND=noninteractive apt-get" in machine.calls.read_text()
    assert machine.apt_calls()[-1].endswith(" spin")


def test_unknown_group_is_named(machine):
    ended = machine.run("tests")
    assert ended.returncode == 1
    assert "no such group: 'tests'; the groups are: build test" in ended.stderr
