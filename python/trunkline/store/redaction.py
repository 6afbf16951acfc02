"""What has to be redacted of what is about to be written."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from trunkline.domain.redaction import Redactor, redactor
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def of(
    connection: Connection, tenant_id: UUID, store_id: UUID | None, agents: Sequence[UUID] = ()
) -> Redactor | None:
    """Return what redacts texts that these agents write, or that are written into a store; None: nothing is asked."""
    cursor = await connection.execute(queries("redaction")["select_redaction"], (tenant_id, list(agents), store_id))
    row = await cursor.fetchone()
    return None if row is None else redactor(row["wanted"])
