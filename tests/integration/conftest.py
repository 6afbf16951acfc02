"""Fixtures of the tests that need running parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls


@pytest.fixture
def control(database: DatabaseUrls) -> Iterator[ControlPlane]:
    """A control plane over this test's database."""
    with running(database) as plane:
        yield plane
