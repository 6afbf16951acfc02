"""Webhooks, and what they are told."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.principal import Principal
from trunkline.domain.webhooks import Delivery, Due, Webhook
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Position = tuple[datetime, UUID]


async def create(connection: Connection, tenant_id: UUID, webhook: Webhook, secret: bytes) -> None:
    """Insert a webhook with its sealed secret."""
    await connection.execute(
        queries("webhooks")["insert_webhook"],
        (
            tenant_id,
            webhook.id,
            webhook.agent_id,
            webhook.url,
            webhook.description,
            None if webhook.events is None else list(webhook.events),
            secret,
            webhook.created_at,
        ),
    )


async def get(connection: Connection, principal: Principal, webhook_id: UUID) -> Webhook:
    """Return a webhook. Raises NotFound."""
    cursor = await connection.execute(
        queries("webhooks")["select_webhook"], (principal.tenant_id, principal.agent_id, webhook_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise _missing(webhook_id)
    return _webhook(row)


async def page(connection: Connection, principal: Principal, after: Position | None, limit: int) -> list[Webhook]:
    """Return up to `limit` webhooks, newest first, that come after the position."""
    created_at, webhook_id = after or (None, None)
    cursor = await connection.execute(
        queries("webhooks")["list_webhooks"], (principal.tenant_id, principal.agent_id, created_at, webhook_id, limit)
    )
    return [_webhook(row) for row in await cursor.fetchall()]


async def update(connection: Connection, tenant_id: UUID, webhook: Webhook) -> None:
    """Write what of a webhook can be changed."""
    events = None if webhook.events is None else list(webhook.events)
    await connection.execute(
        queries("webhooks")["update_webhook"],
        (tenant_id, webhook.id, webhook.url, webhook.description, events, webhook.status, webhook.updated_at),
    )


async def lock_secret(connection: Connection, principal: Principal, webhook_id: UUID) -> bytes:
    """Return what is sealed of a webhook, kept from others' changes in this transaction. Raises NotFound."""
    cursor = await connection.execute(
        queries("webhooks")["lock_secret"], (principal.tenant_id, principal.agent_id, webhook_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise _missing(webhook_id)
    return bytes(row["secret"])


async def update_secret(connection: Connection, tenant_id: UUID, webhook_id: UUID, secret: bytes, at: datetime) -> None:
    """Write what is sealed of a webhook that `lock_secret` locked."""
    await connection.execute(queries("webhooks")["update_secret"], (tenant_id, webhook_id, secret, at))


async def delete(connection: Connection, principal: Principal, webhook_id: UUID) -> None:
    """Delete a webhook. Raises NotFound."""
    cursor = await connection.execute(
        queries("webhooks")["delete_webhook"], (principal.tenant_id, principal.agent_id, webhook_id)
    )
    if await cursor.fetchone() is None:
        raise _missing(webhook_id)


async def deliveries(
    connection: Connection, tenant_id: UUID, webhook_id: UUID, after: Position | None, limit: int
) -> list[Delivery]:
    """Return up to `limit` of a webhook's deliveries, newest first, that come after the position."""
    created_at, delivery_id = after or (None, None)
    cursor = await connection.execute(
        queries("webhooks")["list_deliveries"], (tenant_id, webhook_id, created_at, delivery_id, limit)
    )
    return [Delivery(**row) for row in await cursor.fetchall()]


async def claim(connection: Connection, *, limit: int, seconds: int) -> list[Due]:
    """Take up to `limit` deliveries of any tenant that are due; others leave them alone for so many seconds."""
    cursor = await connection.execute(queries("webhooks")["claim"], (limit, seconds))
    return [Due(**row) for row in await cursor.fetchall()]


async def delivered(connection: Connection, due: Due, answered: int, at: datetime) -> None:
    """Note that a delivery was taken."""
    await connection.execute(queries("webhooks")["delivered"], (due.tenant_id, due.id, due.webhook_id, answered, at))


async def not_delivered(
    connection: Connection,
    due: Due,
    *,
    answered: int | None,
    error: str,
    next_at: datetime | None,
    paused_reason: dict[str, Any] | None,
) -> None:
    """Note that an attempt failed; without `next_at` it was the last."""
    reason = None if paused_reason is None else Jsonb(paused_reason)
    await connection.execute(
        queries("webhooks")["not_delivered"],
        (due.tenant_id, due.id, due.webhook_id, answered, error, next_at, reason),
    )


def _webhook(row: dict[str, Any]) -> Webhook:
    return Webhook(**{**row, "events": None if row["events"] is None else tuple(row["events"])})


def _missing(webhook_id: UUID) -> NotFound:
    return NotFound(f"There is no webhook {ids.encode('whk', webhook_id)}; GET /v1/webhooks lists those there are.")
