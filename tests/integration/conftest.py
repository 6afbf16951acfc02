"""Fixtures of the tests that need running parts."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls


@pytest.fixture
def control(request: pytest.FixtureRequest, database: DatabaseUrls) -> Iterator[ControlPlane]:
    """A control plane over this test's database; with the mark `tenant`, that of the file as a new tenant sees it."""
    if request.node.get_closest_marker("tenant"):
        plane: ControlPlane = request.getfixturevalue("plane")
        yield ControlPlane(plane.base_url, plane.another_tenant(uuid4().hex))
        return
    with running(database) as own:
        yield own


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
