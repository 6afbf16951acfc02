"""Files: their bytes in pieces, each read in a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.files import File
from trunkline.domain.principal import Principal
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

PIECE_BYTES: Final = 512 * 1024
"""Every piece but a file's last has this size."""


async def create(connection: Connection, tenant_id: UUID, file: File) -> None:
    """Write a file without its bytes."""
    values = (
        tenant_id,
        file.id,
        file.agent_id,
        file.session_id,
        file.filename,
        file.mime_type,
        file.size_bytes,
        file.created_at,
        file.expires_at,
    )
    await connection.execute(queries("files")["insert_file"], values)


async def add_piece(connection: Connection, tenant_id: UUID, file_id: UUID, position: int, piece: bytes) -> None:
    """Write the piece at `position`, counted from 0."""
    await connection.execute(queries("files")["insert_piece"], (tenant_id, file_id, position, piece))


async def there(
    connection: Connection, principal: Principal, file_ids: Sequence[UUID], at: datetime
) -> dict[UUID, File]:
    """Return those of these files that exist, are not past their time, and that the key may use."""
    cursor = await connection.execute(
        queries("files")["select_files"], (principal.tenant_id, principal.agent_id, list(file_ids), at)
    )
    return {row["id"]: File(**row) for row in await cursor.fetchall()}


async def get(connection: Connection, principal: Principal, file_id: UUID, at: datetime) -> File:
    """Return a file. Raises NotFound."""
    found = (await there(connection, principal, [file_id], at)).get(file_id)
    if found is None:
        raise _not_found(file_id)
    return found


async def piece(connection: Connection, tenant_id: UUID, file_id: UUID, position: int) -> bytes | None:
    """Return the piece at `position`; None past the end, and once the file is gone."""
    cursor = await connection.execute(queries("files")["select_piece"], (tenant_id, file_id, position))
    row = await cursor.fetchone()
    return None if row is None else bytes(row["bytes"])


async def page(
    connection: Connection,
    principal: Principal,
    after: tuple[datetime, UUID] | None,
    limit: int,
    *,
    session_id: UUID | None,
    file_ids: Sequence[UUID] | None,
    at: datetime,
) -> list[File]:
    """Return up to `limit` files, newest first, after the position `(created_at, id)`."""
    created_at, file_id = after or (None, None)
    chosen = None if file_ids is None else list(file_ids)
    cursor = await connection.execute(
        queries("files")["list_files"],
        (principal.tenant_id, principal.agent_id, created_at, file_id, session_id, chosen, at, limit),
    )
    return [File(**row) for row in await cursor.fetchall()]


async def delete(connection: Connection, principal: Principal, file_id: UUID) -> None:
    """Delete a file with its bytes. Raises NotFound."""
    cursor = await connection.execute(
        queries("files")["delete_file"], (principal.tenant_id, principal.agent_id, file_id)
    )
    if await cursor.fetchone() is None:
        raise _not_found(file_id)


async def expire(connection: Connection, limit: int) -> int:
    """Delete up to `limit` files of any tenant that are past their time; return how many went."""
    cursor = await connection.execute(queries("files")["expire_files"], (limit,))
    row = await cursor.fetchone()
    return 0 if row is None else int(row["deleted"])


def _not_found(file_id: UUID) -> NotFound:
    return NotFound(f"There is no file {ids.encode('file', file_id)}; GET /v1/files lists those there are.")
