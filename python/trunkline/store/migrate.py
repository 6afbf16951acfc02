"""Bring a database to this version of Trunkline: its schema, the queue's, and the price catalogue."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import Connection, RawCursor, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row

from trunkline.errors import SetupError
from trunkline.store import prices, queue_schema
from trunkline.store.queries import queries

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).with_name("migrations")
OLDEST_SERVER = 15


@dataclass(frozen=True)
class _State:
    """What a database was last brought to."""

    schema_version: str | None = None
    catalogues: Mapping[str, str] | None = None
    roles_log_in: bool = False


def migrate(database_url: str, *, embedded: bool = False) -> list[str]:
    """Bring the database up to date and return what was applied, in order; an empty list if nothing was to do.

    The login must be able to create in the database and to make roles. Two who migrate at once wait for each other.
    `embedded`: the server is Trunkline's own, so the database is made if it is missing and the roles may log in.
    Raises SetupError that says what the server, the database or the login lacks.
    """
    with closing(_connect(database_url, embedded=embedded)) as connection:
        state = _state(connection)
        wanted = {package: version(package) for package in (prices.PACKAGE, queue_schema.PACKAGE)}
        if not _is_current(state, wanted, embedded=embedded):
            _lock(connection)
            _check(connection)
            applied = _bring_up(connection, database_url, wanted, embedded=embedded)
        else:
            applied = []
        connection.execute(queries("migrate")["ensure_partitions"])
    return applied


def run_migration(file_name: str) -> None:
    """Run one `.sql` file of the migrations, in the transaction of the Alembic revision that calls this."""
    from alembic import op  # noqa: PLC0415 - 0.3 s, spared when there is nothing to migrate

    connection = cast("psycopg.Connection[Any]", op.get_bind().connection.driver_connection)
    try:
        connection.execute((MIGRATIONS / file_name).read_text(encoding="utf-8"))
        connection.execute(queries("migrate")["leave_role"])
    except psycopg.Error as error:
        raise SetupError(f"Migration {file_name} failed: {str(error).strip()}") from error


def migration_files() -> list[Path]:
    """Return the migrations in the order in which they are applied."""
    return sorted(MIGRATIONS.glob("[0-9]*.sql"))


def _connect(database_url: str, *, embedded: bool) -> Connection[DictRow]:
    try:
        return _open(database_url)
    except psycopg.OperationalError as error:
        if _lacks_database(database_url, create=embedded):
            if embedded:
                return _open(database_url)
            name = conninfo_to_dict(database_url).get("dbname")
            raise SetupError(f"The database {name!r} does not exist; create it: createdb {name}") from error
        raise SetupError(f"The database is not reachable: {' '.join(str(error).split())}") from error
    except psycopg.ProgrammingError as error:
        raise SetupError(f"DATABASE_URL is not a Postgres URL: {' '.join(str(error).split())}") from error


def _open(database_url: str) -> Connection[DictRow]:
    return psycopg.connect(
        database_url,
        autocommit=True,
        cursor_factory=RawCursor,
        row_factory=dict_row,
        connect_timeout=10,
        fallback_application_name="trunkline-migrate",
    )


def _lacks_database(database_url: str, *, create: bool) -> bool:
    """Whether the server is there and only the database is not; if so, and asked to, make it."""
    name = conninfo_to_dict(database_url).get("dbname")
    if not isinstance(name, str):
        return False
    try:
        connection = _open(make_conninfo(database_url, dbname="postgres"))
    except psycopg.OperationalError:
        return False
    with closing(connection):
        row = connection.execute(queries("migrate")["database_exists"], [name]).fetchone()
        if row is None or row["database_exists"]:
            return False
        if create:
            connection.execute(sql.SQL(queries("migrate")["create_database"]).format(name=sql.Identifier(name)))
    return True


def _state(connection: Connection[DictRow]) -> _State:
    try:
        row = connection.execute(queries("migrate")["state"]).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return _State()
    return _State(**row) if row is not None else _State()


def _is_current(state: _State, wanted: Mapping[str, str], *, embedded: bool) -> bool:
    known = [path.name.partition("_")[0] for path in migration_files()]
    if state.schema_version is not None and state.schema_version not in known:
        raise SetupError(
            f"This database was migrated by a newer Trunkline (to {state.schema_version}; this one knows {known[-1]}); "
            "use that one, or upgrade this one."
        )
    return (
        state.schema_version == known[-1]
        and all((state.catalogues or {}).get(package) == wants for package, wants in wanted.items())
        and (state.roles_log_in or not embedded)
    )


def _lock(connection: Connection[DictRow]) -> None:
    connection.execute(queries("migrate")["limit_waiting"])
    try:
        connection.execute(queries("migrate")["lock"])
    except psycopg.errors.LockNotAvailable as error:
        raise SetupError("Another process has been migrating this database for a minute; wait for it.") from error


def _check(connection: Connection[DictRow]) -> None:
    """Raise SetupError for the first thing that the server or the login lacks."""
    major = connection.info.server_version // 10000
    if major < OLDEST_SERVER:
        raise SetupError(f"Trunkline needs Postgres {OLDEST_SERVER} or newer, and this server is {major}; upgrade it.")
    login, database = connection.info.user, connection.info.dbname
    rights = connection.execute(queries("migrate")["rights"]).fetchone() or {}
    if not rights.get("creates_in_database"):
        raise SetupError(
            f"{login!r} may not create schemas in database {database!r}; have its owner run: "
            f'GRANT CREATE ON DATABASE "{database}" TO "{login}"'
        )
    if not rights["makes_roles"]:
        raise SetupError(
            f'{login!r} may not make Trunkline\'s roles; have an administrator run: ALTER ROLE "{login}" CREATEROLE'
        )
    if rights["has_vector"]:
        return
    if not rights["offers_vector"]:
        raise SetupError(
            f"The server has no pgvector; install pgvector on it (Debian: apt-get install postgresql-{major}-pgvector)."
        )
    try:
        connection.execute(queries("migrate")["create_vector"])
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(
            f"{login!r} may not enable pgvector in database {database!r}; have an administrator run there: "
            "CREATE EXTENSION vector"
        ) from error


def _bring_up(
    connection: Connection[DictRow], database_url: str, wanted: Mapping[str, str], *, embedded: bool
) -> list[str]:
    """Apply what is missing, under the lock; each step is one transaction and notes its own version."""
    statements = queries("migrate")
    before = _state(connection)  # another may have migrated while this one waited
    applied: list[str] = []
    if before.schema_version != migration_files()[-1].name.partition("_")[0]:
        connection.execute(statements["create_schema"])
        _upgrade(database_url)
        applied += [
            path.stem for path in migration_files() if path.stem.partition("_")[0] > (before.schema_version or "")
        ]
    have = _state(connection).catalogues or {}
    if have.get(queue_schema.PACKAGE) != wanted[queue_schema.PACKAGE]:
        with connection.transaction():
            queue_schema.apply_queue_schema(connection, have.get(queue_schema.PACKAGE), wanted[queue_schema.PACKAGE])
            _note(connection, queue_schema.PACKAGE, wanted, applied)
    if have.get(prices.PACKAGE) != wanted[prices.PACKAGE]:
        with connection.transaction():
            connection.execute(statements["become_owner"])
            prices.load_prices(connection)
            _note(connection, prices.PACKAGE, wanted, applied)
    if embedded:
        connection.execute(statements["let_gateway_log_in"])
        connection.execute(statements["let_control_log_in"])
    log.info("database migrated: %s", ", ".join(applied))
    return applied


def _note(connection: Connection[DictRow], package: str, wanted: Mapping[str, str], applied: list[str]) -> None:
    connection.execute(queries("migrate")["set_catalogue_version"], [package, wanted[package]])
    applied.append(f"{package} {wanted[package]}")


def _upgrade(database_url: str) -> None:
    from alembic import command  # noqa: PLC0415 - as in run_migration
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")
