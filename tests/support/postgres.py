"""Databases and homes for tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from trunkline.store.embedded import ConnectionInfo


@dataclass(frozen=True)
class DatabaseUrls:
    """One database; who logs in decides what may be seen."""

    name: str
    admin_url: str
    control_url: str
    gateway_url: str


@contextmanager
def copied_database(postgres: ConnectionInfo, template: str) -> Iterator[DatabaseUrls]:
    """Copy the database `template` under a new name, and drop it with whoever is still connected."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres.url(database="postgres"), autocommit=True) as connection:
        create = sql.SQL("create database {} template {} strategy file_copy")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield DatabaseUrls(
            name=name,
            admin_url=postgres.url(database=name),
            control_url=postgres.url("trunkline_control", name),
            gateway_url=postgres.url("trunkline_gateway", name),
        )
    finally:
        with psycopg.connect(postgres.url(database="postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A `TRUNKLINE_HOME` that the server's user can enter too when the tests run as root; its path is short."""
    home = Path(tempfile.mkdtemp(prefix="trunkline-test-"))
    home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
