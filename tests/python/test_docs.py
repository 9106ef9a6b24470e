"""What users read: every public name has a docstring, and help(penstock) begins well."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import penstock

PUBLIC = [
    found.name
    for found in pkgutil.walk_packages(penstock.__path__, "penstock.")
    if not any(part.startswith("_") for part in found.name.split("."))
]


def imported(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("penstock"):
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")


def late(module, public: str):
    """A name of the module, which may import an engine that is not installed."""
    try:
        return getattr(module, public)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("penstock"):
            raise
        pytest.skip(f"{module.__name__}.{public} needs {error.name}, which is not installed")


def members(kind: type) -> dict[str, object]:
    """What a class of ours adds, and what it inherits from classes of ours."""
    found = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "penstock":
            found |= vars(base)
    return {name: getattr(kind, name) for name in found if not name.startswith("_")}


def undocumented(place: str, thing: object) -> list[str]:
    own = "__doc__" in vars(thing) if inspect.isclass(thing) else True
    missing = [] if own and (getattr(thing, "__doc__", None) or "").strip() else [place]
    if inspect.isclass(thing):
        for name, member in members(thing).items():
            if inspect.ismemberdescriptor(member):
                continue  # a field: its class tells of it
            if callable(member) or isinstance(member, property) or inspect.isdatadescriptor(member):
                missing += undocumented(f"{place}.{name}", member)
    return missing


@pytest.mark.parametrize("name", ["penstock", *PUBLIC])
def test_every_public_name_has_a_docstring(name):
    module = imported(name)
    missing = [] if (module.__doc__ or "").strip() else [name]
    for public in getattr(module, "__all__", ()):
        thing = late(module, public)
        if callable(thing):
            missing += undocumented(f"{name}.{public}", thing)
    assert missing == []


@pytest.mark.parametrize("name", PUBLIC)
def test_every_module_says_what_is_public(name):
    module = imported(name)
    for public in module.__all__:
        late(module, public)


def test_help_begins_with_an_example_and_names_the_modules():
    done = subprocess.run(
        [sys.executable, "-m", "pydoc", "penstock"], capture_output=True, text=True, check=True
    )
    begin = done.stdout[:3000]
    assert 'store.put("model/wte", weights)' in begin and 'view = store.get("model/wte")' in begin
    for name in PUBLIC:
        if name.count(".") == 1 and name not in (
            "penstock.box",
            "penstock.events",
            "penstock.faults",
            "penstock.local",
            "penstock.pipeline",
            "penstock.snapshot",
            "penstock.store",
            "penstock.tls",
        ):  # their names are penstock's own
            assert name in penstock.__doc__, name
    for call in ("start_local", "connect", "class Store", "class LocalNode"):
        assert call in done.stdout


def test_dir_shows_what_is_imported_late():
    assert set(penstock.__all__) <= set(dir(penstock))
