"""Types: the package, its stubs, the quickstart and the README's code pass mypy --strict."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "pyproject.toml"
BUILD = Path(os.environ.get("TESTS_BUILD_DIR", ROOT / "build"))  # its cache makes the next run ten times faster

pytestmark = pytest.mark.timeout(600)


def mypy(*arguments: str | Path, folder: Path = ROOT) -> None:
    command = [sys.executable, "-m", "mypy", f"--config-file={CONFIG}", f"--cache-dir={BUILD / 'mypy_cache'}"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def readme_program() -> str:
    """The README's Python code as one function, with what it takes for given."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    given = "from typing import Any, Callable\nimport numpy as np\nimport torch\n"
    given += "Array = np.ndarray[Any, np.dtype[Any]]\n"
    given += "async def program(weights: Array, frames: Array, x: Array, obs: Array, tensor: torch.Tensor, "
    given += "model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], dcp: Any, "
    given += "local: Array, rank: int, number: int, block: Array, compute: Callable[[], Array]) -> None:\n"
    return given + "".join(f"    {line}\n" for block in blocks for line in block.splitlines())


def test_the_package():
    mypy("-p", "penstock")


def test_the_quickstart():
    folder = ROOT / "deploy" / "quickstart_reader"
    mypy(*sorted(path.name for path in folder.glob("*.py")), folder=folder)


def test_the_examples():
    folder = ROOT / "client" / "python" / "examples"
    for path in sorted(folder.glob("*.py")):
        mypy(path.name, folder=folder)


def test_the_readme(tmp_path):
    (tmp_path / "readme.py").write_text(readme_program())
    mypy(tmp_path / "readme.py")


def test_what_the_types_refuse(tmp_path):
    """The stubs tell a view from an array that was given, and wrong arguments from right ones."""
    (tmp_path / "wrong.py").write_text(
        "import numpy as np\nimport penstock\nstore = penstock.connect()\n"
        "a: penstock.TensorView = store.get('x')\n"
        "b: np.ndarray[tuple[int], np.dtype[np.float64]] = store.get('x', out=np.zeros(3))\n"
        "store.get('x').missing\n"
        "store.put('x', 1, replica=2)\n"
        "store.stat(5)\n"
    )
    with pytest.raises(AssertionError) as raised:
        mypy(tmp_path / "wrong.py")
    assert re.findall(r"wrong\.py:(\d+): error", str(raised.value)) == ["6", "7", "8"]


def test_the_stubs_are_what_the_modules_have():
    command = [sys.executable, "-m", "mypy.stubtest", "penstock", "--concise", f"--mypy-config-file={CONFIG}"]
    allowed = Path(__file__).with_name("stubtest_allowed.txt")
    done = subprocess.run([*command, f"--allowlist={allowed}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
