"""OpenAI's conversations: a second face of sessions. `conv_…` has the digits of the session's id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import JSONResponse

from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import once
from trunkline.api.memory_caller import UserId
from trunkline.domain import ids
from trunkline.domain.conversations import (
    ITEM_TYPES,
    ConversationRequest,
    ConversationUpdate,
    ItemsRequest,
    event_id_of,
    item_id,
    item_to_wire,
    to_wire,
)
from trunkline.domain.events import Event
from trunkline.domain.sessions import AgentReference, SessionRequest
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest
from trunkline.store import conversations, events, sessions
from trunkline.store.events import EventFilter
from trunkline.store.launches import launch

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])


@router.post("")
async def create(
    request: Request,
    given: ConversationRequest,
    caller: Manager,
    *,
    agent: Annotated[str | None, Header(alias="x-trunkline-agent")] = None,
    user: Annotated[UserId | None, Header(alias="x-trunkline-user")] = None,
) -> JSONResponse:
    """Begin a conversation with an agent: the key's own, or the one that the header names, by its name or id."""
    bound = caller.principal.agent_id
    named = agent or (None if bound is None else ids.encode("agent", bound))
    if named is None:
        raise InvalidRequest(
            "With which agent? Name it in the header x-trunkline-agent (`default_headers` of the client), or use a key "
            "that is for one agent.",
            param="x-trunkline-agent",
        )

    async def act() -> dict[str, Any]:
        asked = SessionRequest(agent=AgentReference(id=named), user_id=user, metadata=given.metadata or {})
        session = await launch(caller.connection, caller.principal, asked, wake=None)
        if given.items:
            await conversations.add(caller.connection, caller.principal, session, given.items)
        return to_wire(await sessions.get(caller.connection, caller.principal, session))

    return JSONResponse(await _once(request, caller, act))


@router.get("/{conversation_id}")
async def retrieve(conversation_id: str, caller: Manager) -> JSONResponse:
    """Get a conversation."""
    session = ids.decode("conv", conversation_id)
    return JSONResponse(to_wire(await sessions.get(caller.connection, caller.principal, session)))


@router.post("/{conversation_id}")
async def update(request: Request, conversation_id: str, given: ConversationUpdate, caller: Manager) -> JSONResponse:
    """Give a conversation other metadata."""
    session = ids.decode("conv", conversation_id)

    async def act() -> dict[str, Any]:
        head = await sessions.lock(caller.connection, caller.principal, session)
        tenant = caller.principal.tenant_id
        await sessions.update(caller.connection, tenant, session, title=head.title, metadata=given.metadata, at=now())
        return to_wire(await sessions.get(caller.connection, caller.principal, session))

    return JSONResponse(await _once(request, caller, act))


@router.delete("/{conversation_id}")
async def delete(conversation_id: str, caller: Manager) -> JSONResponse:
    """Delete a conversation: the session with its events, and what recall kept of them."""
    session = ids.decode("conv", conversation_id)
    await sessions.delete(caller.connection, caller.principal, session)
    return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post("/{conversation_id}/items")
async def add_items(request: Request, conversation_id: str, given: ItemsRequest, caller: Manager) -> JSONResponse:
    """Add messages at the end of a conversation, all or none. Nobody answers them: the next response does."""
    session = ids.decode("conv", conversation_id)

    async def act() -> dict[str, Any]:
        added = await conversations.add(caller.connection, caller.principal, session, given.items)
        return _listed(added, more=False) | {"first": added[0].seq, "count": len(added)}

    async def recall(kept: dict[str, Any]) -> dict[str, Any]:
        wanted = EventFilter(ITEM_TYPES)
        found = await events.page(
            caller.connection, caller.principal, session, wanted, after=kept["first"] - 1, limit=kept["count"]
        )
        return _listed(found, more=False)

    answer = await once(
        request, caller, act, keep=lambda answer: {name: answer[name] for name in ("first", "count")}, recall=recall
    )
    return JSONResponse({name: value for name, value in answer.items() if name not in ("first", "count")})


@router.get("/{conversation_id}/items")
async def list_items(
    conversation_id: str,
    caller: Manager,
    *,
    after: Annotated[str | None, Query(description="the id of the last item seen")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> JSONResponse:
    """List a conversation's messages, tool calls and their outputs."""
    session = ids.decode("conv", conversation_id)
    await sessions.head(caller.connection, caller.principal, session)
    seen = None
    if after is not None:
        seen = (await conversations.find(caller.connection, caller.principal, session, event_id_of(after))).seq
    found = await events.page(
        caller.connection,
        caller.principal,
        session,
        EventFilter(ITEM_TYPES),
        after=seen,
        limit=limit + 1,
        newest_first=order == "desc",
    )
    return JSONResponse(_listed(found[:limit], more=len(found) > limit))


@router.get("/{conversation_id}/items/{item_id}")
async def retrieve_item(conversation_id: str, item_id: str, caller: Manager) -> JSONResponse:
    """Get an item."""
    session = ids.decode("conv", conversation_id)
    return JSONResponse(
        item_to_wire(await conversations.find(caller.connection, caller.principal, session, event_id_of(item_id)))
    )


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_item(conversation_id: str, item_id: str, caller: Manager) -> JSONResponse:
    """Delete an item for good, and return the conversation."""
    session = ids.decode("conv", conversation_id)
    await conversations.remove(caller.connection, caller.principal, session, event_id_of(item_id))
    return JSONResponse(to_wire(await sessions.get(caller.connection, caller.principal, session)))


async def _once(request: Request, caller: Caller, act: Any) -> dict[str, Any]:
    """Carry out `act` once; a repetition is answered with the conversation as it is then."""

    async def recall(kept: dict[str, Any]) -> dict[str, Any]:
        session = ids.decode("conv", kept["id"])
        return to_wire(await sessions.get(caller.connection, caller.principal, session))

    return await once(request, caller, act, keep=lambda answer: {"id": answer["id"]}, recall=recall)


def _listed(found: list[Event], *, more: bool) -> dict[str, Any]:
    """Return OpenAI's list. It has the ids of the first and the last, empty where there is none."""
    return {
        "object": "list",
        "data": [item_to_wire(event) for event in found],
        "first_id": item_id(found[0]) if found else "",
        "last_id": item_id(found[-1]) if found else "",
        "has_more": more,
    }
