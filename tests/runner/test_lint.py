"""Each rule of lint finds what it is there to find, and leaves good sources alone."""

import subprocess

import pytest

from runner import includes, lint

FILES = {
    "transport/copy/copy.h", "server/pins.h", "client/include/penstock/client.h", "proto/names.h",
    "proto/include/penstock/dtype.h",
}


@pytest.mark.parametrize("name, line, broken", [
    ("server/a.cc", '#include "transport/copy/copy.h"', ""),
    ("server/a.cc", '#include <penstock/dtype.h>', ""),
    ("server/a.cc", '#include <penstock/client.h>', "server/ may not include client/"),
    ("client/a.cc", '#include "server/pins.h"', "client/ may not include server/"),
    ("transport/a.cc", '#include "proto/names.h"', "transport/ may not include proto/"),
    ("proto/a.cc", '  #  include "transport/copy/copy.h"', "proto/ may not include transport/"),
    ("tests/unit/a.cc", '#include "server/pins.h"', ""),
    ("server/a.cc", '#include "pins.h"', "paths from the root"),
    ("server/a.cc", '#include "server/gone.h"', "paths from the root"),
    ("server/a.cc", '#include "proto/store.grpc.pb.h"', ""),
    ("server/a.cc", '#include "absl/status/status.h"', ""),
    ("server/a.cc", '#include <vector>', ""),
])
def test_includes(name, line, broken):
    found = list(includes.violations(name, f"// first\n{line}\n", FILES))
    if broken:
        assert len(found) == 1 and broken in found[0] and f"{name}:2" in found[0]
    else:
        assert found == []


def broken_by(rule, tmp_path, **contents):
    files = {}
    for name, text in contents["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files[name] = text
    return list(rule(tmp_path, sorted(files)))


@pytest.mark.parametrize("rule, good, bad", [
    (lint.shell_scripts_are_clean,
     {"run": '#!/bin/bash\nset -e\necho "$1"\n', "run.py": "#!/usr/bin/python3\n"},
     {"run": "#!/usr/bin/env bash\nrm $1\n"}),
    (lint.nothing_is_left_unfinished,
     {"a.cc": "// mastodon, for nowhere\n"}, {"a.cc": "int x;  // TO" "DO: y\n"}),
    (lint.nothing_is_left_unfinished, {"a.md": "anything"}, {"tests/run": "# good enough for" " now\n"}),
    (lint.top_level_names_are_known, {"proto/a.h": ""}, {"stuff/a.h": ""}),
    (lint.file_names_name_their_noun, {"server/commonwealth.cc": ""}, {"server/pin_utils.h": ""}),
    (lint.file_names_name_their_noun, {"server/simple.cc": ""}, {"server/impl/a.h": ""}),
    (lint.headers_tell_their_contract,
     {"proto/a.h": "// Threading: Ownership: Errors: Limits:", "tests/b.h": ""},
     {"proto/a.h": "// Threading: any Errors: none Limits: none"}),
    (lint.every_test_source_is_built,
     {"tests/a_test.cc": "", "tests/CMakeLists.txt": "penstock_test(a SOURCES a_test.cc)"},
     {"tests/a_test.cc": "", "tests/CMakeLists.txt": "penstock_test(a SOURCES aa_test.cc)"}),
    (lint.python_tests_are_collected,
     {"tests/python/test_a.py": "def test_x(): pass"}, {"tests/python/views.py": "def test_x(): pass"}),
    (lint.pins_agree,
     {"deploy/dependencies.txt": "pip core a==1\n", "pyproject.toml": 'requires = ["a==1"]'},
     {"deploy/dependencies.txt": "pip core a==1\n", "pyproject.toml": 'requires = ["a==2"]'}),
])
def test_rule(tmp_path, rule, good, bad):
    assert broken_by(rule, tmp_path / "good", files=good) == []
    assert len(broken_by(rule, tmp_path / "bad", files=bad)) == 1


def test_untracked_files_are_seen_and_ignored_ones_are_not(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("/build/\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "x").touch()
    (tmp_path / "new file").touch()
    assert lint.tracked_files(tmp_path) == [".gitignore", "new file"]
