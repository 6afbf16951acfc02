"""Fixtures of the tests that need running parts."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls, copied_database
from trunkline.store.embedded import ConnectionInfo


@pytest.fixture
def control(database: DatabaseUrls) -> Iterator[ControlPlane]:
    """A control plane over this test's database."""
    with running(database) as plane:
        yield plane


@pytest.fixture(scope="module")
def urls(postgres: ConnectionInfo, migrated_template: str) -> Iterator[DatabaseUrls]:
    """A fresh, migrated database for all tests of a file, which make what they need under names of their own."""
    with copied_database(postgres, migrated_template) as copy:
        yield copy


@pytest.fixture(scope="module")
def plane(urls: DatabaseUrls) -> Iterator[ControlPlane]:
    """A control plane over `urls`."""
    with running(urls) as control:
        yield control


@pytest.fixture
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    """A client of `plane`, with the admin's key."""
    with plane.http() as client:
        yield client
