"""What waits for its embedding, and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class Claimed:
    """A passage that was taken to be embedded; `token` tells this time of taking it from a later one."""

    tenant_id: UUID
    store_id: UUID
    place: int
    token: datetime
    content: str


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How far a store is. `next_model` is the one that is embedded by, where another is still searched by."""

    store_id: UUID
    model: str | None
    next_model: str | None
    passages: int
    embedded: int
    waiting: int
    failing: int
    fault: str | None
    message: str | None
    indexed: bool


async def configure(connection: Connection, model: str | None) -> None:
    """Say which model passages are embedded by from now on; None: none, and nothing waits any more."""
    await connection.execute(queries("embedding")["configure"], (model,))


async def survey(connection: Connection, stores: int) -> int:
    """Queue what is without an embedding in the next so many stores; returns how many there were."""
    return await _number(connection, "survey", stores)


async def survey_again(connection: Connection) -> None:
    """Have all stores looked through again."""
    await connection.execute(queries("embedding")["survey_again"])


async def claim(connection: Connection, limit: int, seconds: float) -> list[Claimed]:
    """Take passages of one tenant for so long; after that they are anybody's again."""
    cursor = await connection.execute(queries("embedding")["claim"], (limit, seconds))
    return [Claimed(**row) for row in await cursor.fetchall()]


async def store(
    connection: Connection,
    tenant_id: UUID,
    model: str,
    claimed: Sequence[Claimed],
    vectors: Sequence[Sequence[float]],
    *,
    retry_seconds: float,
) -> int:
    """Store a vector of unit length for each passage; returns how many have not the length of their store's others.

    What was deleted or rewritten meanwhile is left as it is. Those that do not fit are tried again later.
    """
    texts = ["[" + ",".join(f"{number:.6g}" for number in vector) + "]" for vector in vectors]
    values = (tenant_id, model, *_columns(claimed), texts, retry_seconds)
    cursor = await connection.execute(queries("embedding")["store"], values)
    row = await cursor.fetchone()
    return int(row["misfits"]) if row else 0


async def put_back(
    connection: Connection,
    tenant_id: UUID,
    claimed: Sequence[Claimed],
    fault: str,
    message: str,
    *,
    least_seconds: float,
    most_seconds: float,
) -> None:
    """Leave passages for later: longer after each failure, within these bounds."""
    values = (tenant_id, *_columns(claimed), fault, message, least_seconds, most_seconds)
    await connection.execute(queries("embedding")["put_back"], values)


async def switch(connection: Connection) -> int:
    """Have complete stores searched by the configured model; returns how many were switched."""
    return await _number(connection, "switch")


async def delete_old(connection: Connection, limit: int) -> int:
    """Delete embeddings that no search uses nor will; returns how many."""
    await connection.execute(queries("embedding")["set_lock_timeout"])
    return await _number(connection, "delete_old", limit)


async def shelve(connection: Connection, above: int, limit: int) -> bool:
    """Go on with the index of a store with more than `above` embeddings; tells whether there was anything to do."""
    await connection.execute(queries("embedding")["set_lock_timeout"])
    return bool(await _number(connection, "shelve", above, limit))


async def status(connection: Connection, tenant_id: UUID, store_id: UUID | None = None) -> list[StoreStatus]:
    """Return how far the stores of a tenant are that hold embeddings or wait for some; None: all of them."""
    cursor = await connection.execute(queries("embedding")["status"], (tenant_id, store_id))
    return [StoreStatus(**row) for row in await cursor.fetchall()]


async def embed_again(connection: Connection, tenant_id: UUID, store_id: UUID) -> int:
    """Drop a store's embeddings and queue its passages; returns how many."""
    return await _number(connection, "embed_again", tenant_id, store_id)


async def model_of_store(connection: Connection, tenant_id: UUID, store_id: UUID) -> str | None:
    """Return the model whose embeddings a store is searched by; None: it has none."""
    cursor = await connection.execute(queries("embedding")["model_of_store"], (tenant_id, store_id))
    row = await cursor.fetchone()
    return None if row is None else row["embedding_model"]


def _columns(claimed: Sequence[Claimed]) -> tuple[list[UUID], list[int], list[datetime]]:
    return (
        [passage.store_id for passage in claimed],
        [passage.place for passage in claimed],
        [passage.token for passage in claimed],
    )


async def _number(connection: Connection, statement: str, *values: object) -> int:
    cursor = await connection.execute(queries("embedding")[statement], values)
    row = await cursor.fetchone()
    return int(next(iter(row.values()))) if row else 0
