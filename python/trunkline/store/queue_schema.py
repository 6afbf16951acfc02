"""procrastinate's own tables and functions, kept at the version of the installed package in `trunkline_queue`.

Who uses them connects with `search_path=trunkline_queue`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from psycopg import Connection
from psycopg.rows import DictRow

from trunkline.store.queries import queries

PACKAGE = "procrastinate"
SCHEMA = "trunkline_queue"


def apply_queue_schema(connection: Connection[DictRow], have: str | None, want: str) -> None:
    """Bring the queue from version `have` (None: nothing there) to `want`, inside the caller's transaction."""
    sql = queries("queue_schema")
    connection.execute(sql["create_queue_schema"])
    connection.execute(queries("migrate")["become_owner"])
    connection.execute(sql["enter_queue_schema"])
    for path in queue_scripts(have, want):
        # Several statements without parameters: the simple protocol takes them as one.
        connection.execute(path.read_text(encoding="utf-8"))
    for name in ("grant_schema", "grant_tables", "grant_sequences", "grant_functions"):
        connection.execute(sql[name])


def queue_scripts(have: str | None, want: str) -> list[Path]:
    """Return the package's SQL files that lead from `have` to `want`: the whole schema, or the migrations between.

    Migrations are named by the version that needs them: `03.04.00_50_post_add_….sql`.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(PACKAGE)
    folder = Path(spec.origin).with_name("sql")
    if have is None:
        return [folder / "schema.sql"]
    scripts = sorted((folder / "migrations").glob("*.sql"))
    return [path for path in scripts if _numbers(have) < _numbers(path.name.partition("_")[0]) <= _numbers(want)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
