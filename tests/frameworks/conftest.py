"""A private node for each test, and what it holds."""

from __future__ import annotations

from typing import Iterator

import pytest

import penstock


@pytest.fixture
def node() -> Iterator[penstock.LocalNode]:
    with penstock.start_local(memory="512MiB") as node:
        yield node


@pytest.fixture
def store(node: penstock.LocalNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[penstock.Store]:
    monkeypatch.setenv("PENSTOCK_ADDRESS", node.address)
    with node.connect(label="test") as store:
        yield store
