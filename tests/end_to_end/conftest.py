"""Fixtures of the tests that play a whole Trunkline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.model_server import started
from support.postgres import copied_database, temporary_home
from support.stack import Stack, serving
from trunkline.store.embedded import ConnectionInfo

SCRIPT = Path(__file__).with_name("script.yaml")


@pytest.fixture(scope="session")
def scripted_model() -> Iterator[str]:
    """The base URL of a model server that follows `script.yaml`."""
    with started("--script", str(SCRIPT)) as model:
        yield model.url


@pytest.fixture(scope="session")
def stack(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[Stack]:
    """One gateway and control plane for all tests that leave them as they are; each makes its own agents and keys."""
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, home) as running,
    ):
        yield running
