"""API keys. A key's text is shown once, when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import idempotent, once
from trunkline.domain import ids
from trunkline.domain.grants import StoreGrant, Stores
from trunkline.domain.keys import Key, KeyChange, KeyRequest, digest, hint, new_text
from trunkline.domain.limits import Limits
from trunkline.domain.principal import SCOPES
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, InvalidRequest
from trunkline.store import agents, keys, memory_stores, teams

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("")
async def create(request: Request, given: KeyRequest, caller: Manager) -> JSONResponse:
    """Make a key; its text is in this answer and nowhere else. It may do no more than the key that makes it."""

    async def act() -> dict[str, Any]:
        text = new_text()
        key = await _allowed(caller, given, text)
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


@router.post("/{key_id}")
@idempotent()
async def update(key_id: str, given: KeyChange, caller: Manager) -> JSONResponse:
    """Change a key's name, models, stores, tools, end, limits or `store_bodies`; calls see it at once.

    It may get no further than the caller's key.
    """
    connection, principal = caller.connection, caller.principal
    before = await keys.get(connection, principal, ids.decode("key", key_id))
    if before.revoked_at is not None:
        raise Conflict("The key is revoked; make another.", code="revoked")
    asked = {name: getattr(given, name) for name in given.model_fields_set}
    if asked.get("name") == "":
        raise InvalidRequest("A key's name has at least one character.", param="name")
    amounts = {name: asked.pop(name) for name in list(asked) if name in _AMOUNTS}
    if "users" in asked:
        asked["users"] = None if given.users is None else given.users.limits()
    if "stores" in asked:
        asked["stores"] = await _stores(caller, given.stores)
    after = replace(before, **asked, limits=replace(before.limits, **amounts))
    _within(await keys.get(connection, principal, principal.key_id), after)
    await keys.change(connection, principal.tenant_id, after, now())
    return JSONResponse((await keys.get(connection, principal, after.id)).to_wire())


@router.delete("/{key_id}")
async def revoke(key_id: str, caller: Manager) -> JSONResponse:
    """Revoke a key: from now on it opens nothing. A key cannot revoke itself."""
    found = ids.decode("key", key_id)
    if found == caller.principal.key_id:
        raise Conflict("A key cannot revoke itself; use another key with the scope 'manage'.", code="own_key")
    return JSONResponse((await keys.revoke(caller.connection, caller.principal, found, now())).to_wire())


_AMOUNTS = tuple(field.name for field in fields(Limits) if field.name not in ("models", "expires_at"))


async def _allowed(caller: Caller, given: KeyRequest, text: str) -> Key:
    """Return the new key. Raises Forbidden where it would reach further than the caller's."""
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
    team_id = own.team_id
    if given.team_id is not None and agent_id == principal.agent_id and principal.agent_id is not None:
        raise Forbidden("A key for one agent cannot choose a team for another key.", param="team_id")
    if given.team_id is not None:
        team = await teams.get(caller.connection, principal, given.team_id)
        if team.archived_at is not None:
            raise InvalidRequest("The team was ended; keys are made for teams in use.", param="team_id")
        team_id = team.id
    key = Key(
        id=ids.new(),
        name=given.name,
        hint=hint(text),
        scopes=tuple(scope for scope in SCOPES if scope in given.scopes),
        created_at=now(),
        agent_id=agent_id,
        team_id=team_id,
        user_id=given.user_id or own.user_id,
        models=given.models,
        store_bodies=own.store_bodies if given.store_bodies is None else given.store_bodies,
        expires_at=given.expires_at,
        limits=Limits(**{name: getattr(given, name) for name in _AMOUNTS}),
        users=None if given.users is None else given.users.limits(),
        stores=await _stores(caller, given.stores),
        tools=given.tools,
    )
    _within(own, key)
    return key


async def _stores(caller: Caller, grants: Sequence[StoreGrant] | None) -> Stores | None:
    """Return what is granted. Raises NotFound for a store that is not there, or not for the caller's key."""
    if grants is None:
        return None
    stores = Stores.of(grants)
    for store_id in stores.by_id:
        await memory_stores.get(caller.connection, caller.principal, store_id)
    return stores


def _within(own: Key, key: Key) -> None:
    """Raise Forbidden where `key` would reach further than `own`, the caller's key."""

    def beyond(limit: str) -> Forbidden:
        return Forbidden(
            f"The key {own.name!r} has a limit of its own on `{limit}`, which the other key's must not go beyond.",
            param=limit,
        )

    for limit in ("team_id", "user_id", "store_bodies"):
        if getattr(own, limit) not in (None, getattr(key, limit)):
            raise beyond(limit)
    for limit in ("budget_usd", "rpm", "tpm", "parallel"):
        most, asked = getattr(own.limits, limit), getattr(key.limits, limit)
        if most is not None and (asked is None or asked > most):
            raise beyond(limit)
    if own.limits.budget_usd is not None and own.limits.budget_period != key.limits.budget_period:
        raise beyond("budget_period")
    if own.expires_at is not None and (key.expires_at is None or key.expires_at > own.expires_at):
        raise beyond("expires_at")
    if own.models is not None and not set(key.models or ("*",)) <= set(own.models):
        raise Forbidden(
            f"The key {own.name!r} may ask for {', '.join(own.models)} only; give `models` out of these.",
            param="models",
        )
    if own.stores is not None and (key.stores is None or not key.stores.within(own.stores)):
        raise beyond("stores")
    if own.tools is not None and (key.tools is None or not set(key.tools) <= set(own.tools)):
        raise beyond("tools")
    if own.users is not None and own.users != key.users:
        raise beyond("users")
