"""Fixtures for every test: a real Postgres, a migrated database a test, and the scripted model server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support.postgres import DatabaseUrls, copied_database, temporary_home
from trunkline.store.embedded import ConnectionInfo, EmbeddedPostgres
from trunkline.store.migrate import migrate


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `make test` spreads the files over."""
    return max(os.cpu_count() or 1, 2)


@pytest.fixture(scope="session", autouse=True)
def _one_certificate() -> Iterator[None]:
    """One certificate for all clients, which speak no TLS here: each would read the system's 150, for 30 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(Path(__file__).parent / "data" / "certificate.pem"))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[ConnectionInfo]:
    """An embedded server in a home of its own, for all tests that need just some Postgres.

    It does not wait for the disk: what these tests check does not depend on it, and their databases are thrown away.
    """
    with temporary_home() as home:
        server = EmbeddedPostgres(home)
        try:
            info = server.start()
            with psycopg.connect(info.url(database="postgres"), autocommit=True) as connection:
                connection.execute("alter system set fsync = off")
                connection.execute("select pg_reload_conf()")
            yield info
        finally:
            server.destroy()


@pytest.fixture(scope="session")
def migrated_template(postgres: ConnectionInfo) -> str:
    """The name of a database that is migrated once and then only copied."""
    name = "trunkline_template"
    migrate(postgres.url(database=name), embedded=True)
    return name


@pytest.fixture(scope="module")
def urls(postgres: ConnectionInfo, migrated_template: str) -> Iterator[DatabaseUrls]:
    """A fresh, migrated database for all tests of a file, which make what they need under names of their own."""
    with copied_database(postgres, migrated_template) as copy:
        yield copy


@pytest.fixture
def database(
    request: pytest.FixtureRequest, postgres: ConnectionInfo, migrated_template: str
) -> Iterator[DatabaseUrls]:
    """A fresh, migrated database of this test alone; with the mark `tenant`, that of the file."""
    if request.node.get_closest_marker("tenant"):
        yield request.getfixturevalue("urls")
        return
    with copied_database(postgres, migrated_template) as copy:
        yield copy


@pytest.fixture
def database_url(database: DatabaseUrls) -> str:
    """The administrator's URL of `database`."""
    return database.admin_url


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    """The base URL of a scripted model server, `http://127.0.0.1:PORT`."""
    command = [sys.executable, "-m", "trunkline.model_server", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            assert "http://" in first_line, f"the model server said {first_line!r}"
            yield first_line.split()[-1].rstrip("/")
        finally:
            process.terminate()
