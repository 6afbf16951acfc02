"""Embedding in the background: what was written is found by its words at once, and by its meaning a moment later.

Several workers may do this at once. A passage is taken for a while, embedded with no connection held, and stored; what
goes wrong leaves it in the queue, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from trunkline.errors import Unavailable
from trunkline.memory.embedders import Embedder, EmbeddingFailed, Vector
from trunkline.store import embedding
from trunkline.store.embedding import Claimed
from trunkline.store.pool import Database

_logger = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""Requests under way at once in one process."""
CLAIM_SECONDS: Final = 60.0
"""How long a batch may take before another worker takes it too."""
POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 600.0
"""The longest pause between two tries. The first is a second, each further one twice as long."""
BROKEN_SECONDS: Final = 60.0
"""The shortest pause after an answer that will not be better in a second."""
SIGNS_UP_TO: Final = 10_000
"""Stores with more embeddings are searched by an HNSW index of their own; see decision 34."""
MOVE: Final = 500
SURVEY: Final = 50
DELETE: Final = 5_000


async def run(database: Database, embedder: Embedder, *, batch: int) -> None:
    """Embed what waits, and keep up the sets of embeddings, until cancelled. `batch`: passages in one request."""
    await configure(database, embedder.model)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(_embed_all(database, embedder, batch))
        tasks.create_task(_keep_up(database))


async def configure(database: Database, model: str | None) -> None:
    """Say which model passages are embedded by, as soon as the database answers; None: none, and nothing waits."""
    while True:
        try:
            async with database.transaction() as connection:
                await embedding.configure(connection, model)
            return
        except Unavailable as error:
            _logger.info("embedding begins after: %s", error)
            await asyncio.sleep(POLL_SECONDS)


async def survey_again(database: Database) -> None:
    """Look through all stores for passages that no queue holds: made up for what a change of embedder ran past."""
    async with database.transaction() as connection:
        await embedding.survey_again(connection)


async def embed_batch(database: Database, embedder: Embedder, batch: int) -> int:
    """Take one batch, embed and store it; returns how many passages were taken. Raises Unavailable."""
    async with database.transaction() as connection:
        claimed = await embedding.claim(connection, batch, CLAIM_SECONDS)
    if claimed:
        await _embed(database, embedder, claimed)
    return len(claimed)


async def _embed(database: Database, embedder: Embedder, claimed: Sequence[Claimed]) -> None:
    """Embed and store passages of one tenant. What the embedder does not take is looked for among them."""
    tenant_id = claimed[0].tenant_id
    try:
        vectors = await embedder.embed(tenant_id, [passage.content for passage in claimed])
    except EmbeddingFailed as failed:
        if failed.fault != "unavailable" and len(claimed) > 1 and await _works(embedder, tenant_id):
            half = len(claimed) // 2
            await _embed(database, embedder, claimed[:half])
            await _embed(database, embedder, claimed[half:])
            return
        passes = failed.fault == "unavailable"
        _logger.warning("%d passages are embedded later: %s: %s", len(claimed), failed.fault, failed.message)
        async with database.tenant(tenant_id) as connection:
            await embedding.put_back(
                connection,
                tenant_id,
                claimed,
                failed.fault,
                failed.message,
                least_seconds=(failed.retry_after_s or 0.0) if passes else BROKEN_SECONDS,
                most_seconds=RETRY_SECONDS,
            )
        return
    await _store(database, embedder.model, claimed, vectors)


async def _works(embedder: Embedder, tenant_id: UUID) -> bool:
    """Tell whether the embedder takes the plainest text: else it is broken, not one of the texts."""
    try:
        await embedder.embed(tenant_id, ["text"])
    except EmbeddingFailed:
        return False
    return True


async def _store(database: Database, model: str, claimed: Sequence[Claimed], vectors: Sequence[Vector]) -> None:
    tenant_id = claimed[0].tenant_id
    async with database.tenant(tenant_id) as connection:
        misfits = await embedding.store(connection, tenant_id, model, claimed, vectors, retry_seconds=RETRY_SECONDS)
    if misfits:
        _logger.warning("%d embeddings by %s do not have the dimension of their store's others", misfits, model)


async def _embed_all(database: Database, embedder: Embedder, batch: int) -> None:
    while True:
        try:
            taken = await embed_batch(database, embedder, batch)
        except Unavailable as error:
            _logger.info("embedding goes on after: %s", error)
            taken = 0
        if taken == 0:
            await asyncio.sleep(POLL_SECONDS)


async def keep_up(database: Database) -> bool:
    """Carry each of the slow things on by a step; tells whether there was anything to do. Raises Unavailable."""
    async with database.transaction() as connection:
        surveyed = await embedding.survey(connection, SURVEY)
    async with database.transaction() as connection:
        switched = await embedding.switch(connection)
    async with database.transaction() as connection:
        deleted = await embedding.delete_old(connection, DELETE)
    async with database.transaction() as connection:
        shelved = await embedding.shelve(connection, SIGNS_UP_TO, MOVE)
    if switched:
        _logger.info("%d stores are searched by the embeddings of another model now", switched)
    return bool(surveyed or switched or deleted or shelved)


async def _keep_up(database: Database) -> None:
    while True:
        try:
            more = await keep_up(database)
        except Unavailable as error:
            _logger.info("keeping up embeddings goes on after: %s", error)
            more = False
        if not more:
            await asyncio.sleep(POLL_SECONDS)
