"""Usage, added up."""

from __future__ import annotations

from trunkline.domain.principal import Principal
from trunkline.domain.usage import Usage, UsageFilter
from trunkline.errors import Internal
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def total(connection: Connection, principal: Principal, wanted: UsageFilter) -> Usage:
    """Return the sums over the tenant's calls that match; a key bound to an agent counts that agent's alone."""
    cursor = await connection.execute(
        queries("usage")["sum_usage"],
        (
            principal.tenant_id,
            wanted.key_id,
            principal.agent_id,
            wanted.agent_id,
            wanted.session_id,
            wanted.since,
            wanted.until,
        ),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Internal("A sum came back without a row.")
    return Usage(**row)
