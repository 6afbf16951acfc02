"""Threads of agent frameworks, and their items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.principal import Principal
from trunkline.domain.threads import Thread, ThreadItem
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class ThreadFilter:
    """Which threads a list holds; None: no limit."""

    framework: str | None = None
    name: str | None = None
    user_id: str | None = None
    session_id: UUID | None = None


async def named(connection: Connection, tenant_id: UUID, wanted: Thread) -> Thread:
    """Return the thread of this framework and name, made of `wanted` if there was none.

    The thread's user and session are `wanted`'s only where it had none. It is not deleted before the transaction ends.
    """
    key = (tenant_id, wanted.agent_id, wanted.framework, wanted.name)
    while True:
        cursor = await connection.execute(queries("threads")["select_named"], key)
        row = await cursor.fetchone()
        if row is not None:
            break
        new = (wanted.id, wanted.framework, wanted.name, wanted.user_id, wanted.session_id, wanted.created_at)
        await connection.execute(queries("threads")["insert_thread"], (tenant_id, wanted.agent_id, *new))
    found = Thread(**row)
    if (found.user_id is None and wanted.user_id is not None) or (
        found.session_id is None and wanted.session_id is not None
    ):
        await connection.execute(
            queries("threads")["assign_thread"], (tenant_id, found.id, wanted.user_id, wanted.session_id)
        )
        cursor = await connection.execute(queries("threads")["select_named"], key)
        row = await cursor.fetchone()
        found = found if row is None else Thread(**row)
    return found


async def get(connection: Connection, principal: Principal, thread_id: UUID) -> Thread:
    """Return a thread. Raises NotFound."""
    cursor = await connection.execute(
        queries("threads")["select_thread"], (principal.tenant_id, principal.agent_id, thread_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise _not_found(thread_id)
    return Thread(**row)


async def keep(connection: Connection, principal: Principal, thread_id: UUID) -> None:
    """Keep a thread, and what is in it, from being deleted in this transaction. Raises NotFound."""
    cursor = await connection.execute(
        queries("threads")["keep_thread"], (principal.tenant_id, principal.agent_id, thread_id)
    )
    if await cursor.fetchone() is None:
        raise _not_found(thread_id)


async def lock(connection: Connection, principal: Principal, thread_id: UUID) -> int:
    """Keep all others from writing to a thread in this transaction; returns its last item's number. Raises NotFound."""
    cursor = await connection.execute(
        queries("threads")["lock_thread"], (principal.tenant_id, principal.agent_id, thread_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise _not_found(thread_id)
    return int(row["last_seq"])


async def page(
    connection: Connection,
    principal: Principal,
    wanted: ThreadFilter,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Thread]:
    """Return up to `limit` threads, newest first, that come after the position `(created_at, id)`."""
    created_at, thread_id = after or (None, None)
    cursor = await connection.execute(
        queries("threads")["list_threads"],
        (
            principal.tenant_id,
            principal.agent_id,
            created_at,
            thread_id,
            wanted.framework,
            wanted.name,
            wanted.user_id,
            wanted.session_id,
            limit,
        ),
    )
    return [Thread(**row) for row in await cursor.fetchall()]


async def delete(connection: Connection, principal: Principal, thread_id: UUID) -> None:
    """Delete a thread with its items and checkpoints. Raises NotFound."""
    await lock(connection, principal, thread_id)
    await connection.execute(queries("threads")["delete_thread"], (principal.tenant_id, thread_id))


async def append(
    connection: Connection, tenant_id: UUID, thread_id: UUID, *, last_seq: int, items: Sequence[str], at: datetime
) -> None:
    """Append items, each as JSON text, after number `last_seq`, which `lock` returned."""
    if not items:
        return
    await connection.execute(queries("threads")["insert_items"], (tenant_id, thread_id, last_seq, list(items), at))
    await connection.execute(queries("threads")["advance_thread"], (tenant_id, thread_id, last_seq + len(items)))


async def items(
    connection: Connection,
    tenant_id: UUID,
    thread_id: UUID,
    *,
    after: int | None,
    limit: int,
    max_bytes: int,
    newest_first: bool,
) -> tuple[list[ThreadItem], bool]:
    """Return items beyond the number `after`, at most `limit` and, but for one, `max_bytes`; and if more follow."""
    statement = queries("threads")["list_newest_items" if newest_first else "list_oldest_items"]
    cursor = await connection.execute(statement, (tenant_id, thread_id, after, limit, max_bytes))
    rows = await cursor.fetchall()
    found = [ThreadItem(row["seq"], row["item"], row["created_at"]) for row in rows]
    return found, bool(rows and rows[0]["more"])


async def pop(connection: Connection, tenant_id: UUID, thread_id: UUID) -> ThreadItem | None:
    """Delete the newest item of a locked thread and return it; None: there is none."""
    cursor = await connection.execute(queries("threads")["pop_item"], (tenant_id, thread_id))
    row = await cursor.fetchone()
    return None if row is None else ThreadItem(**row)


async def clear(connection: Connection, tenant_id: UUID, thread_id: UUID) -> None:
    """Delete all items of a locked thread."""
    await connection.execute(queries("threads")["clear_items"], (tenant_id, thread_id))


def _not_found(thread_id: UUID) -> NotFound:
    return NotFound(f"There is no thread {ids.encode('thread', thread_id)}; GET /v1/threads lists those there are.")
