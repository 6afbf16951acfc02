"""Recall: passages of earlier turns that answer a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from trunkline.domain.memory import AgentMemory, AttachedStore, Passage, Subject, store_owner
from trunkline.domain.memory_tool import ROOT
from trunkline.memory.embedders.queries import QueryVector
from trunkline.memory.render import escape
from trunkline.store import embedding, memories, memory_stores, passages
from trunkline.store.pool import Connection

MAX_PASSAGES: Final = 100
ATTACHED_TOKENS: Final = 1000
"""Of passages of all attached stores together, but at least 100 of each."""
FILES: Final = 5
"""Files of attached stores that are shown, an excerpt of each."""
WORDS: Final = QueryVector()
"""Search by words alone."""


async def recall(
    connection: Connection,
    tenant_id: UUID,
    agent: AgentMemory,
    subject: Subject,
    query: str,
    *,
    limit: int = 10,
    token_budget: int = 2000,
    by: QueryVector = WORDS,
) -> list[Passage]:
    """Return passages of earlier turns of the subject with the agent, best first.

    `by` is the query's vector, where there is one. A user's turns lie together, whatever the session; those of the
    session going on are left out, for they are in the prompt. Without a user, only the session itself is searched.
    Raises InvalidRequest when the subject names neither.
    """
    store_id = await store_of_turns(connection, tenant_id, agent, subject)
    if store_id is None:
        return []
    return await passages.recall(
        connection,
        tenant_id,
        store_id,
        query,
        limit=limit,
        token_budget=token_budget,
        exclude_session=None if subject.user_id is None else subject.session_id,
        embedding=by.vector,
        model=by.model,
    )


async def model_of_turns(connection: Connection, tenant_id: UUID, agent: AgentMemory, subject: Subject) -> str | None:
    """Return the model by whose embeddings the subject's turns are searched; None: there are none.

    Raises InvalidRequest when the subject names neither user nor session.
    """
    store_id = await store_of_turns(connection, tenant_id, agent, subject)
    return None if store_id is None else await embedding.model_of_store(connection, tenant_id, store_id)


async def recall_attached(
    connection: Connection, tenant_id: UUID, stores: Sequence[AttachedStore], query: str, *, limit: int
) -> list[str]:
    """Return what attached stores say to a query, as the model reads it: passages, then files, by their words."""
    if not stores:
        return []
    lines = []
    budget = max(100, ATTACHED_TOKENS // len(stores))
    for store in stores:
        found = await passages.recall(connection, tenant_id, store.id, query, limit=limit, token_budget=budget)
        lines += [f"- [{store.name}] {_one_line(passage.content)}" for passage in found]
    files = await memories.search(connection, tenant_id, stores, query, limit=min(limit, FILES))
    return lines + [f"- [{ROOT}/{name}{escape(path)}] {_one_line(excerpt)}" for name, path, excerpt in files]


async def store_of_turns(connection: Connection, tenant_id: UUID, agent: AgentMemory, subject: Subject) -> UUID | None:
    """Return the store of the turns that the agent recalls for a subject: the user's, or without one the session's.

    None: nothing was kept yet. Raises InvalidRequest when the subject names neither.
    """
    owner = store_owner("session" if subject.user_id is None else "user", agent.agent_id, subject)
    return await memory_stores.find_managed(connection, tenant_id, owner)


def listed(found: Sequence[Passage]) -> str:
    """Return passages as the model reads them, one a line: `- [2026-11-20 user] text`."""
    return "\n".join(
        f"- [{passage.created_at:%Y-%m-%d} {passage.role}] {_one_line(passage.content)}" for passage in found
    )


def _one_line(text: str) -> str:
    return escape(" ".join(text.split()))
