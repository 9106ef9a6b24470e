"""What `cmake --install` gives: programs that find each other, and a package for find_package(Penstock)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from support.daemon import BUILD, DEADLINE_S, clean_environment, start_daemon

CONSUMER = Path(__file__).parent / "consumer"


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], env=clean_environment(), timeout=DEADLINE_S * 2,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{words[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", folder)
    yield folder


def test_the_installed_programs_say_the_same_version(prefix):
    versions = {run(prefix / "bin" / program, "--version").split()[-1] for program in ("penstock", "penstockd")}
    assert len(versions) == 1


def test_an_installed_store_serves_a_project_that_finds_the_package(prefix, short_tmp, tmp_path):
    run("cmake", "-S", CONSUMER, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    daemon = start_daemon(short_tmp / "installed", "--memory=64MiB", program=prefix / "bin" / "penstockd")
    try:
        maps = Path(f"/proc/{daemon.node_pid}/maps").read_text()
        assert f"{prefix}/" in maps and str(BUILD) not in maps, "it runs the build's libraries, not the installed ones"
        run(tmp_path / "consumer", daemon.socket_dir)
        assert "consumer/w" in run(prefix / "bin" / "penstock", "ls", "--address", daemon.socket_dir)
    finally:
        assert daemon.stop() == 0


def test_the_c_header_stands_alone(prefix, tmp_path):
    (tmp_path / "c.c").write_text("#include <penstock.h>\nint main(void) { return 0; }\n")
    run("cc", "-std=c11", "-Wall", "-Werror", f"-I{prefix}/include", tmp_path / "c.c", "-o", tmp_path / "c")
