"""Flags, help, exit codes and completion of the command line: what needs no node."""

from __future__ import annotations

import subprocess

import pytest

from support.daemon import BUILD, Cli

VERBS = [
    "ls", "stat", "put", "get", "rm", "cp", "watch", "top", "df", "nodes", "node", "tenants", "drain", "move", "sessions", "pins", "quarantine", "import", "export",
    "snapshot", "events", "doctor", "bench", "version", "completion",
]


@pytest.fixture
def bare(short_tmp) -> Cli:
    return Cli(short_tmp / "no-store")


def test_help_lists_every_verb(bare: Cli) -> None:
    text = bare.text("--help")
    listed = [line.split()[0] for line in text.split("Verbs:\n")[1].split("\n\n")[0].splitlines()]
    assert listed == VERBS
    assert bare.text("help") == text and bare.text("-h") == text
    assert "Verbs:" in bare.error(2)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_is_whole(bare: Cli, verb: str) -> None:
    text = bare.text(verb, "--help")
    assert text.startswith(f"penstock {verb}: ") and f"Usage: penstock {verb} [FLAGS]" in text
    assert "--address ADDRESS" in text and "--timeout TIME" in text and "[default: 5s]" in text
    assert "Exit codes: 0 done" in text
    assert max(map(len, text.splitlines())) <= 120
    assert bare.text("help", verb) == text
    if verb not in ("completion",):
        assert "JSON:" in text
    if verb != "version":
        assert "Examples:" in text


@pytest.mark.parametrize(
    "words, said",
    [
        (["list"], "'list' is no verb"),
        (["ls", "--nope"], "unknown flag --nope"),
        (["ls", "-z"], "unknown flag -z"),
        (["ls", "-lz"], "unknown flag -z in -lz"),
        (["ls", "a", "b"], "2 arguments were given"),
        (["get"], "0 arguments were given"),
        (["ls", "--limit"], "--limit needs a value"),
        (["ls", "--limit", "many"], "--limit: 'many'"),
        (["ls", "--limit", "-1"], "--limit: '-1'"),
        (["ls", "--long=yes"], "--long: 'yes'"),
        (["ls", "--output", "xml"], "table|json"),
        (["ls", "-o", "xml"], "table|json"),
        (["ls", "--timeout", "5"], "--timeout: '5'"),
        (["--timeout", "soon", "ls"], "--timeout: 'soon'"),
        (["ls", "--limit", "1", "--limit", "2"], "given twice"),
        (["completion", "fish"], "bash or zsh"),
        (["put", "x", "-", "--dtype", "f33", "--shape", "1"], "f33"),
        (["bench", "all"], "get, put or mixed"),
        (["bench", "--count", "0"], "--count: 0"),
        (["bench", "--seconds", "never"], "--seconds: 'never'"),
    ],
)
def test_bad_usage_names_flag_value_and_what_is_allowed(bare: Cli, words: list[str], said: str) -> None:
    assert said in bare.error(2, *words)


def test_flags_may_stand_anywhere_and_in_every_form(bare: Cli) -> None:
    for words in (
        ["--address", "/nowhere", "ls", "--timeout=100ms"], ["-a/nowhere", "ls", "--timeout", "100ms"],
        ["ls", "-a", "/nowhere", "-l", "--timeout", "100ms"], ["ls", "-la/nowhere", "--timeout", "100ms", "--", "--x"],
    ):
        assert "/nowhere" in bare.error(4, *words)


def test_version_needs_no_node(bare: Cli) -> None:
    told = bare.json("version", "--timeout", "100ms")
    assert list(told) == ["version", "layout_version", "node"] and told["node"] is None
    assert told["version"] in bare.text("version", "--timeout", "100ms")


def test_version_shows_the_node(cli: Cli) -> None:
    told = cli.json("version")
    assert told["node"] == {"version": told["version"], "layout_version": told["layout_version"]}


def complete(cli: Cli, tmp_path, *words: str) -> list[str]:
    """What bash offers for the last of the words, which is being typed."""
    script = tmp_path / "completion.bash"
    script.write_text(cli.text("completion", "bash"))
    program = """
      source "$1"; shift
      COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
      function=$(complete -p penstock | sed 's/.*-F \\([^ ]*\\).*/\\1/')
      "$function"
      printf '%s\\n' "${COMPREPLY[@]}"
    """
    result = subprocess.run(
        ["bash", "-c", program, "bash", script, "penstock", *words], capture_output=True, text=True, timeout=60,
        env={"PATH": f"{BUILD / 'bin'}:/usr/bin:/bin", "PENSTOCK_ADDRESS": str(cli.address)},
    )
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return result.stdout.split()


def test_bash_completion(cli: Cli, tmp_path) -> None:
    script = cli.text("completion", "bash")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    cli.run("put", "model/wte", "-", "--dtype", "u8", "--shape", "1", stdin=b"x")
    assert set(VERBS) <= set(complete(cli, tmp_path, ""))
    assert complete(cli, tmp_path, "ver") == ["version"]
    assert complete(cli, tmp_path, "ls", "--li") == ["--limit"]
    assert complete(cli, tmp_path, "ls", "-o", "") == ["table", "json"]
    assert complete(cli, tmp_path, "get", "mod") == ["model/wte"]
    assert complete(cli, tmp_path, "completion", "z") == ["zsh"]
    (tmp_path / "file.npy").touch()
    assert complete(cli, tmp_path, "import", f"{tmp_path}/file") == [f"{tmp_path}/file.npy"]


def test_zsh_completion_names_every_verb_and_flag(bare: Cli) -> None:
    script = bare.text("completion", "zsh")
    assert script.startswith("#compdef penstock")
    for verb in VERBS:
        assert f"\n    '{verb}:" in script and f"\n    {verb})\n" in script
    assert "'--prefix[" in script and "(table json)" in script
