"""Migrations against a real server: whole, repeated, at the same time, by lesser logins, and refused."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from support.postgres import DatabaseUrls, temporary_home
from trunkline.errors import SetupError
from trunkline.store.embedded import ConnectionInfo, EmbeddedPostgres
from trunkline.store.migrate import MIGRATIONS, migrate, migration_files
from trunkline.store.queue_schema import queue_scripts


@pytest.fixture
def empty_database(postgres: ConnectionInfo) -> Iterator[str]:
    """The name of a database without anything in it."""
    name = f"empty_{uuid4().hex[:12]}"
    administer(postgres, sql.SQL("create database {}").format(sql.Identifier(name)))
    yield name
    administer(postgres, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def login(postgres: ConnectionInfo, empty_database: str) -> Iterator[str]:
    """A login without any right that it is not granted."""
    name = f"login_{uuid4().hex[:12]}"
    administer(postgres, sql.SQL("create role {} login").format(sql.Identifier(name)))
    yield name
    administer(postgres, sql.SQL("drop role {}").format(sql.Identifier(name)))


def administer(postgres: ConnectionInfo, *statements: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(postgres.url(database="postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(url: str, query: LiteralString) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def test_every_file_has_its_revision_and_they_form_one_chain() -> None:
    before = None
    files = migration_files()
    assert files
    revisions = sorted((MIGRATIONS / "versions").glob("r*.py"))
    assert [path.stem for path in revisions] == [f"r{path.stem}" for path in files]
    for path, revision in zip(files, revisions, strict=True):
        module = runpy.run_path(str(revision))
        assert module["revision"] == path.stem.partition("_")[0]
        assert module["down_revision"] == before
        assert path.name in revision.read_text()
        before = module["revision"]


def test_an_empty_database_becomes_a_whole_one_once(postgres: ConnectionInfo, empty_database: str) -> None:
    url = postgres.url(database=empty_database)
    applied = migrate(url, embedded=True)
    assert applied[: len(migration_files())] == [path.stem for path in migration_files()]
    assert [name.partition(" ")[0] for name in applied[len(migration_files()) :]] == ["procrastinate", "genai-prices"]
    assert migrate(url, embedded=True) == []
    [state] = rows(url, "select version_num from trunkline.alembic_version")
    assert state["version_num"] == migration_files()[-1].stem.partition("_")[0]


def test_a_database_that_is_missing_is_made_in_the_embedded_server_alone(postgres: ConnectionInfo) -> None:
    name = f"missing_{uuid4().hex[:12]}"
    with pytest.raises(SetupError, match=rf"The database '{name}' does not exist; create it: createdb {name}"):
        migrate(postgres.url(database=name))
    try:
        assert migrate(postgres.url(database=name), embedded=True) != []
    finally:
        administer(postgres, sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_two_who_migrate_at_once_apply_everything_once(postgres: ConnectionInfo, empty_database: str) -> None:
    url = postgres.url(database=empty_database)
    with ThreadPoolExecutor(2) as pool:
        applied = list(pool.map(lambda _: migrate(url, embedded=True), range(2)))
    names = [name for one in applied for name in one]
    assert sorted(names) == sorted(set(names))
    assert {path.stem for path in migration_files()} < set(names)


def test_a_maker_of_roles_who_is_no_superuser_may_migrate() -> None:
    with temporary_home() as home:
        server = EmbeddedPostgres(home)  # one of its own: roles belong to a server, and here they must not be there yet
        try:
            postgres = server.start()
            administer(
                postgres, sql.SQL("create role maker login createrole"), sql.SQL("create database theirs owner maker")
            )
            url = postgres.url("maker", "theirs")
            with pytest.raises(SetupError, match="have an administrator run there: CREATE EXTENSION vector"):
                migrate(url)
            with psycopg.connect(postgres.url(database="theirs")) as connection:
                connection.execute("create extension vector")
            assert migrate(url) != []
            assert migrate(url) == []
            assert rows(url, "select bool_or(rolcanlogin) as any from pg_roles where rolname like 'trunkline\\_%'") == [
                {"any": False}
            ]
            with psycopg.connect(url, options="-c role=trunkline_control") as connection:
                assert connection.execute("select count(*) > 1000 from trunkline.model_prices").fetchone() == (True,)
        finally:
            server.destroy()


def test_what_a_login_lacks_is_told(postgres: ConnectionInfo, empty_database: str, login: str) -> None:
    url = postgres.url(login, empty_database)
    with pytest.raises(SetupError, match=f'GRANT CREATE ON DATABASE "{empty_database}" TO "{login}"'):
        migrate(url)
    assert rows(url, "select 1 as one from pg_namespace where nspname = 'trunkline'") == []


def test_an_unreachable_server_and_a_bad_url_are_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="The database is not reachable: "):
        migrate(f"postgresql://me@/x?host={tmp_path}")
    with pytest.raises(SetupError, match="DATABASE_URL is not a Postgres URL"):
        migrate("not a url")


def test_a_database_of_a_newer_trunkline_is_left_alone(database: DatabaseUrls) -> None:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("update trunkline.alembic_version set version_num = '9999'")
    with pytest.raises(SetupError, match="migrated by a newer Trunkline"):
        migrate(database.admin_url, embedded=True)


def test_prices_come_from_the_catalogue_and_again_when_it_changes(database: DatabaseUrls) -> None:
    query: LiteralString = (
        "select input_usd_per_mtok::text as input, output_usd_per_mtok::text as output from trunkline.model_prices"
        " where provider = 'anthropic' and model = 'claude-sonnet-4-5'"
    )
    assert rows(database.control_url, query) == [{"input": "3", "output": "15"}]
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("update trunkline.catalogue_versions set version = '0' where name = 'genai-prices'")
        connection.execute("update trunkline.model_prices set input_usd_per_mtok = 99")
    assert [name.partition(" ")[0] for name in migrate(database.admin_url, embedded=True)] == ["genai-prices"]
    assert rows(database.control_url, query) == [{"input": "3", "output": "15"}]


def test_the_control_role_can_use_the_queue(database: DatabaseUrls) -> None:
    with psycopg.connect(database.control_url, options="-c search_path=trunkline_queue") as connection:
        connection.execute(
            "insert into procrastinate_jobs (queue_name, task_name, args) values ('default', 'noop', '{}')"
        )
        assert connection.execute("select count(*) from procrastinate_jobs").fetchone() == (1,)


def test_an_older_queue_gets_the_migrations_between() -> None:
    assert [path.name for path in queue_scripts(None, "3.10.0")] == ["schema.sql"]
    assert [path.name for path in queue_scripts("3.2.0", "3.4.0")] == [
        "03.03.00_01_pre_priority_lock_fetch_job.sql",
        "03.04.00_01_pre_add_retry_failed_job_procedure.sql",
        "03.04.00_50_post_add_retry_failed_job_procedure.sql",
    ]
    assert queue_scripts("3.10.0", "3.10.1") == []


def test_the_gateway_role_sees_no_table(database: DatabaseUrls) -> None:
    with psycopg.connect(database.gateway_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select from trunkline.api_keys")
