"""The next prompt of a session, as a worker would ask for its answer now: read from the log, without a claim."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.runtime import compaction
from trunkline.runtime.context import Conversation
from trunkline.runtime.model import encoded, request
from trunkline.runtime.tools.toolbox import custom_offers
from trunkline.store import leases
from trunkline.store.leases import Lease
from trunkline.store.pool import Connection

_PAGE: Final = 1000


async def next_prompt(connection: Connection, tenant_id: UUID, session_id: UUID) -> bytes:
    """Return the JSON of `GET /v1/sessions/{id}/context`, for the gateway to put memory into. Raises LeaseLost."""
    lease = Lease(tenant_id, session_id, fence=0)  # of no claim: nothing is appended
    task = await leases.task(connection, lease)
    conversation = Conversation(self_hosted=task.self_hosted)
    seen = 0
    while page := await leases.log(connection, lease, after=seen, limit=_PAGE):
        for event in page:
            conversation.add(event)
        seen = page[-1].seq
    asks = conversation.wants_model
    conversation.take_up()
    by = compaction.rules(task.definition)
    kept_from = compaction.due(conversation, by)
    if kept_from is not None:
        conversation.kept_from = kept_from
    declared = task.definition["tools"]
    custom = custom_offers(tool for tool in declared if tool["type"] == "custom")
    messages = compaction.shown(conversation, by)
    return encoded(
        {
            "type": "session_context",
            "session_id": ids.encode("sesn", session_id),
            "agent": {"id": ids.encode("agent", task.agent_id), "version": task.agent_version},
            "user_id": task.user_id,
            "asks_model": asks,
            "compaction": _compaction(conversation, by, is_due=kept_from is not None),
            "tools_of_worker": [_of_worker(tool) for tool in declared if tool["type"] != "custom"],
            "request": request(task.definition["name"], task.user_id, messages, custom),
            "memory": None,
            "upstream": None,
        }
    )


def _compaction(conversation: Conversation, by: compaction.Rules | None, *, is_due: bool) -> dict[str, Any] | None:
    """Tell with which event the prompt begins; None: with the first. `summary`: whether one is shown of those before.

    `is_due`: the log does not say so yet, the turn will; before it a summary is made, where the agent wants one.
    """
    if by is None or conversation.kept_from == 0:
        return None
    summary = None
    if by.budget.summary_model is not None:
        summary = "due" if is_due else "made" if conversation.summary is not None else None
    return {"kept_from_seq": conversation.kept_from, "is_due": is_due, "summary": summary}


def _of_worker(toolset: dict[str, Any]) -> dict[str, Any]:
    """Name a set of tools that only the worker knows: its sandbox describes them, or a server does."""
    return {key: toolset[key] for key in ("type", "mcp_server_name") if key in toolset}
