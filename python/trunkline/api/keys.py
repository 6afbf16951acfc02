"""API keys. A key's text is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.keys import Key, KeyRequest, digest, hint, new_text
from trunkline.domain.principal import SCOPES
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, InvalidRequest
from trunkline.store import agents, keys

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("")
async def create(request: Request, given: KeyRequest, caller: Manager) -> JSONResponse:
    """Make a key; its text is in this answer and nowhere else. It may do no more than the key that makes it."""

    async def act() -> dict[str, Any]:
        allowed = await _allowed(caller, given)
        text = new_text()
        key = Key(id=ids.new(), hint=hint(text), created_at=now(), **allowed)
        await keys.create(caller.connection, caller.principal.tenant_id, key, digest(text))
        return {**key.to_wire(), "key": text}

    answer = await once(request, caller, act, keep=lambda answer: answer | {"key": None})
    if answer["key"] is None:
        raise Conflict(
            f"This request made the key {answer['id']} before, and its text is shown only once. If it was lost, "
            "revoke that key and make another with a new idempotency key.",
            param="idempotency-key",
            code="shown_once",
            details={"key_id": answer["id"]},
        )
    return JSONResponse(answer)


@router.get("")
async def list_keys(
    caller: Manager, limit: Annotated[int, Query(ge=1, le=100)] = 20, page: str | None = None
) -> JSONResponse:
    """List keys, revoked ones included, newest first, with what each has spent."""
    found = await keys.page(caller.connection, caller.principal, paging.read_time(page), limit + 1)
    return JSONResponse(paging.page(found, limit, Key.to_wire, lambda key: paging.at_time(key.created_at, key.id)))


@router.get("/{key_id}")
async def retrieve(key_id: str, caller: Manager) -> JSONResponse:
    """Get a key, without its text."""
    return JSONResponse((await keys.get(caller.connection, caller.principal, ids.decode("key", key_id))).to_wire())


@router.delete("/{key_id}")
async def revoke(key_id: str, caller: Manager) -> JSONResponse:
    """Revoke a key: from now on it opens nothing. A key cannot revoke itself."""
    found = ids.decode("key", key_id)
    if found == caller.principal.key_id:
        raise Conflict("A key cannot revoke itself; use another key with the scope 'manage'.", code="own_key")
    return JSONResponse((await keys.revoke(caller.connection, caller.principal, found, now())).to_wire())


async def _allowed(caller: Caller, given: KeyRequest) -> dict[str, Any]:
    """Return what the new key is to be. Raises Forbidden where it would reach further than the caller's."""
    principal = caller.principal
    if excess := sorted(given.scopes - principal.scopes):
        raise Forbidden(
            f"The key {principal.key_name!r} lacks the scope '{excess[0]}' and cannot give it to another key.",
            param="scopes",
            code="missing_scope",
        )
    agent_id = principal.agent_id
    if given.agent_id is not None:
        agent = await agents.get(caller.connection, principal, given.agent_id)
        if agent.archived_at is not None:
            raise InvalidRequest("The agent is archived; keys are made for agents in use.", param="agent_id")
        agent_id = agent.id
    elif agent_id is not None:
        raise Forbidden(
            "The key may act for one agent only; give that `agent_id` to the new key too.", param="agent_id"
        )
    own = await keys.get(caller.connection, principal, principal.key_id)
    for limit in ("budget_usd", "rpm", "expires_at"):
        most, asked = getattr(own, limit), getattr(given, limit)
        if most is not None and (asked is None or asked > most):
            raise Forbidden(
                f"The key {principal.key_name!r} has a limit of its own on `{limit}`, which the new key's "
                "must not go beyond.",
                param=limit,
            )
    if own.models is not None and not set(given.models or ("*",)) <= set(own.models):
        raise Forbidden(
            f"The key {principal.key_name!r} may ask for {', '.join(own.models)} only; give `models` out of these.",
            param="models",
        )
    return {
        "name": given.name,
        "scopes": tuple(scope for scope in SCOPES if scope in given.scopes),
        "agent_id": agent_id,
        "models": given.models,
        "budget_usd": given.budget_usd,
        "rpm": given.rpm,
        "expires_at": given.expires_at,
        "revoked_at": None,
    }
