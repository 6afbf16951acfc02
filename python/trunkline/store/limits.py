"""Limits of keys, teams and end users."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from trunkline.domain.limits import Limits, Used, UserLimits
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Kind = Literal["key", "team", "user", "users_of_key", "users_of_team"]
"""Whose limits: of a key, a team or an end user, or of each end user who comes with a key or with a key of a team."""


async def write(
    connection: Connection, tenant_id: UUID, of: tuple[Kind, str], limits: Limits | None, at: datetime
) -> None:
    """Set a subject's limits; none at all are not kept, but for a user: that nothing is limited is said on purpose."""
    kind, subject = of
    if limits is None or (limits == Limits(budget_period=limits.budget_period) and kind in ("key", "team")):
        await remove(connection, tenant_id, kind, subject)
        return
    models = None if limits.models is None else list(limits.models)
    values = (limits.budget_usd, str(limits.budget_period), limits.rpm, limits.tpm, limits.parallel)
    await connection.execute(
        queries("limits")["write_limits"], (tenant_id, kind, subject, models, limits.expires_at, *values, at)
    )


async def remove(connection: Connection, tenant_id: UUID, kind: Kind, subject: str) -> bool:
    """Take a subject's limits away; tell whether there were any."""
    cursor = await connection.execute(queries("limits")["delete_limits"], (tenant_id, kind, subject))
    return await cursor.fetchone() is not None


async def users(
    connection: Connection, tenant_id: UUID, user_id: str | None, after: str | None, limit: int
) -> list[UserLimits]:
    """Return up to `limit` end users with limits of their own, by their ids, that come after `after`."""
    cursor = await connection.execute(queries("limits")["list_user_limits"], (tenant_id, user_id, after, limit))
    return [
        UserLimits(row["user_id"], Limits.from_row(row), Used.from_row(row), row["updated_at"])
        for row in await cursor.fetchall()
    ]
