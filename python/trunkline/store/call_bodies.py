"""Bodies of calls in the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.call_bodies import CallBodies
from trunkline.domain.principal import Principal
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

_NONE: Final = (
    "Nothing is stored of the bodies of {call}: bodies are stored where `record.bodies` in trunkline.yaml says so, for "
    "`record.keep_days` days."
)


async def get(connection: Connection, principal: Principal, call_id: UUID, at: datetime) -> CallBodies:
    """Return what is stored of a call. Raises NotFound."""
    return await _one(connection, "select_bodies", principal, call_id, at)


async def redact(connection: Connection, principal: Principal, call_id: UUID, at: datetime) -> CallBodies:
    """Empty the bodies of a call, for good, and return what is left. Raises NotFound."""
    return await _one(connection, "redact_bodies", principal, call_id, at, principal.key_id)


async def delete(connection: Connection, principal: Principal, call_id: UUID) -> None:
    """Delete the bodies of a call. Raises NotFound."""
    await _row(connection, "delete_bodies", principal, call_id)


async def _one(connection: Connection, query: str, principal: Principal, call_id: UUID, *more: object) -> CallBodies:
    return CallBodies(**await _row(connection, query, principal, call_id, *more))


async def _row(
    connection: Connection, query: str, principal: Principal, call_id: UUID, *more: object
) -> dict[str, Any]:
    cursor = await connection.execute(
        queries("call_bodies")[query], (principal.tenant_id, call_id, principal.agent_id, *more)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(_NONE.format(call=ids.encode("call", call_id)))
    return dict(row)
