"""Usage, added up."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from trunkline.domain.principal import Principal
from trunkline.domain.usage import UsageQuery, column
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def report(connection: Connection, principal: Principal, wanted: UsageQuery) -> list[dict[str, Any]]:
    """Return the groups of the tenant's calls that match; a key bound to an agent sees that agent's calls alone."""
    cursor = await connection.execute(
        queries("usage")["report"],
        (
            principal.tenant_id,
            principal.agent_id,
            [column(group) for group in wanted.by],
            wanted.bucket,
            Jsonb({name: [str(value) for value in values] for name, values in wanted.filters.items()}),
            wanted.since,
            wanted.until,
            wanted.sort,
            wanted.descending,
            wanted.limit,
            wanted.offset,
        ),
    )
    return [row["row"] for row in await cursor.fetchall()]
