"""Recall: passages of earlier turns that answer a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from trunkline.domain.memory import AgentMemory, Passage, Subject, store_owner
from trunkline.memory.render import escape
from trunkline.store import memory_stores, passages
from trunkline.store.pool import Connection

MAX_PASSAGES: Final = 100


async def recall(
    connection: Connection,
    tenant_id: UUID,
    agent: AgentMemory,
    subject: Subject,
    query: str,
    *,
    limit: int = 10,
    token_budget: int = 2000,
) -> list[Passage]:
    """Return passages of earlier turns of the subject with the agent, best first.

    A user's turns lie together, whatever the session; those of the session going on are left out, for they are in the
    prompt. Without a user, only the session itself is searched. Raises InvalidRequest when the subject names neither.
    """
    user = subject.user_id is not None
    owner = store_owner("user" if user else "session", agent.agent_id, subject)
    store_id = await memory_stores.find_managed(connection, tenant_id, owner)
    if store_id is None:
        return []
    return await passages.recall(
        connection,
        tenant_id,
        store_id,
        query,
        limit=limit,
        token_budget=token_budget,
        exclude_session=subject.session_id if user else None,
    )


def listed(found: Sequence[Passage]) -> str:
    """Return passages as the model reads them, one a line: `- [2026-11-20 user] text`."""
    return "\n".join(
        f"- [{passage.created_at:%Y-%m-%d} {passage.role}] {escape(' '.join(passage.content.split()))}"
        for passage in found
    )
